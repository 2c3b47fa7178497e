"""Every array finds its place or is named; the head stays only where it must."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest

from minmax_jax.models import from_module
from minmax_jax.models.heads import Head
from minmax_jax.models.layers import Conv
from minmax_jax.pretrained import Description, Weights, load_weights
from tests.pretrained import writers

KEY = jax.random.key(3)


def keras_weights(layers, **description):
    """As `open_weights` gives them for a Keras file of these layers, in the reader's names."""
    renamed = {
        "depthwise_kernel": "kernel",
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
    }
    arrays = {
        f"{layer}/{renamed.get(name, name)}": value
        for layer, values in layers.items()
        for name, value in values.items()
    }
    return weights_of("keras", arrays, **description)


def weights_of(kind, arrays, **description):
    shapes = {name: value.shape for name, value in arrays.items()}
    return Weights("w.file", kind, shapes, arrays.__getitem__, Description(**description))


@pytest.fixture
def layers():
    return writers.foreign_arrays()[0]


@pytest.fixture
def torch():
    return writers.torch_arrays()[0]


def keras_network(**options):
    return writers.small_network(style="keras", **options)


def resnet(**options):
    return writers.small_network("resnet18", writers.RESNET_LAYERS, style="torchvision", **options)


def test_a_head_that_does_not_fit_stays_as_initialised(layers):
    network = keras_network()
    fresh = network.init(KEY)["params"]["head"]
    for kernel, reason in (
        (np.zeros((4, 11)), "the file's head has 11 labels"),
        (np.zeros((9, 2)), "the file's head (9, 2) does not read 4 features"),
        (np.zeros((9, 11)), "the file's head (9, 11) does not read 4 features"),
        (None, "the file has no head"),
    ):
        layers["predictions"] = {} if kernel is None else {"kernel": kernel, "bias": kernel[0]}
        variables, notes = load_weights(keras_weights(layers), network, key=KEY)
        assert notes == [f"head left as initialised: {reason}."]
        jax.tree.map(np.testing.assert_array_equal, variables["params"]["head"], fresh)
        assert variables["params"]["conv"]["kernel"] is not None


def test_a_regularised_head_does_not_take_a_plain_one(layers):
    network = keras_network(alpha=2.0)
    variables, notes = load_weights(keras_weights(layers), network, key=KEY)
    want = "head left as initialised: the file's head is 'dense', this one is of another kind."
    assert notes == [want]
    fresh = network.init(KEY)["params"]["head"]
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["head"], fresh)


class Tiny(nn.Module):
    """A Linen network as small as can be."""

    head: str = "dense"
    alpha: float = 1.0
    taps: ClassVar[tuple[str, ...]] = ("last",)

    @nn.compact
    def __call__(self, images, perturbations, *, train, frozen):
        x = Conv(4, name="conv")(images)
        logits = Head(3, self.head, self.alpha, 0.0, name="head")(x, train=train)
        return logits, {"last": x}


def test_a_fresh_head_is_that_of_a_whole_initialisation():
    network = from_module(Tiny(), name="tiny", image_size=8, preprocess=lambda x: x)
    variables = network.init(KEY)
    arrays = {"conv/kernel": np.asarray(variables["params"]["conv"]["kernel"])}
    loaded, notes = load_weights(weights_of("ours", arrays), network, key=KEY)
    assert notes == ["head left as initialised: the file has no head."]
    writers.assert_trees_equal(loaded, variables)


def test_a_keras_head_may_have_any_name_if_it_is_the_only_one(layers):
    layers["dense_3"] = layers.pop("predictions")
    variables, notes = load_weights(keras_weights(layers), keras_network(), key=KEY)
    assert notes == []
    kernel = layers["dense_3"]["kernel"]
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], kernel)
    layers["dense_4"] = {"kernel": np.zeros((2, 2))}
    _, notes = load_weights(keras_weights(layers), keras_network(), key=KEY)
    assert notes == [
        "head left as initialised: the file has no head.",
        "arrays not used: 3 in layers dense_3, dense_4.",
    ]


def test_every_misfit_is_named_in_one_line(layers):
    del layers["norm"]["moving_mean"]
    layers["deep"] = {"kernel": np.zeros((3, 3, 5, 1))}
    layers["norm"]["momentum"] = np.zeros(4)
    del layers["predictions"]["bias"]
    with pytest.raises(ValueError) as error:
        load_weights(keras_weights(layers), keras_network(), key=KEY)
    assert str(error.value) == (
        "weights file w.file does not fit: missing: norm/mean, head/bias; "
        "unknown: norm/momentum; "
        "misshapen: deep/kernel (3, 3, 5, 1) for (3, 3, 1, 4)."
    )


def test_biases_that_the_network_would_leave_out_are_a_misfit(torch):
    """As those of Keras' ResNet in a network of torchvision's arithmetic."""
    torch["conv1.bias"] = np.zeros(4)
    with pytest.raises(ValueError, match="does not fit: unknown: conv1.bias.$"):
        load_weights(weights_of("torch", torch), resnet(), key=KEY)


def test_a_file_of_another_network(layers, torch):
    for weights in (keras_weights({"stem": {"kernel": np.zeros(1)}}), keras_weights({})):
        with pytest.raises(ValueError, match="w.file does not fit: it has no layer of custom"):
            load_weights(weights, keras_network(), key=KEY)
    with pytest.raises(ValueError, match="no layer of custom; its first arrays are conv1.weight"):
        load_weights(weights_of("torch", torch), keras_network(), key=KEY)
    with pytest.raises(ValueError, match="no layer of resnet18"):
        load_weights(keras_weights(layers), resnet(), key=KEY)


def test_what_is_not_used_is_counted_and_long_lists_are_cut(layers):
    layers |= {f"fc{i}": {"kernel": np.zeros((1, 1)), "bias": np.zeros(1)} for i in range(14)}
    _, notes = load_weights(keras_weights(layers), keras_network(), key=KEY)
    assert len(notes) == 1
    assert notes[0].startswith("arrays not used: 28 in layers fc0, fc1, ")
    assert notes[0].endswith("fc9 and 4 more.")


def test_linear_layers_and_pointwise_convolutions_are_the_same_array(torch):
    want = torch["fc.weight"].T
    torch["fc.weight"] = torch["fc.weight"].reshape(2, 4, 1, 1)
    variables, _ = load_weights(weights_of("torch", torch), resnet(), key=KEY)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], want)
    torch["fc.weight"] = np.zeros((2, 1, 2, 2), np.float32)  # as many numbers, another meaning
    _, notes = load_weights(weights_of("torch", torch), resnet(), key=KEY)
    assert notes[0].startswith("head left as initialised: the file's head (2, 1, 2, 2) does not")


def test_weights_of_another_style_are_noted(torch):
    def style_notes(ours, said=""):
        network = writers.small_network("resnet18", writers.RESNET_LAYERS, style=ours)
        _, notes = load_weights(weights_of("torch", torch, style=said), network, key=KEY)
        return [note for note in notes if "style" in note]

    # timm names a ResNet as torchvision does.
    assert style_notes("torchvision") == style_notes("timm") == []
    assert style_notes("keras", "keras") == []
    assert style_notes("keras") == [
        "the weights are of style 'torchvision', the network computes as 'keras'."
    ]
    assert style_notes("timm", "keras") == [
        "the weights are of style 'keras', the network computes as 'timm'."
    ]
