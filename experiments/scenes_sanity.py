"""Sanity checks on scenes: random layers, and a network that learned permuted labels by heart.

    python launch.py --config experiments/scenes_sanity.py --workdir runs/scenes_sanity \\
        --stages train,sanity

Two networks alike: "plain" learns the scenes of experiments/scenes.py, "permuted" learns a few of
them with their labels exchanged. The page is runs/scenes_sanity/sanity/index.html; docs/sanity.md
tells what came out.
"""

from minmax_jax.config import default_config, select_variant


def get_config(variant=None):
    config = default_config()
    config.title = "scenes"
    config.network.name = "scenes_resnet"
    config.data.source = "scenes"
    config.data.options.seed = 0
    config.data.train.size = 6000
    config.data.validation.size = 500
    config.train.batch_size = 32
    config.train.stages = [{"epochs": 8, "learning_rate": 0.5, "unfrozen": 1.0}]
    config.train.plateau_patience = 2
    config.sanity.permuted = "permuted"
    config.sanity.methods = (
        "grad_cam",
        "grad_cam_plus_plus",
        "score_cam",
        "minmax_grad_cam",
        "d_minmax_grad_cam",
        "layer_cam",
        "relevance_cam",
        "minmax_relevance_cam",
        "ablation_cam",
        "eigen_cam",
        "gradients",
        "minmax_gradients",
        "guided_backpropagation",
        "full_grad",
    )
    config.variants = {
        "plain": {},
        # Few images, many small steps: what nothing explains can only be learned by heart.
        "permuted": {
            "data": {"permute_labels": True, "train": {"size": 192}},
            "train": {
                "batch_size": 16,
                "optimizer": "adam",
                "stages": [{"epochs": 60, "learning_rate": 0.003}],
            },
        },
    }
    select_variant(config, variant)
    config.lock()
    return config
