"""Relevance by hand, primitive by primitive, and its sums for any numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from minmax_jax.models import create_network
from minmax_jax.rules import with_rule

X = np.array([[3, -1, 2], [1, 0.5, -2]], np.float32)
R = np.array([[1, 10, 100], [-2, 0, 0.5]], np.float32)
WEIGHTS = np.array([[1], [2], [-1]], np.float32)
BY_HAND = {  # name: (function, relevance at its result, relevance at X)
    "bias and scale": (lambda x: 2 - 3 * x / 7, R, R),
    "functions": (lambda x: jnp.exp(jnp.tanh(x)).astype(jnp.float16), R.astype(np.float16), R),
    "relu": (jax.nn.relu, R, R),
    "clip": (lambda x: jnp.clip(x, -1, 2), R, R),
    "silu": (jax.nn.silu, R, R),
    "gate": (lambda x: jax.nn.sigmoid(x.mean(axis=1, keepdims=True)) * x, R, R),
    "gate first": (lambda x: x * jax.nn.sigmoid(2 * x[::-1]), R, R),
    "product": (lambda x: x * x[::-1], R, (R + R[::-1]) / 2),
    "square": (lambda x: x * x, R, R),
    "weights": (lambda x: x @ WEIGHTS, [[5], [8]], [[5, 0, 0], [2, 2, 4]]),
    "weights first": (lambda x: WEIGHTS.T @ x.T, [[5, 8]], [[5, 0, 0], [2, 2, 4]]),
    "nothing positive": (lambda x: x[:1, 1:2] @ WEIGHTS[:1], [[5]], np.zeros((2, 3))),
    "sum of two": (
        lambda x: 2 * x[0] + 3 * x[1],
        [18, 1, -2],
        [[12, 4, 4], [6, -3, -6]],
    ),
    "difference": (lambda x: 2 * x[0] - 3 * x[1], [3, 7, 1], [[6, 4, 0.4], [-3, 3, 0.6]]),
    "product with a sum": (
        lambda x: x * x.sum(axis=1, keepdims=True),
        R,
        [[42.125, -8.875, 77.75], [0.5, 0.75, -2.75]],
    ),
    "sum with a sum": (
        lambda x: 1 * x + x.sum(axis=1, keepdims=True),
        [[7, 3, 6], [1, 5, 5]],
        [[12, -4, 8], [2, 0, 4]],
    ),
    "broadcast": (
        lambda x: x[:, :1] * np.full((2, 3), 5.0, np.float32),
        R,
        [[111, 0, 0], [-1.5, 0, 0]],
    ),
    "sum": (lambda x: x.sum(axis=1), [8, 1], [[6, -2, 4], [-2, -1, 4]]),
    "mean": (lambda x: x.mean(axis=1), [8, 1], [[6, -2, 4], [-2, -1, 4]]),
    "sum that is 0": (lambda x: x[:, 2].sum(), 5, np.zeros((2, 3))),
    "windows": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 1), "VALID"),
        [[2, 1], [3, 3]],
        [[3, -2, 2], [2, 0, 4]],
    ),
    "largest": (lambda x: x.max(axis=0), [1, 2, 3], [[1, 0, 3], [0, 2, 0]]),
    "larger": (lambda x: jnp.maximum(x[0], x[1]), [1, 2, 3], [[1, 0, 3], [0, 2, 0]]),
    "chosen": (lambda x: jnp.where(x > 0, x, 0), R, [[1, 0, 100], [-2, 0, 0]]),
    "moved": (
        lambda x: jnp.concatenate([x, x[:, :1]], axis=1)[::-1].reshape(-1),
        [1, 2, 3, 4, 5, 6, 7, 8],
        [[13, 6, 7], [5, 2, 3]],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    function, at_result, expected = BY_HAND[name]
    result, vjp = jax.vjp(with_rule(function, "relevance"), X)
    np.testing.assert_allclose(result, function(jnp.asarray(X)), rtol=1e-6)
    relevance = vjp(jnp.asarray(at_result, result.dtype))[0]
    np.testing.assert_allclose(relevance, expected, rtol=1e-5)


@jax.jit
def _deep(x, weights, relevance):
    """Relevance of two layers with a residual sum, and at their result."""

    def function(perturbation):
        x_and_zero = jnp.abs(x) + perturbation
        hidden = jax.nn.relu(x_and_zero @ weights) + x_and_zero
        gated = hidden * jax.nn.sigmoid(hidden.mean(axis=1, keepdims=True))
        return jnp.stack([gated.sum(axis=1), gated.max(axis=1)])

    _, vjp = jax.vjp(with_rule(function, "relevance"), jnp.zeros_like(x))
    return vjp(relevance)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_sums_are_conserved(seed, scale):
    rng = np.random.default_rng(seed)
    x, weights = scale * rng.normal(size=(2, 4)), rng.normal(size=(4, 4))
    relevance = rng.normal(size=(2, 2))
    back = _deep(*(array.astype(np.float32) for array in (x, weights, relevance)))
    np.testing.assert_allclose(back.sum(axis=1), relevance.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_perturbations_may_be_cast_and_reshaped():
    """Relevance is read whole all the same, in the perturbation's own dtype."""

    def function(perturbations):
        x = (X + perturbations["first"]).astype(jnp.bfloat16)
        return jnp.sin(x + perturbations["second"].astype(jnp.bfloat16).reshape(X.shape))

    zeros = {"first": jnp.zeros(X.shape), "second": jnp.zeros((1, *X.shape))}
    _, vjp = jax.vjp(with_rule(function, "relevance"), zeros)
    for relevance in vjp(jnp.full(X.shape, 2, jnp.bfloat16))[0].values():
        np.testing.assert_array_equal(relevance, np.full_like(relevance, 2))
        assert relevance.dtype == np.float32


# A tap deep enough to be quick, with all kinds of layers behind it.
FAMILIES = [
    ("scenes_resnet", {"attention": "cbam"}, "block1"),
    ("resnet18", {}, "image"),
    ("vgg16", {}, "block3"),
    ("mobilenet_v2", {}, "stride16"),
    ("efficientnet_b0", {}, "stride16"),
]


@pytest.mark.parametrize(("name", "options", "tap"), FAMILIES)
def test_no_network_lacks_a_rule(name, options, tap):
    network = create_network(name, num_labels=3, **options)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = {"image": images} | jax.eval_shape(network.apply, variables, images)[1]

    def pull_back(variables, images):
        def function(perturbation):
            if tap == "image":
                return network.apply(variables, images + perturbation)[0]
            return network.apply(variables, images, {tap: perturbation})[0]

        logits, vjp = jax.vjp(with_rule(function, "relevance"), jnp.zeros(shapes[tap].shape))
        return vjp(logits)[0]

    assert jax.eval_shape(pull_back, variables, images).shape == shapes[tap].shape
