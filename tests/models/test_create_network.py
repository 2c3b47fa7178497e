"""Every network that has a name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models import NETWORKS, create_network

# name: (numbers in all variables with 1,000 labels, activations of one image of native size)
EXPECTED = {
    "scenes_resnet": (
        219_224,
        {
            "block1": (24, 24, 16),
            "block2": (12, 12, 32),
            "block3": (12, 12, 64),
            "block4": (12, 12, 64),
        },
    ),
    "mobilenet_v2": (
        3_538_984,  # as Keras counts them
        {
            "stride2": (112, 112, 96),
            "stride4": (56, 56, 144),
            "stride8": (28, 28, 192),
            "stride16": (14, 14, 576),
            "stride32": (7, 7, 1280),
        },
    ),
}
# name: (first, last layers in forward order)
LAYERS = {
    "scenes_resnet": (("stem_conv", "stem_bn", "block1_1_conv"), ("block4_2_bn", "head")),
    "mobilenet_v2": (
        ("Conv1", "bn_Conv1", "expanded_conv_depthwise"),
        ("block_16_project", "block_16_project_BN", "Conv_1", "Conv_1_bn", "head"),
    ),
}


def shapes_of(network):
    """Variables and outputs for one image of native size, nothing computed."""
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, network.image_size, network.image_size, 3), jnp.float32)
    return variables, jax.eval_shape(network.apply, variables, images)


def test_every_name_is_in_the_table():
    assert set(EXPECTED) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_layers_and_activations(name):
    count, activations = EXPECTED[name]
    network = create_network(name, num_labels=1000)
    variables, (logits, taps) = shapes_of(network)
    assert sum(value.size for value in jax.tree.leaves(variables)) == count
    assert logits.shape == (1, 1000) and logits.dtype == jnp.float32
    assert {tap: value.shape[1:] for tap, value in taps.items()} == activations
    assert network.name == name and network.taps == tuple(activations)
    assert set(network.layers) == set(variables["params"]) >= set(variables["batch_stats"])
    first, last = LAYERS[name]
    assert network.layers[: len(first)] == first
    assert network.layers[-len(last) :] == last
    depths = [len(jax.tree.leaves_with_path(tree)[0][0]) for tree in variables.values()]
    assert depths == [2, 2]  # {layer: {array}}: flat
    white = network.preprocess(np.full((2, 2, 3), 255, np.uint8))
    assert white.dtype == np.float32 and (white == 1).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_differ_in_nothing_but_the_kernel_used(name):
    variables = {
        head: shapes_of(create_network(name, num_labels=7, head=head))[0]
        for head in ("dense", "kur")
    }
    assert jax.tree.map(jnp.shape, variables["dense"]) == jax.tree.map(jnp.shape, variables["kur"])
    network = create_network(name, num_labels=2, head="kur", alpha=4.0)
    kernel = jnp.full((3, 2), 0.5)
    used = network.head_kernel({"params": {"head": {"kernel": kernel}}})
    np.testing.assert_allclose(used, 4 * kernel / 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_layers_frozen_is_inference_but_for_dropout(name):
    network = create_network(name, num_labels=3)
    rng = np.random.default_rng(0)

    def fill(shape):  # positive for variances and scales, of He's size for kernels
        if len(shape.shape) == 1:
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        scale = np.sqrt(2 / np.prod(shape.shape[:-1]))
        return (scale * rng.standard_normal(shape.shape)).astype(np.float32)

    variables = jax.tree.map(fill, jax.eval_shape(network.init, jax.random.key(0)))
    images = rng.uniform(-1, 1, (2, 33, 40, 3)).astype(np.float32)  # any size will do
    logits, taps = jax.jit(network.apply)(variables, images)
    assert all((value >= 0).all() and (value > 0).any() for value in taps.values())
    run = jax.jit(network.train_apply, static_argnames="frozen")
    key = jax.random.key(0)
    same, stats = run(variables, images, key=key, frozen=frozenset(network.layers))
    np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    half = frozenset(network.layers[: len(network.layers) // 2])
    _, stats = run(variables, images, key=key, frozen=half)
    moved = {
        layer
        for layer, arrays in stats.items()
        if (arrays["mean"] != variables["batch_stats"][layer]["mean"]).any()
    }
    assert moved == set(stats) - half and moved


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="unknown network 'vgg'; networks are .*mobilenet_v2"):
        create_network("vgg", num_labels=2)
    with pytest.raises(ValueError, match=r"unknown head 'mlp'; heads are \['dense', 'kur'\]"):
        create_network("scenes_resnet", num_labels=2, head="mlp")
    for num_labels in (0, 2.5, True):
        with pytest.raises(ValueError, match="num_labels must be a positive int"):
            create_network("scenes_resnet", num_labels=num_labels)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
            create_network("scenes_resnet", num_labels=2, dropout=dropout)
