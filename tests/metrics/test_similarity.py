"""Similarities of maps against SciPy and against plain loops in float64."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from minmax_jax.metrics.similarity import rank_correlation, ssim


def ssim_loop(first, second):
    """Wang et al. (2004), Eq. 13 with Gaussian windows, averaged over the windows."""
    first, second = np.float64(first), np.float64(second)
    window = {
        (i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2))
        for i in range(-5, 6)
        for j in range(-5, 6)
    }
    total = sum(window.values())
    values = []
    for row in range(5, first.shape[0] - 5):
        for column in range(5, first.shape[1] - 5):
            cells = [(w / total, (row + i, column + j)) for (i, j), w in window.items()]
            mean_x = sum(w * first[cell] for w, cell in cells)
            mean_y = sum(w * second[cell] for w, cell in cells)
            var_x = sum(w * (first[cell] - mean_x) ** 2 for w, cell in cells)
            var_y = sum(w * (second[cell] - mean_y) ** 2 for w, cell in cells)
            cov = sum(w * (first[cell] - mean_x) * (second[cell] - mean_y) for w, cell in cells)
            values.append(
                (2 * mean_x * mean_y + 1e-4)
                * (2 * cov + 9e-4)
                / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4))
            )
    return np.mean(values)


def maps(seed, shape=(13, 15)):
    """Smooth, noisy and nearly constant maps in 0..1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 6
    return np.float32(
        [
            0.5 + 0.5 * np.sin(x + y),
            0.5 + 0.5 * np.sin(x + y + 0.4),
            rng.random(shape),
            0.97 + 0.001 * rng.random(shape),
            np.zeros(shape),
            np.maximum(0, np.sin(2 * x)),
        ]
    )


@pytest.mark.parametrize(("i", "j"), [(0, 1), (0, 2), (2, 5), (3, 2), (4, 5), (3, 4)])
def test_ssim_is_that_of_a_loop(i, j):
    first, second = maps(3)[[i, j]]
    wanted = ssim_loop(first, second)
    assert float(ssim(first, second)) == pytest.approx(wanted, abs=2e-5)
    assert float(ssim(second, first)) == pytest.approx(wanted, abs=2e-5)


def test_ssim_of_equal_and_opposite_maps():
    waves = maps(0)[0]
    assert float(ssim(waves, waves)) == pytest.approx(1, abs=1e-6)
    assert float(ssim(waves, 1 - waves)) < 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=12, max_size=12),
    st.lists(st.integers(-4, 4), min_size=12, max_size=12),
)
def test_rank_correlation_is_that_of_scipy(first, second):
    """Small integers: many ties. Also of the absolute values."""
    first, second = np.float32(first).reshape(3, 4), np.float32(second).reshape(3, 4)
    for x, y in ((first, second), (abs(first), abs(second))):
        found = float(rank_correlation(x, y))
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert found == 0
        else:
            wanted = stats.spearmanr(x.ravel(), y.ravel()).statistic
            assert found == pytest.approx(wanted, abs=1e-6)


def test_zeros_of_both_signs_are_equal():
    first, second = np.float32([[0.0, -0.0, 1, -1]]), np.float32([[3, 3, 5, 1]])
    assert float(rank_correlation(first, second)) == pytest.approx(1)


def test_rank_correlation_of_a_large_map():
    """Its ranks have five digits, and half of its pixels are equal."""
    rng = np.random.default_rng(0)
    first = np.maximum(rng.normal(size=(224, 224)), 0).astype(np.float32)
    second = (first + rng.normal(size=first.shape)).astype(np.float32)
    wanted = stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert float(jax.jit(rank_correlation)(first, second)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("measure", [ssim, rank_correlation])
def test_many_pairs_at_once(measure):
    batch = maps(5)
    together = jax.jit(jax.vmap(measure))(batch, batch[::-1])
    alone = [measure(a, b) for a, b in zip(batch, batch[::-1], strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-5)


def test_maps_that_cannot_be_compared():
    with pytest.raises(ValueError, match=r"of one shape are needed, not \(12, 12\) and \(12, 13\)"):
        ssim(np.zeros((12, 12)), np.zeros((12, 13)))
    with pytest.raises(ValueError, match=r"one shape are needed, not \(4,\) and \(4,\)"):
        rank_correlation(np.zeros(4), np.zeros(4))
    with pytest.raises(ValueError, match=r"at least 11 x 11, not \(10, 12\)"):
        ssim(np.zeros((10, 12)), np.zeros((10, 12)))
