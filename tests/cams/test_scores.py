from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import scores
from tests import reference

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)
SIZES = (1, 2, 5)


def of_all_labels(score):
    """The score's rows of every label of a batch of `present (b c)`."""
    return jax.jit(jax.vmap(lambda present: score(present, jnp.arange(len(present)))))


one_label = of_all_labels(scores.one_label)
minmax = of_all_labels(scores.minmax)
decomposed = of_all_labels(scores.decomposed)
one_versus_rest = of_all_labels(scores.one_versus_rest)
recombine = jax.jit(jax.vmap(scores.recombine))


@st.composite
def present_batches(draw):
    """`(2 c)` bool, of few sizes, so that little is compiled."""
    size = draw(st.sampled_from(SIZES))
    rows = st.lists(st.booleans(), min_size=size, max_size=size)
    return np.array([draw(rows), draw(rows)])


@SETTINGS
@given(present_batches(), st.integers(0, 2**32 - 1))
def test_scores_of_random_logits(present, seed):
    """A row of cotangents times the logits is the score of the equation (Eq. 3, 8)."""
    logits = np.random.default_rng(seed).normal(size=present.shape)
    rows_one, rows_minmax, rows_three = one_label(present), minmax(present), decomposed(present)
    size = present.shape[1]
    assert rows_one.shape == rows_minmax.shape == (2, size, size)
    assert rows_three.shape == (2, size, 3, size)
    assert {rows.dtype for rows in (rows_one, rows_minmax, rows_three)} == {np.dtype("float32")}
    for b in range(2):
        for label in range(size):
            others = reference.others_of(present[b], label)
            everybody = [i for i in range(size) if present[b, i]]
            mean_others = sum(logits[b, n] for n in others) / max(len(others), 1)
            mean_all = sum(logits[b, i] for i in everybody) / max(len(everybody), 1)
            own = logits[b, label]
            expected = [own, own - mean_others, own, mean_others, mean_all]
            rows = np.vstack([rows_one[b, label], rows_minmax[b, label], rows_three[b, label]])
            np.testing.assert_allclose(rows @ logits[b], expected, rtol=1e-6, atol=1e-6)


@SETTINGS
@given(present_batches(), st.integers(0, 2**32 - 1))
def test_one_versus_rest_is_the_logit_less_the_mean_of_all_others(present, seed):
    """Whatever is present; a single label has no others."""
    logits = np.random.default_rng(seed).normal(size=present.shape)
    rows = one_versus_rest(present)
    size = present.shape[1]
    assert rows.shape == (2, size, size) and rows.dtype == np.float32
    for b in range(2):
        for label in range(size):
            rest = [logits[b, n] for n in range(size) if n != label]
            expected = logits[b, label] - (sum(rest) / len(rest) if rest else 0)
            np.testing.assert_allclose(rows[b, label] @ logits[b], expected, rtol=1e-6, atol=1e-6)


def test_rows_of_some_labels_are_rows_of_all_labels():
    """In the order asked for, a label twice too; no array is larger than the rows."""
    present, labels = np.array([True, False, True, True, False]), np.array([3, 1, 3])
    for score, every in (
        (scores.one_label, one_label),
        (scores.minmax, minmax),
        (scores.one_versus_rest, one_versus_rest),
    ):
        np.testing.assert_array_equal(score(present, labels), every(present[None])[0][labels])
    some = scores.decomposed(present, labels)
    assert some.shape == (3, 3, 5)
    np.testing.assert_array_equal(some, decomposed(present[None])[0][labels])


def test_recombined_terms_of_equation_8_and_9():
    terms = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    out = recombine(terms)
    for b in range(2):
        for k in range(4):
            own, others, everybody = (float(value) for value in terms[b, :, k])
            expected = max(0, own) - max(0, others) + min(0, everybody)
            np.testing.assert_allclose(out[b, k], expected, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_with_one_present_label_its_scores_are_its_own_logit(size):
    """Divisor one and an empty sum; the decomposition puts the gradient together again, exactly."""
    gradient = np.random.default_rng(1).normal(size=size).astype(np.float32)
    present = np.eye(size, dtype=bool)
    np.testing.assert_array_equal(
        np.diagonal(minmax(present), axis1=0, axis2=1), np.eye(size, dtype=np.float32)
    )
    for label in range(size):
        terms = np.asarray(decomposed(present))[label, label] * gradient[None]
        np.testing.assert_array_equal(
            np.asarray(recombine(terms[None]))[0], np.eye(size, dtype=np.float32)[label] * gradient
        )


def test_with_no_present_label_minmax_is_the_logit():
    rows = np.asarray(minmax(np.zeros((1, 3), bool)))[0]
    np.testing.assert_array_equal(rows, np.eye(3, dtype=np.float32))
    three = np.asarray(decomposed(np.zeros((1, 3), bool)))[0]
    np.testing.assert_array_equal(three[:, 0], np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(three[:, 1:], np.zeros((3, 2, 3), np.float32))


def test_an_absent_label_is_minimised_against_all_present_ones():
    """Divided by |C|, as Eq. 3 says; by |C| - 1 it would be another score."""
    rows = np.asarray(minmax(np.array([[True, True, True, False]])))[0]
    np.testing.assert_allclose(rows[3], [-1 / 3, -1 / 3, -1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(rows[0], [1, -1 / 2, -1 / 2, 0], rtol=1e-6)


def test_gradient_at_zero_is_finite():
    gradient = jax.jit(jax.grad(lambda terms: scores.recombine(terms).sum()))(np.zeros((3, 4)))
    assert np.isfinite(gradient).all()
