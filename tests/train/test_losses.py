"""Losses against plain loops, and torch's where it is installed."""

from __future__ import annotations

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from minmax_jax.train import get_loss
from minmax_jax.train.losses import LOSSES


def loop(name, logits, labels):
    """Mean cross-entropy of one classifier, entry by entry."""
    total = 0.0
    for row, truth in zip(logits.tolist(), labels.tolist(), strict=True):
        if name == "softmax":
            powers = [math.exp(value) for value in row]
            terms = [-math.log(power / sum(powers)) for power in powers]
            total += sum(term for term, true in zip(terms, truth, strict=True) if true) / sum(truth)
        else:
            for value, true in zip(row, truth, strict=True):
                total -= math.log(1 / (1 + math.exp(-value if true else value))) / len(row)
    return total / len(logits)


def make(seed, images, classes, *, several=False):
    """Logits, and labels of which each image has one, or at least one."""
    rng = np.random.default_rng(seed)
    labels = np.eye(classes, dtype=bool)[rng.integers(classes, size=images)]
    if several:
        labels |= rng.random(labels.shape) < 0.4
    return rng.normal(0, 3, (images, classes)), labels


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(
    name=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 99),
    images=st.sampled_from((1, 4)),
    classes=st.sampled_from((1, 4)),
    several=st.booleans(),
)
def test_losses_are_loops(name, seed, images, classes, several):
    logits, labels = make(seed, images, classes, several=several)
    expected = loop(name, logits, labels)
    loss = get_loss(name)
    assert loss.in_float64(logits, labels) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    found = jax.jit(loss.of_classifiers)(np.float32(logits), labels)
    assert found.dtype == jnp.float32 and found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_classifiers_trained_together_add_their_losses(name):
    (first, labels), (second, _) = make(0, 6, 3), make(1, 6, 3)
    found = get_loss(name).of_classifiers(jnp.float32(np.stack([first, second], 1)), labels)
    expected = loop(name, first, labels) + loop(name, second, labels)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    alone = get_loss(name).of_classifiers(jnp.float32(first[:, None]), labels)
    assert float(alone) == pytest.approx(loop(name, first, labels), rel=1e-5)


def test_softmax_is_torchs():
    torch = pytest.importorskip("torch")
    logits, labels = make(3, 7, 4)
    theirs = torch.tensor(logits, requires_grad=True)
    total = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels.argmax(axis=1)))
    total.backward()
    loss, gradient = jax.value_and_grad(get_loss("softmax").of_classifiers)(
        jnp.float32(logits), jnp.array(labels)
    )
    np.testing.assert_allclose(loss, total.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert get_loss("softmax").in_float64(logits, labels) == pytest.approx(total.item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_have_finite_losses_and_probabilities(name):
    logits, labels = np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([[True, False], [True, False]])
    expected = {"softmax": 1e4, "sigmoid": 5e3}[name]  # The mean over images, or over all entries.
    loss = get_loss(name)
    assert loss.in_float64(logits, labels) == expected
    assert float(loss.of_classifiers(jnp.float32(logits), jnp.array(labels))) == expected
    np.testing.assert_array_equal(loss.probabilities(logits), [[1, 0], [0, 1]])


def test_probabilities_are_those_of_the_loss():
    logits = np.array([[0.0, math.log(3)]])
    np.testing.assert_allclose(get_loss("softmax").probabilities(logits), [[0.25, 0.75]])
    np.testing.assert_allclose(get_loss("sigmoid").probabilities(logits), [[0.5, 0.75]])


def test_loss_that_is_infinite_or_nan_is_told_without_a_warning():
    labels = np.array([[True, False]])
    for logits, expected in (
        ([[-np.inf, 0]], np.inf),
        ([[np.inf, 0]], np.nan),
        ([[np.nan, 0]], np.nan),
    ):
        np.testing.assert_equal(get_loss("softmax").in_float64(np.array(logits), labels), expected)
    assert get_loss("softmax").in_float64(np.array([[0, -np.inf]]), labels) == 0


def test_images_without_a_label_are_told_where_one_is_needed():
    labels = np.array([[True, False], [False, False]])
    get_loss("sigmoid").check_labels(labels)
    get_loss("softmax").check_labels(labels[:1])
    with pytest.raises(ValueError, match="at least one label an image"):
        get_loss("softmax").check_labels(labels)


def test_unknown_loss_is_named():
    with pytest.raises(ValueError, match="unknown loss 'hinge', valid: sigmoid, softmax"):
        get_loss("hinge")
