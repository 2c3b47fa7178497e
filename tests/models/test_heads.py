"""Heads against float64 loops written from Eq. 15; alpha against its formula."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.models.heads import Head, current_alpha, effective_kernel


def kernel_usage(kernel, alpha):
    """Eq. 15: each weight times its share among the labels of its kernel."""
    features, labels = kernel.shape
    out = np.zeros((features, labels))
    for k in range(features):
        total = sum(math.exp(kernel[k, n]) for n in range(labels))
        for l in range(labels):
            out[k, l] = alpha * kernel[k, l] * math.exp(kernel[k, l]) / total
    return out


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(0).standard_normal((5, 4)) * 3


@pytest.mark.parametrize("head", ["kur", "kur_learned", "kur_scheduled"])
@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_effective_kernel_against_loops(kernel, alpha, head):
    ours = jnp.asarray(kernel, jnp.float32)
    np.testing.assert_allclose(
        effective_kernel(ours, head=head, alpha=alpha), kernel_usage(kernel, alpha), rtol=1e-5
    )
    np.testing.assert_array_equal(effective_kernel(ours, head="dense", alpha=alpha), ours)


def test_effective_kernel_of_equal_weights_is_their_share():
    kernel = jnp.full((3, 4), 2.0)
    np.testing.assert_allclose(effective_kernel(kernel, head="kur", alpha=1.0), kernel / 4)


def test_effective_kernel_survives_large_weights():
    kernel = jnp.asarray([[1e4, 0.0], [-1e4, 0.0]])
    got, gradient = jax.value_and_grad(
        lambda kernel: effective_kernel(kernel, head="kur", alpha=1.0).sum()
    )(kernel)
    assert got == 1e4
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("head", ["dense", "kur"])
def test_logits_against_loops(kernel, head):
    rng = np.random.default_rng(1)
    x, bias = rng.standard_normal((2, 3, 2, 5)), rng.standard_normal(4)
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.float32(bias)}}
    module = Head(num_labels=4, head=head, alpha=2.0, dropout=0.5)
    got = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, jnp.float32(x))
    effective = kernel_usage(kernel, 2.0) if head == "kur" else kernel
    want = np.zeros((2, 4))
    for b in range(2):
        for l in range(4):
            want[b, l] = bias[l]
            for k in range(5):
                pooled = sum(x[b, i, j, k] for i in range(3) for j in range(2)) / 6
                want[b, l] += pooled * effective[k, l]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_logits_are_float32_whatever_comes_in():
    module = Head(num_labels=4, head="dense", alpha=1.0, dropout=0.0)
    x = jnp.ones((1, 2, 2, 5), jnp.bfloat16)
    logits, variables = module.init_with_output(jax.random.key(0), x, train=False)
    assert logits.dtype == jnp.float32
    assert {value.dtype for value in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_learned_alpha_is_a_parameter(kernel):
    x, bias = np.random.default_rng(1).standard_normal((2, 1, 1, 5)), np.arange(4.0)
    module = Head(num_labels=4, head="kur_learned", alpha=2.5, dropout=0.0)
    initial = module.init(jax.random.key(0), jnp.float32(x), train=False)
    assert {name: value.shape for name, value in initial["params"].items()} == {
        "kernel": (5, 4),
        "bias": (4,),
        "alpha": (),
    }
    assert initial["params"]["alpha"] == 2.5 and set(initial) == {"params"}

    @jax.jit
    @jax.value_and_grad
    def total(params):
        return module.apply({"params": params}, jnp.float32(x), train=True).sum()

    params = {"kernel": kernel, "bias": bias, "alpha": 7.0}
    value, slope = total(jax.tree.map(jnp.float32, params))
    unscaled = (x[:, 0, 0] @ kernel_usage(kernel, 1.0)).sum()
    np.testing.assert_allclose(value, 7 * unscaled + 2 * bias.sum(), rtol=1e-4)
    np.testing.assert_allclose(slope["alpha"], unscaled, rtol=1e-4)


def test_scheduled_alpha_moves_with_the_steps_of_training(kernel):
    x = np.random.default_rng(1).standard_normal((2, 1, 1, 5))
    module = Head(4, "kur_scheduled", 2.0, 0.0, alpha_end=-1.0, alpha_steps=4)
    variables = module.init(jax.random.key(0), jnp.float32(x), train=True)
    assert variables["batch_stats"] == {"steps": 0}  # an initialisation is no step
    params = {"kernel": jnp.float32(kernel), "bias": jnp.zeros(4)}
    stats = variables["batch_stats"]
    for step, alpha in enumerate([2.0, 1.25, 0.5, -0.25, -1.0, -1.0]):
        variables = {"params": params, "batch_stats": stats}
        inferred = module.apply(variables, jnp.float32(x), train=False)
        trained, updates = module.apply(
            variables, jnp.float32(x), train=True, mutable=["batch_stats"]
        )
        want = x[:, 0, 0] @ kernel_usage(kernel, alpha)
        np.testing.assert_allclose(inferred, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(trained, inferred)
        stats = updates["batch_stats"]
        assert stats["steps"] == step + 1 and stats["steps"].dtype == jnp.int32


@settings(deadline=None)
@given(
    alpha=st.floats(-50, 50, width=32),
    end=st.floats(-50, 50, width=32),
    number=st.integers(1, 10**6),
    done=st.integers(0, 2 * 10**6),
)
def test_scheduled_alpha_is_a_line_with_an_end(alpha, end, number, done):
    head = Head(1, "kur_scheduled", alpha, 0.0, alpha_end=end, alpha_steps=number)
    got = current_alpha(head, {"steps": jnp.int32(done)})
    want = end if done >= number else alpha + done / number * (end - alpha)
    assert float(got) == pytest.approx(want, rel=1e-4, abs=1e-4)


def test_dropout_drops_features_in_training_only():
    module = Head(num_labels=1, head="dense", alpha=1.0, dropout=0.5)
    x = jnp.ones((1, 1, 1, 4000))
    variables = {"params": {"kernel": jnp.ones((4000, 1)) / 4000, "bias": jnp.zeros(1)}}
    rngs = {"dropout": jax.random.key(0)}
    kept = float(module.apply(variables, x, train=True, rngs=rngs)[0, 0]) / 2
    assert 0.45 < kept < 0.55  # what is kept is doubled
    assert module.apply(variables, x, train=False)[0, 0] == pytest.approx(1.0)


def test_bad_heads_are_named():
    heads = r"\['dense', 'kur', 'kur_learned', 'kur_scheduled', 'acol'\]"
    with pytest.raises(ValueError, match=f"unknown head 'krs'; heads are {heads}"):
        effective_kernel(jnp.zeros((2, 2)), head="krs", alpha=1.0)
    with pytest.raises(ValueError, match=r"\(k c\), got \(2,\)"):
        effective_kernel(jnp.zeros(2), head="kur", alpha=1.0)
