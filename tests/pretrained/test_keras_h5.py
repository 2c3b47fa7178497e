"""The Keras weights file: parity of the logits, every array accounted for, faults named."""

from __future__ import annotations

import os
import pathlib
from unittest import mock

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from minmax_jax.models import create_network
from minmax_jax.pretrained.keras_h5 import load_keras_h5

FOREIGN_LABELS = 11
WEIGHTS = "weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"


def write_legacy(path, layers, suffix=""):
    """Writes `{layer: {array: value}}` as Keras' legacy `save_weights` lays it out."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            names = [f"{layer}/{name}{suffix}" for name in arrays]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, arrays.values(), strict=True):
                group.create_dataset(name, data=value)
    return path


@pytest.fixture(scope="module")
def keras_model():
    """Keras' own MobileNetV2, random weights and statistics, odd and even sides in one image."""
    with mock.patch.dict(os.environ, KERAS_BACKEND="jax"):
        keras = pytest.importorskip("keras")
    zeros = mock.patch.object(
        keras.initializers.GlorotUniform,
        "__call__",
        lambda self, shape, dtype=None: np.zeros(shape),
    )
    with zeros, jax.numpy_rank_promotion("allow"):
        model = keras.applications.MobileNetV2(
            input_shape=(97, 64, 3),
            weights=None,
            classes=FOREIGN_LABELS,
            classifier_activation=None,
        )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                fan_in = np.prod(weight.shape[:2]) if weight.shape[-1] == 1 else None
                fan_in = fan_in or np.prod(weight.shape[:-1])
                value = rng.standard_normal(weight.shape) * np.sqrt(2 / fan_in)
            elif weight.name in ("gamma", "moving_variance"):
                value = rng.uniform(0.5, 1.5, weight.shape)
            else:
                value = rng.normal(0, 0.3, weight.shape)
            weight.assign(value.astype(np.float32))
    return model


@pytest.fixture(scope="module")
def keras_file(keras_model, tmp_path_factory):
    layers = {
        layer.name: {weight.name: np.asarray(weight.value) for weight in layer.weights}
        for layer in keras_model.layers
    }
    return write_legacy(tmp_path_factory.mktemp("keras") / "weights.h5", layers)


def zeros_of(network):
    """Variables of the right shapes without the time that an initialisation takes."""
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)


