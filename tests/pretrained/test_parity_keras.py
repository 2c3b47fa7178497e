"""Weights of the Keras applications, legacy and Keras 3 files: same logits and last activations."""

from __future__ import annotations

import functools
import os
from unittest import mock

import h5py
import jax
import numpy as np
import pytest

from minmax_jax.pretrained import load_network

with mock.patch.dict(os.environ, KERAS_BACKEND="jax"):
    keras = pytest.importorskip("keras", reason="keras is not installed")

# Keras' own way to copy a JAX array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LABELS = 5
SIZES = ((64, 64), (97, 75))  # paddings depend on parity
# ours: (Keras' name, the layer of the last activations)
MODELS = {
    "vgg16": ("VGG16", "block5_conv3"),
    "resnet50": ("ResNet50", "conv5_block3_out"),
    "resnet50v2": ("ResNet50V2", "post_relu"),
    "efficientnet_b0": ("EfficientNetB0", "top_activation"),
    "mobilenet_v2": ("MobileNetV2", "out_relu"),
}


def build(name, size):
    """Keras' model at one size: it chooses paddings when it is built. Returns logits, last."""
    application, last = MODELS[name]
    # Initial values are overwritten, and drawing them takes long.
    zeros = mock.patch.object(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: np.zeros(shape, "float32"),
    )
    # Headless and finished here, so that VGG has a head on pooled features like all others.
    with zeros, jax.numpy_rank_promotion("allow"):
        base = getattr(keras.applications, application)(
            include_top=False, weights=None, input_shape=(*size, 3)
        )
        x = base.get_layer(last).output
        pooled = keras.layers.GlobalAveragePooling2D()(x)
        logits = keras.layers.Dense(LABELS, name="predictions")(pooled)
        return keras.Model(base.input, [logits, x])


@functools.lru_cache(maxsize=1)
def foreign(name):
    """Models at both sizes with the same random weights, the statistics not trivial."""
    models = [build(name, size) for size in SIZES]
    rng = np.random.default_rng(0)
    for layers in zip(*(model.layers for model in models), strict=True):
        for weights in zip(*(layer.weights for layer in layers), strict=True):
            first = weights[0]
            shape = first.shape
            if first.name in ("kernel", "depthwise_kernel"):
                depthwise = len(shape) == 4 and "depthwise" in type(layers[0]).__name__.lower()
                fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
                value = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
            elif first.name in ("gamma", "moving_variance"):
                value = rng.uniform(0.5, 1.5, shape)
            elif layers[0].name == "normalization":
                continue  # part of the preprocessing
            else:
                value = rng.normal(0, 0.3, shape)
            for weight in weights:
                weight.assign(np.asarray(value, np.float32))
    return models


def run(model, images):
    with jax.numpy_rank_promotion("allow"):
        trainable = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]
        outputs, _ = jax.jit(model.stateless_call)(trainable, fixed, images)
    return [np.asarray(output) for output in outputs]


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_activations_are_those_of_keras(name, tmp_path):
    models = foreign(name)
    models[0].save_weights(tmp_path / "new.weights.h5")
    with h5py.File(tmp_path / "legacy.h5", "w") as file:
        # What `save_weights` wrote before Keras 3, and what the applications are published in.
        keras.src.legacy.saving.legacy_h5_format.save_weights_to_hdf5_group(file, models[0])
    loaded, legacy = (
        load_network(tmp_path / file, name=name, key=jax.random.key(0))
        for file in ("new.weights.h5", "legacy.h5")
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, legacy.variables)
    network = loaded.network
    assert network.style == "keras" and loaded.has_head and legacy.has_head
    assert bool(loaded.notes) == bool(legacy.notes) == ("efficientnet" in name)  # "normalization"
    apply = jax.jit(network.apply)
    for model, size in zip(models, SIZES, strict=True):
        photos = np.random.default_rng(1).integers(0, 256, (2, *size, 3)).astype(np.uint8)
        images = network.preprocess(photos)
        # Keras' EfficientNet divides by 255 inside and, without published weights, does no more.
        theirs = 255 * images if "efficientnet" in name else images
        logits, last = run(model, theirs)
        ours, activations = apply(loaded.variables, images)
        assert relative_error(activations[network.taps[-1]], last) < 1e-4
        assert relative_error(ours, logits) < 1e-4
