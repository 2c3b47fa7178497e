from __future__ import annotations

import math

import numpy as np
import pytest

from minmax_jax import predict as predict_lib
from minmax_jax.predict import predict
from tests import toys


@pytest.fixture(scope="module")
def batches():
    labels = np.random.default_rng(0).uniform(size=(7, toys.NUM_LABELS)) < 0.5
    images = toys.toy_images(7)
    return [
        {"image": images[start : start + 3], "labels": labels[start : start + 3]}
        for start in (0, 3, 6)
    ]


def test_logits_of_every_image_in_one_program(batches):
    apply, variables = toys.CountingApply(), toys.toy_variables()
    network = toys.toy_network(apply=apply)
    logits, labels = predict(network, variables, iter(batches), progress=False)
    assert logits.dtype == np.float32 and labels.dtype == bool
    np.testing.assert_array_equal(labels, np.concatenate([batch["labels"] for batch in batches]))
    expected = [toys.Toy64(variables, image).logits for image in toys.toy_images(7)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert apply.traces == 1  # the smaller last batch and the next call too
    with toys.count_compilations() as compiled:
        predict(network, variables, batches, progress=False)
    assert apply.traces == 1 and compiled == []


def test_errors(batches):
    network, variables = toys.toy_network(), toys.toy_variables()
    with pytest.raises(ValueError, match="there is nothing to predict: no batch was given"):
        predict(network, variables, [], progress=False)
    wrong = batches[0] | {"labels": np.ones((3, 2), bool)}
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), the logits have \(3, 4\)"):
        predict(network, variables, [wrong], progress=False)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4)])
def test_fill_up(shape):
    array = np.random.default_rng(0).integers(1, 9, shape).astype(np.uint8)
    filled = predict_lib.fill_up(array, 5)
    assert filled.shape == (5, *shape[1:]) and filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[:2], array)
    assert not filled[2:].any()
    np.testing.assert_array_equal(predict_lib.fill_up(array, 2), array)


def test_sigmoid_without_overflow():
    for logit in (-30.0, -2.5, 0.0, 0.3, 30.0):
        assert predict_lib.sigmoid(logit) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-14)
    out = predict_lib.sigmoid(np.array([-1e5, -200, 1e5], np.float32))
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, [0, math.exp(-200), 1], rtol=1e-12)


def test_cross_entropy():
    """-mean(y log p + (1 - y) log(1 - p))."""
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)) < 0.5
    total = 0.0
    for logit, label in zip(logits.ravel(), labels.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= math.log(p) if label else math.log(1 - p)
    found = predict_lib.cross_entropy(logits.astype(np.float32), labels)
    assert found == pytest.approx(total / 12, rel=1e-6)
    assert predict_lib.cross_entropy(np.array([[1000.0]]), np.array([[False]])) == 1000
