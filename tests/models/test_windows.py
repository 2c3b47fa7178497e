"""Convolutions against `lax.conv_general_dilated`, on every branch and in every direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from minmax_jax.models.windows import convolve, max_pool

CASES = {
    "pointwise": ((1, 1, 6, 5), 1, "SAME"),
    "pointwise strided": ((1, 1, 6, 5), 2, "SAME"),
    "pointwise valid strided": ((1, 1, 6, 5), 3, "VALID"),
    "pointwise padded": ((1, 1, 6, 5), 1, ((1, 1), (0, 2))),
    "depthwise": ((3, 3, 1, 6), 1, "SAME"),
    "depthwise strided": ((3, 3, 1, 6), 2, "SAME"),
    "depthwise explicit": ((3, 3, 1, 6), 2, ((0, 1), (2, 1))),
    "depthwise oblong": ((5, 3, 1, 6), 3, "VALID"),
    "full": ((3, 3, 6, 5), 2, "SAME"),
    "grouped": ((3, 3, 3, 4), 1, "SAME"),
    "full symmetric": ((3, 3, 6, 5), 2, "symmetric"),
    "depthwise symmetric": ((5, 5, 1, 6), 2, "symmetric"),
    "depthwise multiplied": ((3, 3, 1, 12), 1, "SAME"),
}


def plain(x, kernel, stride, padding):
    if padding == "symmetric":
        padding = [(kernel.shape[0] // 2,) * 2, (kernel.shape[1] // 2,) * 2]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


@pytest.mark.parametrize("case", CASES)
def test_convolve_is_the_plain_convolution_and_so_are_its_gradients(case):
    shape, stride, padding = CASES[case]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 8, 6)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    out = jax.eval_shape(lambda x, k: plain(x, k, stride, padding), x, kernel)
    cotangents = jnp.asarray(rng.standard_normal((3, *out.shape)), jnp.float32)

    def everything(f):
        def run(x, kernel, cotangents):
            y, pullback = jax.vjp(f, x, kernel)
            return y, jax.vmap(pullback)(cotangents)

        return jax.jit(run)(x, kernel, cotangents)

    ours = everything(lambda x, k: convolve(x, k, stride=stride, padding=padding))
    theirs = everything(lambda x, k: plain(x, k, stride, padding))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_convolve_maps_over_kernels():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((2, 6, 6, 4)), jnp.float32)
    for shape in ((1, 1, 4, 3), (3, 3, 1, 4)):
        kernels = jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32)
        stacked = jax.vmap(lambda kernel: convolve(x, kernel))(kernels)
        single = [plain(x, kernel, 1, "SAME") for kernel in kernels]
        np.testing.assert_allclose(stacked, np.stack(single), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 4, 3), (3, 3, 1, 4), (3, 3, 4, 3)])
def test_gradients_of_a_sharded_batch_are_those_of_the_whole(shape):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((4, 6, 6, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), argnums=(0, 1)))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sharded = gradients(jax.device_put(x, batch), jax.device_put(kernel, whole))
    for a, b in zip(sharded, gradients(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    assert sharded[0].sharding.is_equivalent_to(batch, 4)


@pytest.mark.parametrize("shape", [(1, 1, 4, 3), (3, 3, 1, 4)])
def test_the_platform_chooses(shape):
    x, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros(shape)
    traced = jax.jit(convolve).trace(x, kernel)
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_low_precision_stays_low():
    x, kernel = jnp.ones((1, 6, 6, 4), jnp.bfloat16), jnp.ones((3, 3, 1, 4), jnp.bfloat16)
    assert convolve(x, kernel).dtype == jnp.bfloat16
    assert convolve(x, jnp.ones((1, 1, 4, 2), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_kernel_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 8\) does not fit input \(1, 6, 6, 6\)"):
        convolve(jnp.zeros((1, 6, 6, 6)), jnp.zeros((3, 3, 4, 8)))


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, "symmetric"), (2, 2, "VALID")])
def test_max_pool_against_a_loop(size, stride, padding):
    x = np.random.default_rng(3).standard_normal((2, 7, 6, 3)).astype(np.float32)
    before = size // 2 if padding == "symmetric" else 0
    rows = (7 + 2 * before - size) // stride + 1
    columns = (6 + 2 * before - size) // stride + 1
    expected = np.zeros((2, rows, columns, 3))
    gradient = np.zeros(x.shape)
    for b in range(2):
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride - before, j * stride - before
                for c in range(3):
                    window = x[b, max(top, 0) : top + size, max(left, 0) : left + size, c]
                    row, column = np.unravel_index(np.argmax(window), window.shape)
                    expected[b, i, j, c] = window.max()
                    gradient[b, max(top, 0) + row, max(left, 0) + column, c] += 1
    pooled = max_pool(jnp.asarray(x), size, stride=stride, padding=padding)
    np.testing.assert_array_equal(pooled, expected.astype(np.float32))
    ours = jax.grad(lambda x: max_pool(x, size, stride=stride, padding=padding).sum())(x)
    np.testing.assert_array_equal(ours, gradient)
