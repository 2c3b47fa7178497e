from __future__ import annotations

import numpy as np

from minmax_jax.metrics import sums
from minmax_jax.metrics.sums import Score, Sums

NAMES = ("a", "b")
NUM_ROWS = 3


def _pairs(seed, number=6):
    rng = np.random.default_rng(seed)
    scores = {
        name: Score(rng.normal(size=number).astype(np.float32), rng.uniform(size=number) < 0.7)
        for name in NAMES
    }
    return scores, rng.integers(0, NUM_ROWS, number)


def _expected(*batches):
    totals = {name: np.zeros((2, NUM_ROWS)) for name in NAMES}
    for scores, rows in batches:
        for name in NAMES:
            for value, defined, row in zip(*scores[name], rows, strict=True):
                if defined:
                    totals[name][:, row] += float(value), 1
    return totals


def _assert_same(state, expected):
    assert tuple(state) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(np.stack(state[name]), expected[name], rtol=1e-14, atol=1e-14)


def test_sums_are_kept_by_row():
    zero = sums.zero(NAMES, NUM_ROWS)
    _assert_same(zero, _expected())
    first, second = _pairs(0), _pairs(1)
    state = sums.add(zero, *first)
    _assert_same(state, _expected(first))
    _assert_same(sums.add(state, *second), _expected(first, second))
    _assert_same(sums.merge(state, sums.add(zero, *second)), _expected(first, second))
    _assert_same(zero, _expected())  # as it was
    _assert_same(sums.add(state, *_pairs(2, 0)), _expected(first))


def test_millions_of_small_scores_are_not_lost():
    """float32 would stop at 2**24."""
    state = {"a": Sums(np.array([2.0**24]), np.array([2.0**24]))}
    state = sums.add(state, {"a": Score(np.float32([1]), np.array([True]))}, np.array([0]))
    assert state["a"].total[0] == state["a"].count[0] == 2**24 + 1


def test_scores_that_are_not_defined_may_be_anything():
    scores = {
        name: Score(np.array([2, np.nan, np.inf], np.float32), np.array([True, False, False]))
        for name in NAMES
    }
    state = sums.add(sums.zero(NAMES, 1), scores, np.zeros(3, int))
    for name in NAMES:
        assert (float(state[name].total[0]), float(state[name].count[0])) == (2, 1)


def test_means():
    state = Sums(np.array([3.0, 0.0, 0.0]), np.array([4.0, 0.0, 2.0]))
    np.testing.assert_array_equal(sums.per_row(state), [0.75, np.nan, 0])
    assert sums.per_row(state).dtype == np.float64
    assert sums.mean_defined(sums.per_row(state)) == 0.375
    assert np.isnan(sums.mean_defined(np.array([np.nan])))
    assert sums.ratio(1, 4) == 0.25 and np.isnan(sums.ratio(0, 0))
