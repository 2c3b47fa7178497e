"""The published weights of MobileNetV2 know what is on photos."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from PIL import Image

from minmax_jax.pretrained import load_network

WEIGHTS = "weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"


def test_real_weights_know_real_photos(real_data):
    loaded = load_network(real_data / WEIGHTS, name="mobilenet_v2", key=jax.random.key(0))
    assert loaded.notes == ()
    network = loaded.network
    paths = sorted((real_data / "imagenet_sample20").glob("*.JPEG"))
    assert len(paths) == 20
    photos = np.stack([centre_crop(path) for path in paths])
    logits, _ = jax.jit(network.apply)(loaded.variables, network.preprocess(photos))
    classes = [int(path.name[:3]) for path in paths]  # the name begins with the class
    assert np.sum(np.argmax(np.asarray(logits), axis=1) == np.asarray(classes)) >= 17


def centre_crop(path: pathlib.Path, shortest: int = 256, side: int = 224) -> np.ndarray:
    with Image.open(path) as photo:
        scale = shortest / min(photo.size)
        size = [round(scale * length) for length in photo.size]
        photo = photo.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(photo.crop((left, top, left + side, top + side)))
