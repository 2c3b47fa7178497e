"""Numbers of a kernel against scipy and numpy, and against kernels whose answer is known."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from minmax_jax.metrics.kernels import (
    chance_correlation,
    cluster_order,
    mean_of_pairs,
    shared_kernels,
    top_kernels,
    unit_correlations,
    weight_statistics,
)

KERNELS = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 5)),
    elements=st.floats(-9, 9, width=16),
)


def test_statistics_are_those_of_scipy():
    kernel = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32) ** 3
    found = weight_statistics(kernel)
    expected = scipy.stats.skew(kernel.astype(np.float64))
    np.testing.assert_allclose(found["skewness"], expected, rtol=1e-12)
    assert found["positive"] == [sum(map(bool, column > 0)) / 200 for column in kernel.T]
    for column, mass in zip(kernel.astype(np.float64).T, found["mass"], strict=True):
        assert mass == pytest.approx(sum(w for w in column if w > 0) / sum(map(abs, column)))


@hypothesis.given(KERNELS)
def test_histograms_count_every_weight_and_part_at_zero(kernel):
    found = weight_statistics(kernel)
    edges = found["edges"]
    assert 0 in edges and edges == sorted(set(edges)) and len(edges) <= 45
    for column, counts, positive in zip(kernel.T, found["counts"], found["positive"], strict=True):
        expected = [0] * (len(edges) - 1)
        for weight in map(float, column):
            inside = [i for i in range(len(expected)) if edges[i] < weight <= edges[i + 1]]
            expected[inside[0] if inside else 0] += 1
        assert counts == expected
        above = sum(count for edge, count in zip(edges, counts, strict=False) if edge >= 0)
        assert above == sum(column > 0) and positive == above / len(column)
    assert np.isfinite(found["skewness"]).all() and np.isfinite(found["mass"]).all()


@pytest.mark.parametrize("extreme", [0.7864077410392537, -0.7864077410392537])
def test_the_extreme_weight_is_counted_where_edges_are_rounded(extreme):
    assert np.sum(weight_statistics(np.array([[0.0], [extreme]]))["counts"]) == 2


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_a_constant_unit_has_no_shape(value):
    kernel = np.stack([np.full(7, value), np.arange(7)], axis=1)
    found = weight_statistics(kernel)
    assert found["skewness"][0] == 0 and found["mass"][0] == (value > 0)
    np.testing.assert_array_equal(unit_correlations(kernel), np.eye(2))


def test_correlations_are_those_of_numpy():
    kernel = np.random.default_rng(0).normal(size=(30, 6))
    kernel[:, 4] = 2 - 3 * kernel[:, 1]
    found = unit_correlations(kernel.astype(np.float32))
    np.testing.assert_allclose(found, np.corrcoef(kernel.T), atol=1e-6)
    assert found[4, 1] == pytest.approx(-1) and (np.diag(found) == 1).all()


@pytest.mark.parametrize("kernels", [2, 3, 5, 40])
def test_correlations_of_unrelated_units(kernels):
    found = unit_correlations(np.random.default_rng(0).normal(size=(kernels, 600)))
    assert mean_of_pairs(np.abs(found)) == pytest.approx(chance_correlation(kernels), rel=0.02)


def test_correlated_units_stand_side_by_side():
    rng = np.random.default_rng(0)
    kinds = np.array([0, 1, 2, 0, 1, 2, 0])
    kernel = rng.normal(size=(50, 3))[:, kinds] + 0.2 * rng.normal(size=(50, 7))
    order = cluster_order(unit_correlations(kernel))
    assert sorted(order) == list(range(7))
    assert len(list(itertools.groupby(kinds[order]))) == 3


@pytest.mark.parametrize("units", [1, 2])
def test_order_of_few_units(units):
    assert sorted(cluster_order(np.eye(units))) == list(range(units))


@hypothesis.given(KERNELS, st.integers(1, 15))
def test_top_kernels_against_a_plain_search(kernel, top):
    for column, found in zip(kernel.T, top_kernels(kernel, top), strict=True):
        left = {index: weight for index, weight in enumerate(column) if weight > 0}
        expected = []
        while left and len(expected) < top:
            best = max(left, key=lambda index: (left[index], -index))
            expected.append(best)
            del left[best]
        assert found == expected


def test_shared_kernels_of_a_known_kernel():
    kernel = np.zeros((6, 4))
    kernel[[0, 1, 2], 0] = 3, 2, 1
    kernel[[1, 2, 3], 1] = 1, 2, 3
    kernel[[4, 5], 2] = 1, 1
    kernel[:, 3] = -1
    tops = top_kernels(kernel, 3)
    assert tops == [[0, 1, 2], [3, 2, 1], [4, 5], []]
    shared = shared_kernels(tops)
    np.testing.assert_array_equal(shared, [[3, 2, 0, 0], [2, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    assert mean_of_pairs(shared) == pytest.approx(2 / 6)
    assert mean_of_pairs(np.ones((1, 1))) is None


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (np.zeros(3), r"must have shape \(k c\), got \(3,\)"),
        (np.zeros((0, 2)), r"must have shape \(k c\), got \(0, 2\)"),
        (np.array([[1.0, np.nan]]), "not finite"),
    ],
)
def test_kernels_that_are_none(kernel, match):
    for function in (weight_statistics, unit_correlations, lambda k: top_kernels(k, 1)):
        with pytest.raises(ValueError, match=match):
            function(kernel)


def test_top_below_one():
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        top_kernels(np.ones((2, 2)), 0)
