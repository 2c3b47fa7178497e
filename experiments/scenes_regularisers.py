"""Kernel usage regularisation beyond the head of a fixed alpha, on scenes: docs/regulariser.md.

    python launch.py --config experiments/scenes_regularisers.py --workdir runs/scenes_regularisers

Six variants of `experiments/scenes.py`: the head plain or regularised, alpha fixed, learned or
scheduled, and the network's 1x1 convolutions (the shortcuts of two blocks) plain or regularised.
"""

from minmax_jax.config import default_config, select_variant

SHORTCUTS = ("block2_shortcut_conv", "block3_shortcut_conv")


def get_config(variant=None):
    config = default_config()
    config.title = "Kernel usage regularisation beyond the head"
    config.network.name = "scenes_resnet"
    config.network.alpha = 10.0
    config.network.alpha_end = 20.0
    config.network.alpha_steps = 1000  # of 1,870
    config.data.source = "scenes"
    config.data.options.seed = 0
    config.data.train.size = 6000
    config.data.validation.size = 1000
    config.train.batch_size = 32
    config.train.stages = [{"epochs": 10, "learning_rate": 0.5, "unfrozen": 1.0}]
    config.train.plateau_patience = 2
    config.evaluate.methods = ("cam", "minmax_cam", "d_minmax_cam")
    config.variants = {
        "plain": {},
        "kur": {"network": {"head": "kur"}},
        "kur_learned": {"network": {"head": "kur_learned"}},
        "kur_scheduled": {"network": {"head": "kur_scheduled"}},
        "intermediate": {"network": {"regularized": SHORTCUTS}},
        "kur_intermediate": {"network": {"head": "kur", "regularized": SHORTCUTS}},
    }
    select_variant(config, variant)
    config.lock()
    return config
