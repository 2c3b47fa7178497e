from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import maps
from tests import reference

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)

normalize = jax.jit(jax.vmap(maps.normalize_maps))
is_flat = jax.jit(jax.vmap(maps.is_flat))


@SETTINGS
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=12, max_size=12))
def test_normalisation(values):
    raw = np.array(values, np.float32).reshape(2, 2, 3)
    out = normalize(raw)
    assert out.dtype == np.float32
    for b in range(2):
        expected = reference.normalize(raw[b].astype(float))
        # Differences of large neighbours are exact; only the last step rounds.
        np.testing.assert_allclose(out[b], expected, rtol=1e-5, atol=1e-6)
        assert is_flat(raw)[b] == (len(set(raw[b].ravel().tolist())) == 1)


@pytest.mark.parametrize("value", [0.0, 3.7, -2.0])
def test_a_constant_map_becomes_zero(value):
    constant = np.full((1, 2, 4, 3), value, np.float32)
    np.testing.assert_array_equal(normalize(constant), np.zeros_like(constant))
    assert is_flat(constant).tolist() == [[True, True]]


def test_each_map_of_a_batch_is_normalised_alone():
    raw = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    raw[1, 2] = 100 * raw[1, 2] + 7
    raw[0, 0] = 5
    out = maps.normalize_maps(raw)
    for b in range(2):
        for c in range(3):
            expected = reference.normalize(raw[b, c].astype(float))
            np.testing.assert_allclose(out[b, c], expected, rtol=1e-5, atol=1e-6)
    assert maps.is_flat(raw).tolist() == [[True, False, False], [False, False, False]]


@pytest.mark.parametrize("size", [(6, 8), (7, 11), (3, 4), (2, 9), (1, 1), (2, 2)])
def test_resize_is_bilinear_with_half_pixel_centres(size):
    """Up, by fractions, not at all, down without antialiasing, to one pixel."""
    raw = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    out = jax.jit(jax.vmap(lambda one: maps.resize_maps(one, size)))(raw)
    assert out.shape == (2, *size) and out.dtype == np.float32
    for b in range(2):
        np.testing.assert_allclose(out[b], reference.resize(raw[b].astype(float), size), atol=1e-5)


def test_resize_of_one_cell_and_of_leading_axes():
    raw = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    out = maps.resize_maps(raw, (2, 3))
    np.testing.assert_allclose(out, np.broadcast_to(raw, (2, 3, 2, 3)), rtol=1e-6)


def test_gradients_at_zero_are_finite():
    def total(raw):
        return (maps.normalize_maps(maps.resize_maps(maps.normalize_maps(raw), (6, 6))) ** 2).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(jnp.zeros((2, 3, 3)))).all()


def test_maps_as_small_as_float32_goes_stay_finite():
    steps = np.array([[[0, 1], [2, 3]]], np.float32)
    for scale in (1e-36, 1e-39, 1e-45):
        out = np.asarray(normalize(steps * np.float32(scale)))
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
