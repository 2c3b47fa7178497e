"""A folder of photos with a CSV of labels, explained with a pretrained MobileNetV2.

    python launch.py --config experiments/folder.py --workdir runs/folder \
        --config.data.options.root=PHOTOS \
        --config.network.weights=mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5

The folder is laid out as in `minmax_jax/data/folder.py`; every path below is an option. Weights are
those of MobileNetV2 in any format of docs/weights.md.

On two CPU cores, 259 training and 134 validation photos of MSRC v2 take 3 to 4 minutes for each
head, and a quarter of an hour more with Score-CAM (1,280 masks a photo); leave it out by
`--config.evaluate.methods="('cam','grad_cam_plus_plus','minmax_cam','d_minmax_cam')"`. Result:
mAP 96.9 plain and 97.2 regularised; energy on the object 58.2 (CAM) and 65.9 (MinMax-CAM) with the
plain head.
"""

from minmax_jax.config import default_config, select_variant


def get_config(variant=None):
    config = default_config()
    config.title = "A folder of photos, MobileNetV2"
    config.network.name = "mobilenet_v2"
    config.network.dropout = 0.5

    config.data.source = "csv"
    config.data.options.root = "."
    config.data.options.train_csv = "train.csv"
    config.data.options.validation_csv = "val.csv"
    config.data.options.images = "images"
    config.data.options.masks = "masks"  # "" if there are none
    config.data.options.classes = "classes.txt"  # "" for the labels that the CSV files name
    config.data.options.on_error = "raise"
    config.augment.horizontal_flip = True

    config.train.batch_size = 16
    # The head first, then, gently, the upper 60 % of the layers with it.
    config.train.stages = [
        {"epochs": 8, "learning_rate": 0.1, "unfrozen": 0.0},
        {"epochs": 12, "learning_rate": 0.003, "unfrozen": 0.6},
    ]
    # The batch norms of widespread weights are folded into the convolutions, and few photos make
    # poor statistics.
    config.train.frozen_statistics = True

    # At the start the regularised kernel is about alpha W / c: with alpha near the number of labels
    # both heads learn at the same rate.
    config.variants = {"plain": {}, "regularised": {"network": {"head": "kur", "alpha": 20.0}}}
    select_variant(config, variant)
    config.lock()
    return config
