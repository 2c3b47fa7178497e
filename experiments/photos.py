"""Photos of one's own, explained by a pretrained network: overlays, contact sheets, maps, a page.

    python launch.py --config experiments/photos.py --workdir runs/photos \
        --config.images='holiday/*.jpg' --config.network.name=mobilenet_v2 \
        --config.network.weights=mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5 \
        --config.names=imagenet_labels.txt --config.methods="('cam','minmax_cam')"

Needs photos and weights with their head; `names` holds the labels' names, one a line. Explained are
the labels above `threshold` of networks with a sigmoid, the `top` three of those with a softmax, or
those named, as by `--config.labels='goldfish,tabby'`. With a softmax the explained labels count as
present: MinMax methods contrast them with each other.

Every photo has a folder `DIR/photos/PHOTO/` with `RANK_LABEL_METHOD.png` at its own resolution,
`contact_sheet.jpg` and `maps.npz` (the raw maps); `DIR/report/index.html` shows all,
`DIR/summary.csv` lists them, `DIR/skipped.json` those that could not be read. A repeated command
explains what is new.

On two CPU cores, MobileNetV2 explains 39 photos of 640 x 480 a second by one method, three labels
each, and ResNet-50 19; by three methods 19 and 12, as nine PNG files a photo cost more than the
network. Of ImageNet's 20 sample photos, MobileNetV2 at 224 px gets 18 right with
`--config.resize=crop` (the centred square, as in training) and 16 with the default "letterbox" (the
whole photo, smaller), which `--config.image_size=256` brings to 18.
"""

from minmax_jax.config import photos_config


def get_config():
    config = photos_config()
    config.lock()
    return config
