"""Representative classes on handwritten digits: the second paper on a bare machine, in minutes.

    python launch.py --config experiments/pairs_scenes.py --workdir runs/pairs_scenes

Takes about 6 minutes on two CPU cores (no accelerator, no download). The data set is the one of
`minmax_jax/data/scenes.py`. There are no pretrained weights for it: pairs start from the network of
all classes. Variants:

  plain   the network of all classes, and every pair of them
  acol    two classifiers, the second on what the first leaves over (Zhang et al. 2018)
  cbam    channel and spatial attention in the residual blocks (Woo et al. 2018)

Result (mean IoU at 0.15, percent): Grad-CAM 17.3, multi-layer 30.8; random classes 13.3 and 24.0,
S-1 12.7 and 22.5; ACoL 10.0, CBAM 14.9. docs/pairs.md says why.
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
    config.report.note = (
        "Why comparison classes do not help here: a classifier of two digits has seen one digit a "
        "scene, and in two thirds of the validation scenes it meets others, on which it lights "
        "up. In scenes of one digit S-1 is above random classes. The network of all classes knows "
        "all ten digits. With photographs of objects it is the other way round: docs/pairs.md."
    )
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
