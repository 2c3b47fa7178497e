"""Handwritten digits on photographs: the whole of the paper on a bare machine, in minutes.

    python launch.py --config experiments/scenes.py --workdir runs/scenes

Takes about 5 minutes on two CPU cores (no accelerator, no download). The data set is the one of
`minmax_jax/data/scenes.py`. Result: macro F1 92.8 plain and 93.4 regularised; F1- 4.9 (CAM), 3.7
(MinMax-CAM) and 4.0 (D-MinMax-CAM) with the plain head, 4.4, 3.5 and 3.4 with the regularised one.
"""

from minmax_jax.config import default_config, select_variant


def get_config(variant=None):
    config = default_config()
    config.title = "Scenes: handwritten digits on photographs"
    config.network.name = "scenes_resnet"
    config.data.source = "scenes"
    config.data.options.seed = 0
    config.data.train.size = 6000
    config.data.validation.size = 1000
    config.train.batch_size = 32
    # No pretrained weights: everything is trained at once, in one stage.
    config.train.stages = [{"epochs": 10, "learning_rate": 0.5, "unfrozen": 1.0}]
    config.train.plateau_patience = 2
    config.variants = {"plain": {}, "regularised": {"network": {"head": "kur", "alpha": 10.0}}}
    select_variant(config, variant)
    config.lock()
    return config