def test_mobilenet_v2_logits_equal_those_of_keras(keras_model, keras_file):
    network = create_network("mobilenet_v2", num_labels=FOREIGN_LABELS)
    variables, notes = load_keras_h5(keras_file, zeros_of(network))
    assert notes == []
    images = np.random.default_rng(1).uniform(-1, 1, (2, 97, 64, 3)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        trainable = [variable.value for variable in keras_model.trainable_variables]
        fixed = [variable.value for variable in keras_model.non_trainable_variables]
        theirs, _ = jax.jit(keras_model.stateless_call)(trainable, fixed, images)
    ours, _ = jax.jit(network.apply)(variables, images)
    assert np.std(theirs) > 0.1  # logits that say something
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_head_of_our_own_stays_as_it_was(keras_file):
    for options, reason in (
        ({"num_labels": 4}, "the file's head has 11 labels"),
        ({"num_labels": FOREIGN_LABELS, "head": "kur"}, "the file's head is plain, this one is"),
    ):
        network = create_network("mobilenet_v2", **options)
        before = zeros_of(network)
        variables, notes = load_keras_h5(keras_file, before, head=options.get("head", "dense"))
        assert len(notes) == 1 and notes[0].startswith(f"head left as initialised: {reason}")
        assert not np.any(variables["params"]["head"]["kernel"])
        assert np.any(variables["params"]["Conv1"]["kernel"])


@pytest.fixture
def small():
    """A depthwise layer, its normalisation and a head: ours, and the file's arrays for them."""
    ours = {
        "params": {
            "deep": {"kernel": np.zeros((3, 3, 1, 4), np.float32)},
            "norm": {"scale": np.zeros(4, np.float32), "bias": np.zeros(4, np.float32)},
            "head": {"kernel": np.zeros((4, 2), np.float32), "bias": np.zeros(2, np.float32)},
        },
        "batch_stats": {"norm": {"mean": np.zeros(4, np.float32), "var": np.zeros(4, np.float32)}},
    }
    rng = np.random.default_rng(0)
    foreign = {
        "input": {},
        "deep": {"kernel": rng.standard_normal((3, 3, 4, 1))},
        "norm": {
            name: rng.standard_normal(4)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        },
        "predictions": {"kernel": rng.standard_normal((4, 2)), "bias": rng.standard_normal(2)},
    }
    return ours, foreign


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_every_array_finds_its_place(small, tmp_path, suffix):
    ours, foreign = small
    if suffix:  # as older versions name it
        foreign["deep"] = {"depthwise_kernel": foreign["deep"]["kernel"]}
    got, notes = load_keras_h5(write_legacy(tmp_path / "w.h5", foreign, suffix), ours)
    assert notes == []
    kernel = next(iter(foreign["deep"].values()))
    want = {
        "params": {
            "deep": {"kernel": kernel.transpose(0, 1, 3, 2)},
            "norm": {"scale": foreign["norm"]["gamma"], "bias": foreign["norm"]["beta"]},
            "head": foreign["predictions"],
        },
        "batch_stats": {
            "norm": {
                "mean": foreign["norm"]["moving_mean"],
                "var": foreign["norm"]["moving_variance"],
            }
        },
    }
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
    assert all(isinstance(value, jnp.ndarray) for value in jax.tree.leaves(got))
    assert not np.any(ours["params"]["deep"]["kernel"])  # the argument is left alone


def test_a_file_without_head_is_noted(small, tmp_path):
    ours, foreign = small
    del foreign["predictions"]
    _, notes = load_keras_h5(write_legacy(tmp_path / "w.h5", foreign), ours)
    assert notes == ["head left as initialised: the file has no head."]


def test_every_misfit_is_named_in_one_line(small, tmp_path):
    ours, foreign = small
    del foreign["norm"]["moving_mean"]
    foreign["deep"]["kernel"] = np.zeros((3, 3, 5, 1))
    foreign["extra"] = {"kernel": np.zeros(1)}
    foreign["norm"]["momentum"] = np.zeros(4)
    path = write_legacy(tmp_path / "w.h5", foreign)
    with pytest.raises(ValueError) as error:
        load_keras_h5(path, ours)
    assert str(error.value) == (
        f"weights file {path} does not fit: missing: norm/mean; "
        "unknown: norm/momentum, extra/kernel; "
        "misshapen: deep/kernel (3, 3, 5, 1) for (3, 3, 1, 4)."
    )


def test_a_head_with_a_fault_of_its_own_is_named(small, tmp_path):
    ours, foreign = small
    del foreign["predictions"]["bias"]
    with pytest.raises(ValueError, match="missing: head/bias"):
        load_keras_h5(write_legacy(tmp_path / "w.h5", foreign), ours)


def test_long_lists_are_cut(small, tmp_path):
    ours, foreign = small
    foreign["many"] = {f"array{i}": np.zeros(1) for i in range(14)}
    with pytest.raises(ValueError, match="many/array9 and 4 more"):
        load_keras_h5(write_legacy(tmp_path / "w.h5", foreign), ours)


def test_files_that_are_none(small, tmp_path):
    ours, _ = small
    with pytest.raises(ValueError, match="absent.h5 does not exist"):
        load_keras_h5(tmp_path / "absent.h5", ours)
    text = tmp_path / "text.h5"
    text.write_text("not weights")
    with pytest.raises(ValueError, match="text.h5 is not an HDF5 file"):
        load_keras_h5(text, ours)
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file.create_group("layers")
    with pytest.raises(ValueError, match="new.h5 is not in Keras' legacy layout"):
        load_keras_h5(tmp_path / "new.h5", ours)


def test_real_weights_know_real_photos(real_data):
    network = create_network("mobilenet_v2", num_labels=1000)
    variables, notes = load_keras_h5(real_data / WEIGHTS, zeros_of(network))
    assert notes == []
    paths = sorted((real_data / "imagenet_sample20").glob("*.JPEG"))
    assert len(paths) == 20
    photos = np.stack([centre_crop(path) for path in paths])
    logits, _ = jax.jit(network.apply)(variables, network.preprocess(photos))
    classes = [int(path.name[:3]) for path in paths]  # the name begins with the class
    assert np.sum(np.argmax(np.asarray(logits), axis=1) == np.asarray(classes)) >= 17


def centre_crop(path: pathlib.Path, shortest: int = 256, side: int = 224) -> np.ndarray:
    with Image.open(path) as photo:
        scale = shortest / min(photo.size)
        size = [round(scale * length) for length in photo.size]
        photo = photo.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(photo.crop((left, top, left + side, top + side)))
