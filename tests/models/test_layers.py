"""Layers: their parameters, and batch normalisation against flax's own."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models.layers import BatchNorm, Conv


def test_conv_owns_one_ordinary_kernel():
    x, key = jnp.zeros((1, 6, 6, 4)), jax.random.key(0)
    full = jax.eval_shape(Conv(7, 3).init, key, x)["params"]
    depthwise = jax.eval_shape(Conv(None, 3).init, key, x)["params"]
    biased = Conv(7, 3, bias=True)
    assert {name: value.shape for name, value in full.items()} == {"kernel": (3, 3, 4, 7)}
    assert {name: value.shape for name, value in depthwise.items()} == {"kernel": (3, 3, 1, 4)}
    params = {"kernel": jnp.zeros((3, 3, 4, 7)), "bias": jnp.arange(7.0)}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(biased.init, key, x)["params"]
    )
    np.testing.assert_array_equal(
        biased.apply({"params": params}, x), np.broadcast_to(np.arange(7.0), (1, 6, 6, 7))
    )


@pytest.mark.parametrize("stored", [False, True])
def test_batch_norm_is_that_of_flax_and_so_are_its_gradients(stored):
    rng = np.random.default_rng(4)
    x = jnp.asarray(3 + 2 * rng.standard_normal((3, 5, 4, 6)), jnp.float32)
    g = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)

    def row():
        return jnp.asarray(rng.uniform(0.5, 1.5, 6), jnp.float32)

    params, stats = {"scale": row(), "bias": row()}, {"mean": row(), "var": row()}
    ours = BatchNorm(stored, momentum=0.9, epsilon=1e-3)
    theirs = nn.BatchNorm(stored, momentum=0.9, epsilon=1e-3)
    shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x))
    assert shapes == jax.tree.map(jnp.shape, {"params": params, "batch_stats": stats})

    def everything(module):
        def run(params, x):
            variables = {"params": params, "batch_stats": stats}
            out, updates = module.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(out * g), (out, updates)

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(params, x)

    got, wanted = everything(ours), everything(theirs)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    if stored:
        jax.tree.map(np.testing.assert_array_equal, got[0][1][1], {"batch_stats": stats})


def test_batch_norm_of_low_precision_is_computed_in_float32():
    x = 100 + jnp.asarray(np.random.default_rng(5).standard_normal((64, 3, 3, 2)), jnp.bfloat16)
    module = BatchNorm(False, momentum=0.0, epsilon=1e-3)
    variables = module.init(jax.random.key(0), x)
    out, updates = module.apply(variables, x, mutable=["batch_stats"])
    assert out.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64).reshape(-1, 2)
    stats = updates["batch_stats"]
    assert {value.dtype for value in stats.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats["mean"], wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], wide.var(axis=0), rtol=1e-2)


def test_constant_channels_are_normalised_to_their_bias():
    x = jnp.full((2, 3, 3, 1), 7.0)
    module = BatchNorm(False, momentum=0.9, epsilon=1e-3)
    params = {"scale": jnp.full(1, 2.0), "bias": jnp.full(1, 0.5)}
    variables = {"params": params, "batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}

    def total(x):
        out, _ = module.apply(variables, x, mutable=["batch_stats"])
        return out.sum(), out

    gradient, out = jax.grad(total, has_aux=True)(x)
    np.testing.assert_allclose(out, np.full(x.shape, 0.5), atol=1e-3)
    assert np.isfinite(gradient).all()
