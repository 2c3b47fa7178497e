from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics import masking
from minmax_jax.metrics.sums import Sums
from tests import reference

SETTINGS = settings(max_examples=30, deadline=None, derandomize=True)
NUM_LABELS = 4
SCORES = {
    others: jax.jit(
        jax.vmap(
            lambda *arrays, others=others: masking.pair_scores(*arrays, others=others),
        )
    )
    for others in masking.OTHERS
}

probabilities = st.lists(
    st.sampled_from([0.0, 1e-30, 0.01, 0.3, 0.5, 0.51, 0.9, 1.0]),
    min_size=NUM_LABELS,
    max_size=NUM_LABELS,
)


def _check(original, kept, dropped, present, others):
    """All labels of one image against Eq. 10 to 14."""
    arrays = [np.array(array, np.float32) for array in (original, kept, dropped)]
    rows = [np.broadcast_to(array, (NUM_LABELS, NUM_LABELS)) for array in arrays]
    found = SCORES[others](
        *rows, np.arange(NUM_LABELS), np.broadcast_to(present, (NUM_LABELS, NUM_LABELS))
    )
    assert set(found) == set(masking.METRICS)
    for label in range(NUM_LABELS):
        expected = reference.pair_scores(*arrays, label, present, others)
        for metric, value in expected.items():
            assert bool(found[metric].defined[label]) == (value is not None)
            np.testing.assert_allclose(found[metric].value[label], value or 0.0, rtol=1e-5)


@SETTINGS
@given(
    probabilities,
    probabilities,
    probabilities,
    st.lists(st.booleans(), min_size=NUM_LABELS, max_size=NUM_LABELS),
    st.sampled_from(masking.OTHERS),
)
def test_pair_scores_of_equations_10_to_14(original, kept, dropped, present, others):
    _check(original, kept, dropped, np.array(present), others)


@pytest.mark.parametrize("others", masking.OTHERS)
@pytest.mark.parametrize("present", [[0, 1, 0, 0], [0, 0, 0, 0]])
def test_without_other_labels(others, present):
    _check([0.2, 0.9, 0.1, 0.6], [0.1] * 4, [0.5] * 4, np.array(present, bool), others)


def test_probabilities_that_underflow_give_no_nan():
    """A logit of -200 is probability 0 in float32: there is nothing to drop from."""
    zero = np.asarray(jax.nn.sigmoid(jnp.full((1, 3), -200.0)))
    assert zero.max() == 0
    present = np.array([[True, True, False]])
    for kept in (zero, zero + 0.5):
        found = SCORES["zero"](zero, kept, kept, np.array([0]), present)
        values = {metric: float(score.value[0]) for metric, score in found.items()}
        rises = float(kept.max() > 0)
        assert values.pop("increase_in_confidence") == rises
        assert set(values.values()) == {0.0}
    small = jax.nn.sigmoid(jnp.linspace(-110.0, -80.0, 31))[:, None]  # across the subnormals
    found = SCORES["zero"](small, small / 2, small / 2, jnp.zeros(31, int), jnp.ones((31, 1), bool))
    assert all(np.isfinite(score.value).all() for score in found.values())


def test_gradients_at_zero_are_finite():
    def total(original, kept, dropped, present):
        found = masking.pair_scores(original, kept, dropped, 0, present)
        return sum(score.value for score in found.values())

    zeros, gradient = jnp.zeros(NUM_LABELS), jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    for present in (np.ones(NUM_LABELS, bool), np.zeros(NUM_LABELS, bool)):
        found = gradient(zeros, zeros, zeros, present)
        assert all(np.isfinite(derivative).all() for derivative in found)


# Values of the pairs of three labels; the last label has none.
VALUES = {
    "increase_in_confidence": [[1, 0, 0], [1], []],
    "average_drop": [[0.2, 0.5, 0.9], [0.3], []],
    "average_drop_of_others": [[0.1, None, 0.3], [None], []],
    "average_retention": [[0.6, 0.4, 0.8], [0.7], []],
    "average_retention_of_others": [[0.0, None, 0.5], [None], []],
}
AS_ZERO = {
    name: [[0.0 if value is None else value for value in row] for row in rows]
    for name, rows in VALUES.items()
}


def _state(values):
    def one(rows):
        defined = [[value for value in row if value is not None] for row in rows]
        return Sums(
            np.array([sum(row) for row in defined], float),
            np.array([len(row) for row in defined], float),
        )

    return {name: one(rows) for name, rows in values.items()}


def _assert_same(found, expected):
    assert found.keys() == expected.keys()
    for part in ("per_label", "macro", "micro"):
        assert found[part].keys() == expected[part].keys()
        for metric, wanted in expected[part].items():
            wanted = np.array(wanted, float)  # None becomes NaN
            np.testing.assert_allclose(found[part][metric], wanted, rtol=1e-12, err_msg=metric)


@pytest.mark.parametrize("f1", masking.F1_MODES)
@pytest.mark.parametrize("values", [AS_ZERO, VALUES], ids=["zero", "skip"])
def test_results(values, f1):
    found = masking.result(_state(values), f1=f1)
    _assert_same(found, reference.summarize(values, f1=f1))


def test_macro_and_f1_by_hand():
    found = masking.result(_state(AS_ZERO))
    drop, retention_of_others = [1.6 / 3, 0.3], [0.5 / 3, 0.0]
    assert math.isclose(found["macro"]["average_drop"], sum(drop) / 2)
    assert math.isclose(found["micro"]["average_drop"], 1.9 / 4)
    first = 2 * drop[0] * retention_of_others[0] / (drop[0] + retention_of_others[0])
    assert math.isclose(found["per_label"]["f1_minus"][0], first)
    assert found["per_label"]["f1_minus"][1] == 0
    assert math.isclose(found["macro"]["f1_minus"], first / 2)
    averages = masking.result(_state(AS_ZERO), f1="averages")["macro"]
    a, b = averages["average_drop"], averages["average_retention_of_others"]
    assert math.isclose(averages["f1_minus"], 2 * a * b / (a + b))
    assert not math.isclose(averages["f1_minus"], first / 2)


def test_harmonic_mean():
    found = masking.harmonic_mean([0.0, 0.5, 0.2, np.nan], [0.0, 0.0, 0.6, 0.5])
    np.testing.assert_allclose(found, [0, 0, 0.3, np.nan])


@pytest.mark.parametrize("f1", masking.F1_MODES)
def test_without_a_pair_nothing_is_defined(f1):
    found = masking.result(_state({name: [[], []] for name in masking.METRICS}), f1=f1)
    for part in ("macro", "micro"):
        assert all(math.isnan(value) for value in found[part].values())
    assert all(np.isnan(values).all() for values in found["per_label"].values())
