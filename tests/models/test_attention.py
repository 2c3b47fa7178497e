"""CBAM against float64 loops written from the paper, and its place in the networks."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models import create_network
from minmax_jax.models.attention import cbam, is_attention
from minmax_jax.models.layers import batch_norm
from minmax_jax.models.network import from_module
from minmax_jax.models.preprocess import IMAGENET
from minmax_jax.models.resnet import STYLES, ResNet
from tests.models.filling import filled

# Parameters in millions with 1,000 labels, as the paper gives them.
PUBLISHED = {"resnet18": 11.78, "resnet34": 21.96, "resnet50": 28.09, "resnet101": 49.33}
EPSILON = 1e-3
ONE_BLOCK = ("channel_1", "channel_2", "spatial_conv", "spatial_bn")


class Block(nn.Module):
    """CBAM alone."""

    train: bool = False
    frozen: frozenset[str] = frozenset()

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(batch_norm, train=self.train, frozen=self.frozen, epsilon=EPSILON)
        return cbam(x, block="b", norm=norm)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cbam_loop(x, params, stats):
    """One image `(h w k)`: Eq. 2 and 3 of the paper, the convolution normalised."""
    height, width, channels = x.shape
    first, second = params["b_channel_1"], params["b_channel_2"]

    def perceptron(values):
        out = []
        hidden = [
            max(0.0, values @ first["kernel"][0, 0, :, j] + first["bias"][j])
            for j in range(len(first["bias"]))
        ]
        for c in range(channels):
            out.append(second["bias"][c] + sum(hidden * second["kernel"][0, 0, :, c]))
        return out

    averages = np.array([x[..., c].mean() for c in range(channels)])
    largest = np.array([x[..., c].max() for c in range(channels)])
    gates = [sigmoid(a + b) for a, b in zip(perceptron(averages), perceptron(largest), strict=True)]
    x = x * gates
    kernel, norm, moments = params["b_spatial_conv"], params["b_spatial_bn"], stats["b_spatial_bn"]
    out = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            total = 0.0
            for i in range(7):
                for j in range(7):
                    r, s = row + i - 3, column + j - 3
                    if 0 <= r < height and 0 <= s < width:
                        total += kernel["kernel"][i, j, 0, 0] * x[r, s].max()
                        total += kernel["kernel"][i, j, 1, 0] * x[r, s].mean()
            total = (total - moments["mean"][0]) / math.sqrt(moments["var"][0] + EPSILON)
            gate = sigmoid(total * norm["scale"][0] + norm["bias"][0])
            out[row, column] = x[row, column] * gate
    return out


@pytest.mark.parametrize("channels", [5, 32])
def test_block_against_loops(channels):
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((2, 6, 4, channels))
    shapes = jax.eval_shape(Block().init, jax.random.key(0), jnp.float32(x))
    hidden = max(1, channels // 16)
    assert {
        layer: shape["kernel"].shape
        for layer, shape in shapes["params"].items()
        if "kernel" in shape
    } == {
        "b_channel_1": (1, 1, channels, hidden),
        "b_channel_2": (1, 1, hidden, channels),
        "b_spatial_conv": (7, 7, 2, 1),
    }
    assert "bias" not in shapes["params"]["b_spatial_conv"]
    variables = jax.tree.map(lambda shape: rng.uniform(0.1, 1.0, shape.shape) - 0.4, shapes)
    variables["batch_stats"]["b_spatial_bn"]["var"] += 1
    run = jax.jit(Block().apply)
    ours = jax.tree.map(jnp.float32, variables)
    got = run(ours, jnp.float32(x))
    want = [cbam_loop(one, variables["params"], variables["batch_stats"]) for one in x]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert np.ptp(got / np.float32(x)) > 0.05  # the gates differ

    gradients = jax.jit(jax.grad(lambda v, x: jnp.sum(run(v, x) ** 2), argnums=(0, 1)))
    for images in (jnp.zeros(x.shape), jnp.float32(x)):
        found = jax.tree.leaves(gradients(ours, images))
        assert all(np.isfinite(gradient).all() for gradient in found)


def test_low_precision_stays_low():
    x = jnp.ones((1, 3, 3, 16), jnp.bfloat16)
    out, variables = jax.eval_shape(Block().init_with_output, jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {value.dtype for value in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_paper(name):
    network = create_network(name, num_labels=1000, attention="cbam")
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    count = sum(value.size for value in jax.tree.leaves(params))
    assert count / 1e6 == pytest.approx(PUBLISHED[name], abs=0.0051)


def test_layers_follow_those_of_their_branch():
    network = create_network("resnet18", num_labels=2, attention="cbam")
    plain = create_network("resnet18", num_labels=2)
    where = network.layers.index("conv2_block1_2_bn")
    assert network.layers[where + 1 : where + 5] == tuple(f"conv2_block1_{x}" for x in ONE_BLOCK)
    assert tuple(layer for layer in network.layers if not is_attention(layer)) == plain.layers
    assert len(network.layers) == len(plain.layers) + 8 * 4


def with_gates(variables, value):
    """All gates open (a large value) or shut (a small one)."""
    params = dict(variables["params"])
    for layer in params:
        if layer.endswith(("channel_2", "spatial_bn")):
            params[layer] = params[layer] | {"bias": jnp.full_like(params[layer]["bias"], value)}
    return variables | {"params": params}


def short_resnet(attention):
    """One block in each stage."""
    module = ResNet(
        num_labels=3,
        style=STYLES["timm"],
        blocks=(1, 1, 1, 1),
        bottleneck=False,
        attention=attention,
    )
    return from_module(module, name="short", image_size=32, preprocess=IMAGENET)


def scenes_resnet(attention):
    return create_network("scenes_resnet", num_labels=3, attention=attention)


@pytest.mark.parametrize("make", [scenes_resnet, short_resnet])
def test_gates_stand_before_the_sum(make):
    plain, network = make("none"), make("cbam")
    assert network.taps == plain.taps
    variables = filled(network)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    run = jax.jit(network.apply)
    without = {
        collection: {layer: value for layer, value in layers.items() if not is_attention(layer)}
        for collection, layers in variables.items()
    }
    logits, taps = jax.jit(plain.apply)(without, images)
    opened, opened_taps = run(with_gates(variables, 100.0), images)
    np.testing.assert_allclose(opened, logits, rtol=1e-4, atol=1e-4)
    for tap, value in taps.items():
        np.testing.assert_allclose(opened_taps[tap], value, rtol=1e-3, atol=1e-3)
    assert np.abs(run(variables, images)[0] - logits).max() > 1e-3
    if make is scenes_resnet:  # its last shortcut changes nothing
        _, shut = run(with_gates(variables, -100.0), images)
        np.testing.assert_allclose(shut["block4"], shut["block3"], atol=1e-6)
        assert np.abs(taps["block4"] - taps["block3"]).max() > 0.1


@pytest.mark.parametrize("frozen", [frozenset(), frozenset({"b_spatial_bn"})])
def test_training_reaches_every_layer_and_frozen_statistics_stay(frozen):
    module = Block(train=True, frozen=frozen)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 6, 32)), jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def loss(params):
        now = variables | {"params": params}
        out, updates = module.apply(now, x, mutable=["batch_stats"])
        return jnp.sum(out**2), updates["batch_stats"]["b_spatial_bn"]

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert set(gradients) == {f"b_{layer}" for layer in ONE_BLOCK}
    for layer, arrays in gradients.items():
        assert all(np.isfinite(value).all() and (value != 0).any() for value in arrays.values())
        assert is_attention(layer)
    before = variables["batch_stats"]["b_spatial_bn"]
    assert (stats["var"] == before["var"]).all() == bool(frozen)
