from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minmax_jax.cams import activation
from tests import reference

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)
# Fewer channels than positions and more; one position; one channel; one of both.
SHAPES = ((3, 4, 5), (2, 3, 9), (1, 1, 4), (2, 3, 1), (1, 1, 1))

_eigen_cam = jax.jit(jax.vmap(activation.eigen_cam))


@jax.jit
@jax.grad
def slope(activations):
    """Of a sum of squares in which no two positions count the same."""
    maps = activation.eigen_cam(activations)
    return (maps**2 * jnp.arange(1.0, 1 + maps.size).reshape(maps.shape)).sum()


def eigen_cam(activations):
    found = np.asarray(_eigen_cam(np.asarray(activations, np.float32)[None]))[0]
    assert found.shape == np.shape(activations)[:2] and found.dtype == np.float32
    return found


def projection64(activations):
    """Of one example, from numpy's singular value decomposition, summing up to what is positive."""
    positions = np.asarray(activations, np.float64).reshape(-1, activations.shape[-1])
    _, singular, right = np.linalg.svd(positions)
    projection = positions @ right[0]
    return projection * np.sign(projection.sum()), singular


@SETTINGS
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.booleans())
def test_projection_on_the_first_right_singular_vector(shape, seed, signed):
    """Both Gram matrices, and activations that may be negative (swish networks)."""
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=shape)
    activations = activations + 0.5 if signed else np.abs(activations)
    activations = activations.astype(np.float32)
    projection, singular = projection64(activations)
    # Two singular values that are nearly the same, or a sum near 0, leave the map open.
    assume(len(singular) == 1 or singular[1] < 0.9 * singular[0])
    assume(abs(projection.sum()) > 1e-3 * singular[0])
    expected = np.maximum(projection, 0).reshape(shape[:2])
    np.testing.assert_allclose(eigen_cam(activations), expected, atol=1e-4 * singular[0])


@pytest.mark.parametrize("channels", [2, 9])
def test_one_pattern_is_found_whatever_the_channels_signs(channels):
    """`A = u v^T`: the map is `u |v|`, where u is positive."""
    pattern = np.array([[3.0, 0.0, 1.0], [-1.0, 2.0, 0.0]])
    loadings = np.resize([1.0, -2.0, 0.5], channels)
    expected = np.maximum(pattern, 0) * np.linalg.norm(loadings)
    for sign in (1, -1):
        np.testing.assert_allclose(
            eigen_cam(sign * pattern[..., None] * loadings), expected, rtol=1e-5, atol=1e-5
        )


def test_activations_are_not_centred():
    """The same everywhere, they would vanish."""
    np.testing.assert_allclose(eigen_cam(np.full((2, 3, 4), 0.5)), np.ones((2, 3)), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_give_zeros(shape):
    np.testing.assert_array_equal(eigen_cam(np.zeros(shape)), np.zeros(shape[:2]))


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_does_not_matter(shape, scale):
    """Also where squares underflow or overflow."""
    activations = np.abs(np.random.default_rng(0).normal(size=shape))
    np.testing.assert_allclose(
        reference.normalize(eigen_cam(scale * activations) / scale),
        reference.normalize(eigen_cam(activations)),
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_derivative_is_that_of_finite_differences(shape):
    """Also where channels are 0, so that several singular values are equal."""
    activations = np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    activations[..., :2] = 0

    def total(changed):
        projection, _ = projection64(changed)
        return (np.maximum(projection, 0) ** 2 * np.arange(1, 1 + projection.size)).sum()

    expected = np.zeros(shape)
    for place in np.ndindex(shape):
        step = np.zeros(shape)
        step[place] = 1e-5
        expected[place] = (total(activations + step) - total(activations - step)) / 2e-5
    found = slope(activations)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.isfinite(slope(np.zeros(shape, np.float32))).all()
