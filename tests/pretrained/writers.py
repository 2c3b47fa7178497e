"""Weights files as the frameworks lay them out, written without them; and a small network."""

from __future__ import annotations

import h5py
import jax
import numpy as np

from minmax_jax.models import Network
from minmax_jax.train.checkpoints import OPT_STATE, VARIABLES, Checkpoints


def write_legacy(path, layers, suffix="", under=None):
    """Writes `{layer: {array: value}}` as Keras' legacy `save_weights` lays it out.

    `under`: the group of a file of a whole model. An array's name "inner/conv/kernel" belongs to
    the layer "conv" of a model within the model.
    """
    with h5py.File(path, "w") as file:
        root = file.create_group(under) if under else file
        root.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, arrays in layers.items():
            group = root.create_group(layer)
            names = {
                (name if "/" in name else f"{layer}/{name}") + suffix: value
                for name, value in arrays.items()
            }
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in names.items():
                group.create_dataset(name, data=value)
    return path


def write_keras3(file, layers, within="layers"):
    """Writes `{(class, layer): [values]}` as Keras 3's `save_weights` lays it out."""
    with h5py.File(file, "a") as file:
        for number, ((kind, layer), values) in enumerate(layers.items()):
            group = file.create_group(f"{within}/{kind}_{number}/vars")
            group.attrs["name"] = layer
            for index, value in enumerate(values):
                group.create_dataset(str(index), data=value)


def write_checkpoint(folder, variables):
    """Writes a checkpoint as training does."""
    arrays = {VARIABLES: variables, OPT_STATE: {"m": np.zeros(2)}}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(arrays, {"best": 1})
    return folder


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def small_network(name="custom", layers=("conv", "deep", "norm"), *, style="", alpha=None):
    """A network in name only: a 3x3 and a depthwise convolution, a normalisation, a head on 4.

    Args:
      layers: their names.
      alpha: if given, the head's kernel is regularised: not what its parameter is.
    """
    conv, deep, norm = layers
    shapes = {
        "params": {
            conv: {"kernel": (3, 3, 2, 4)},
            deep: {"kernel": (3, 3, 1, 4)},
            norm: {"scale": (4,), "bias": (4,)},
            "head": {"kernel": (4, 2), "bias": (2,)},
        },
        "batch_stats": {norm: {"mean": (4,), "var": (4,)}},
    }

    def init(key):
        return jax.tree.map(
            lambda shape: jax.random.normal(key, shape),
            shapes,
            is_leaf=lambda shape: isinstance(shape, tuple),
        )

    def head_kernel(variables):
        kernel = variables["params"]["head"]["kernel"]
        return kernel if alpha is None else alpha * kernel

    return Network(
        apply=lambda *_: None,
        taps=("last",),
        head_kernel=head_kernel,
        name=name,
        style=style,
        init=init,
        layers=(*layers, "head"),
    )


def foreign_arrays():
    """Arrays for `small_network` in Keras' names and axes; and what they should become."""
    keras = {
        "input": {},
        "conv": {"kernel": normal(3, 3, 2, 4)},
        "deep": {"depthwise_kernel": normal(3, 3, 4, 1)},
        "norm": {
            name: normal(4, seed=seed)
            for seed, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))
        },
        "predictions": {"kernel": normal(4, 2), "bias": normal(2)},
    }
    norm = keras["norm"]
    want = {
        "params": {
            "conv": keras["conv"],
            "deep": {"kernel": keras["deep"]["depthwise_kernel"].reshape(3, 3, 1, 4)},
            "norm": {"scale": norm["gamma"], "bias": norm["beta"]},
            "head": keras["predictions"],
        },
        "batch_stats": {"norm": {"mean": norm["moving_mean"], "var": norm["moving_variance"]}},
    }
    return keras, want


# The same network as a torchvision ResNet would name it.
RESNET_LAYERS = ("conv1_conv", "conv2_block1_1_conv", "conv2_block1_1_bn")


def torch_arrays():
    """Arrays for `small_network("resnet18", RESNET_LAYERS)` in PyTorch's names and axes."""
    torch = {
        "conv1.weight": normal(4, 2, 3, 3),
        "layer1.0.conv1.weight": normal(4, 1, 3, 3),
        "layer1.0.bn1.weight": normal(4, seed=0),
        "layer1.0.bn1.bias": normal(4, seed=1),
        "layer1.0.bn1.running_mean": normal(4, seed=2),
        "layer1.0.bn1.running_var": normal(4, seed=3),
        "layer1.0.bn1.num_batches_tracked": np.asarray(7),
        "fc.weight": normal(2, 4),
        "fc.bias": normal(2),
    }
    conv, deep, norm = RESNET_LAYERS

    def turned(kernel):  # element by element, straight from the meaning of the axes
        out = np.zeros((3, 3, kernel.shape[1], kernel.shape[0]), np.float32)
        for o, i, row, column in np.ndindex(kernel.shape):
            out[row, column, i, o] = kernel[o, i, row, column]
        return out

    want = {
        "params": {
            conv: {"kernel": turned(torch["conv1.weight"])},
            deep: {"kernel": turned(torch["layer1.0.conv1.weight"])},
            norm: {"scale": torch["layer1.0.bn1.weight"], "bias": torch["layer1.0.bn1.bias"]},
            "head": {"kernel": torch["fc.weight"].T, "bias": torch["fc.bias"]},
        },
        "batch_stats": {
            norm: {
                "mean": torch["layer1.0.bn1.running_mean"],
                "var": torch["layer1.0.bn1.running_var"],
            }
        },
    }
    return torch, want


def assert_trees_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(isinstance(value, jax.Array) for value in jax.tree.leaves(got))
    assert all(value.dtype == np.float32 for value in jax.tree.leaves(got))
