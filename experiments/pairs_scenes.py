"""Representative classes on handwritten digits: the second paper on a bare machine, in minutes.

    python launch.py --config experiments/pairs_scenes.py --workdir runs/pairs_scenes

No download, no accelerator. The data set is the one of `minmax_jax/data/scenes.py`. There are no
pretrained weights for it: pairs start from the network of all classes. Variants:

  plain   the network of all classes, and every pair of them
  acol    two classifiers, the second on what the first leaves over (Zhang et al. 2018)
  cbam    channel and spatial attention in the residual blocks (Woo et al. 2018)
"""

from minmax_jax.config import pairs_config, select_variant


def get_config(variant=None):
    config = pairs_config()
    config.title = "Representative classes: handwritten digits on photographs"
    config.network.name = "scenes_resnet"
    config.data.source = "scenes"
    config.data.options.seed = 0
    config.data.train.size = 12000
    config.data.validation.size = 500
    config.train.stages = [{"epochs": 12, "learning_rate": 1e-3, "unfrozen": 1.0}]
    config.train.plateau_patience = 3
    config.pairs.single_label = True
    config.pairs.modes += ("all", "top-1", "top-2", "top-3", "top-4")
    config.variants = {
        "plain": {},
        "acol": {
            "network": {"head": "acol"},
            "pairs": {"modes": ()},
            "evaluate": {"methods": ("acol_cam",)},
        },
        "cbam": {
            "network": {"attention": "cbam"},
            "pairs": {"modes": ()},
            "evaluate": {"methods": ("grad_cam",)},
        },
    }
    select_variant(config, variant)
    config.lock()
    return config
