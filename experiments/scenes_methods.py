"""Every method on handwritten digits: the wider family side by side on a bare machine, in minutes.

    python launch.py --config experiments/scenes_methods.py --workdir runs/scenes_methods

Takes about 4 minutes on two CPU cores. The plain network of `experiments/scenes.py` is trained
alike; then all methods that suit it explain the validation images, with insertion and deletion
curves beside the other metrics (docs/choose.md).
"""

from minmax_jax.config import default_config, select_variant
from minmax_jax.methods import METHODS


def get_config(variant=None):
    config = default_config()
    config.title = "Scenes: every method on handwritten digits"
    config.network.name = "scenes_resnet"
    config.data.source = "scenes"
    config.data.options.seed = 0
    config.data.train.size = 6000
    config.data.validation.size = 200
    config.train.batch_size = 32
    config.train.stages = [{"epochs": 10, "learning_rate": 0.5, "unfrozen": 1.0}]
    config.train.plateau_patience = 2
    # ACoL's maps need a head of their own.
    config.evaluate.methods = tuple(name for name in METHODS if name != "acol_cam")
    config.evaluate.curve_steps = 10
    config.report.photos = 6
    config.variants = {"plain": {}}
    select_variant(config, variant)
    config.lock()
    return config
