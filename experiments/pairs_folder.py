"""Representative classes on a folder of photos with a CSV of labels and masks, MobileNetV2.

    python launch.py --config experiments/pairs_folder.py --workdir runs/pairs_folder \
        --config.data.options.root=PHOTOS \
        --config.network.weights=mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5

The folder is laid out as in `minmax_jax/data/folder.py`; every path is an option. `data.classes`
names the classes to take: each must have training photos that show none of the others. Those below
are the objects of MSRC v2, without the materials that surround them. Variants:

  full     every pair is a network of its own, fine-tuned from the weights
  frozen   pairs are heads on the features of the weights, which are computed once

On two CPU cores, shared with other work, both took 21 minutes, nearly all of it for the 91 networks
of `full`. Result (mean IoU at 0.15, percent): Grad-CAM of all classes 51.0; random classes 54.4
(frozen) and 52.2 (full), S-1 54.7 and 52.0. More in docs/pairs.md.
"""

from minmax_jax.config import pairs_config, select_variant


def get_config(variant=None):
    config = pairs_config()
    config.title = "Representative classes: a folder of photos, MobileNetV2"
    config.network.name = "mobilenet_v2"
    config.data.source = "csv"
    config.data.options.root = "."
    config.data.options.train_csv = "train.csv"
    config.data.options.validation_csv = "val.csv"
    config.data.options.images = "images"
    config.data.options.masks = "masks"
    config.data.options.classes = "classes.txt"  # "" for the labels that the CSV files name
    config.data.classes = (
        "cow",
        "sheep",
        "aeroplane",
        "face",
        "car",
        "bicycle",
        "flower",
        "sign",
        "bird",
        "book",
        "chair",
        "cat",
        "dog",
        "boat",
    )
    config.train.batch_size = 16
    config.train.stages = [{"epochs": 8, "learning_rate": 1e-4, "unfrozen": 1.0}]
    # The batch norms of widespread weights are folded into the convolutions, and few photos make
    # poor statistics.
    config.train.frozen_statistics = True
    config.pairs.modes += ("all", "top-1", "top-2", "top-3", "top-4")
    config.variants = {
        "full": {},
        # A head alone learns slowly from nothing, and an epoch of it costs nothing.
        "frozen": {"pairs": {"frozen": True, "learning_rate": 1e-2, "max_epochs": 100}},
    }
    select_variant(config, variant)
    config.lock()
    return config
