"""ReLUs and biases in whatever words a network has them, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from minmax_jax.rules import with_biases, with_rule

VALUES = np.array([[-1, 0.5, 2, -3, 4]], np.float32)
BACK = np.array([[1, 2, -3, -4, 5]], np.float32)
ZERO = jnp.zeros(())
WEIGHTS = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
RELUS = {
    "relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(0.0, x),
    "zero of outside": lambda x: jnp.maximum(x, ZERO),
    "zeros": lambda x: lax.max(x, jnp.zeros_like(x)),
    "broadcast": lambda x: jnp.maximum(x, jnp.zeros((3, 1)))[1:2],
    "clip": lambda x: jnp.clip(x, 0, 9),
    "clamp": lambda x: lax.clamp(0.0, x, 9.0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where not": lambda x: jnp.where(x <= 0, 0, x),
    "where greater": lambda x: jnp.where(0 < x, x, jnp.zeros_like(x)),
    "in calls": jax.jit(jax.checkpoint(jax.vmap(jax.nn.relu))),
}


OTHERS = {
    "where of another": lambda x: jnp.where(x[:, ::-1] > 0, x, 0),
    "where of another bound": lambda x: jnp.where(x > 1, x, 0),
    "where negative": lambda x: jnp.where(x > 0, 0, x),
    "leaky": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "softplus": jax.nn.softplus,
}


@jax.jit
def _guided_and_plain():
    """Result, guided and plain gradients of all of them."""

    def run(function):
        result, vjp = jax.vjp(with_rule(function, "guided"), VALUES)
        return result, vjp(BACK)[0], jax.vjp(function, VALUES)[1](BACK)[0]

    return {name: run(function) for name, function in (RELUS | OTHERS).items()}


def test_guided_relus():
    for name, (result, guided, plain) in _guided_and_plain().items():
        if name in RELUS:
            np.testing.assert_array_equal(result, [[0, 0.5, 2, 0, 4]], name)
            np.testing.assert_array_equal(guided, [[0, 2, 0, 0, 5]], name)
        else:
            np.testing.assert_array_equal(guided, plain, name)


def biases_of(function):
    """Biases of a function of the values, whose sum with the gradient is checked."""

    @jax.jit
    def run():
        perturbed, extra = with_biases(lambda x: function(VALUES + x), VALUES)
        result, vjp, biases = jax.vjp(perturbed, 0 * VALUES, extra, has_aux=True)
        return result, function(jnp.asarray(VALUES)), biases, *vjp(jnp.ones_like(result))

    result, expected, biases, gradient, gradients = run()
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert gradients.keys() == biases.keys()
    parts = [gradient * VALUES, *(gradients[name] * biases[name] for name in biases)]
    np.testing.assert_allclose(sum(part.sum() for part in parts), result.sum(), rtol=1e-5)
    return [np.asarray(bias) for bias in biases.values()]


def test_a_mean_belongs_to_the_shift_of_its_normalisation():
    mean, factor, shift = np.array([[[1], [2], [-1]], [[1], [2], [3]], [[5], [7], [0.5]]])
    mean, factor, shift = (array.T.astype(np.float32) for array in (mean, factor, shift))

    def normalised(x):
        return (x[:, :3] - mean) / factor * 2 + shift

    (bias,) = biases_of(normalised)
    np.testing.assert_allclose(bias, shift - 2 * mean / factor, rtol=1e-6)
    for other in (
        lambda x: (lambda y: 2 * y + 5 * jax.nn.relu(y) + shift)(x[:, :3] - mean),
        lambda x: jax.jit(lambda y: (2 * y + shift, y))(x[:, :3] - mean)[0],
        lambda x: jax.nn.relu(x[:, :3] - mean) + shift,
        lambda x: (x[:, :3] - mean) @ WEIGHTS[:3, :3] + shift,
    ):
        found = biases_of(other)
        assert len(found) == 2
        np.testing.assert_array_equal(found[0], -mean)
        np.testing.assert_array_equal(found[1], np.broadcast_to(shift, found[1].shape))


def test_both_bounds_of_a_clamp_are_biases():
    low, high = biases_of(lambda x: lax.clamp(-2.0, x, 3.0))
    np.testing.assert_array_equal(low, [[0, 0, 0, -2, 0]])
    np.testing.assert_array_equal(high, [[0, 0, 0, 0, 3]])


@jax.custom_vjp
def layer(x):
    return jnp.maximum(x @ WEIGHTS + 1, 0)


layer.defvjp(lambda x: (layer(x), None), lambda _, g: (g @ WEIGHTS.T,))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (layer, "custom_vjp_call"),
        (lambda x: lax.cond(x.sum() > 0, lambda x: jax.nn.relu(x + 1), jnp.sin, x), "cond"),
        (
            jax.shard_map(
                lambda x: jax.nn.relu(x + 1),
                mesh=jax.make_mesh((1,), ("of",)),
                in_specs=jax.P(),
                out_specs=jax.P(),
            ),
            "shard_map",
        ),
    ],
)
def test_what_cannot_be_seen_into_is_refused(function, name):
    for run in (with_rule(function, "guided"), lambda x: with_biases(function, x)):
        with pytest.raises(ValueError, match=f"within '{name}', only in plain calls") as error:
            run(VALUES)
        assert "\n" not in str(error.value)
