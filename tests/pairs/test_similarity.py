from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minmax_jax import parallel, preemption
from minmax_jax.pairs import network_similarity, similarity_matrix
from minmax_jax.pairs.similarity import check_similarity
from tests import toys

NUMBER = 13  # divided by no number of devices


def softmax(logits):
    """One row, by its equation."""
    exps = [math.exp(logit - max(logits)) for logit in logits]
    return [each / sum(exps) for each in exps]


def looped(probabilities, labels):
    n = len(probabilities[0])
    similarity = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            own = [p[j] for p, label in zip(probabilities, labels, strict=True) if label == i]
            similarity[i, j] = math.fsum(own)
    return similarity


@given(st.integers(0, 1 << 30), st.integers(1, 12), st.integers(2, 5))
def test_sums_over_the_images_of_each_class(seed, m, n):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(n), m)
    labels = rng.integers(0, n - 1, m)  # the last class has no image
    found = similarity_matrix(probabilities, labels)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, looped(probabilities, labels), rtol=1e-13)
    np.testing.assert_array_equal(found[-1], 0)


def test_rows_are_the_images_and_columns_what_they_are_taken_for():
    found = similarity_matrix(jnp.array([[0.5, 0.25, 0.25], [0, 0.5, 0.5]]), jnp.array([0, 0]))
    np.testing.assert_array_equal(found, [[0.5, 0.75, 0.75], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.5, 0.5], [0, 1], r"must be \(m n\) with labels \(m,\), not \(2,\) with \(2,\)"),
        ([[0.5, 0.5]], [0, 1], r"not \(1, 2\) with \(2,\)"),
        ([[0.5, 0.5]], [1.0], "labels must be integers, not float64"),
        ([[0.5, 0.5]] * 3, [1, 2, -1], r"labels\[1\] is 2, valid are 0 to 1"),
        ([[0.5, 0.5]] * 2, [1, -1], r"labels\[1\] is -1, valid are 0 to 1"),
        ([[0.5, 0.5], [0.5, 1.5]], [0, 0], r"probabilities\[1, 1\] is 1.5, not in \[0, 1\]"),
        ([[math.nan, 0.5]], [0], r"probabilities\[0, 0\] is nan"),
    ],
)
def test_what_is_no_classification(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        similarity_matrix(np.array(probabilities), np.array(labels))


@pytest.fixture(scope="module")
def classes():
    """Of each image; the last class has none."""
    return np.random.default_rng(3).integers(0, toys.NUM_LABELS - 1, NUMBER)


@pytest.fixture(scope="module")
def batches(classes):
    images, labels = toys.toy_images(NUMBER), np.eye(toys.NUM_LABELS, dtype=bool)[classes]
    return [
        {"image": images[start : start + 5], "labels": labels[start : start + 5]}
        for start in range(0, NUMBER, 5)
    ]


@pytest.mark.parametrize("devices", [None, 1, 8])
def test_of_a_network(batches, classes, devices):
    apply, variables = toys.CountingApply(), toys.toy_variables()
    mesh = devices and parallel.make_mesh(jax.devices()[:devices])
    network = toys.toy_network(apply=apply)
    found = network_similarity(network, variables, iter(batches), mesh=mesh, progress=False)
    logits = [toys.Toy64(variables, image).logits for image in toys.toy_images(NUMBER)]
    expected = looped([softmax(row) for row in logits], classes)
    assert found.dtype == np.float64 and not expected[-1].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with toys.count_compilations() as compiled:  # the smaller last batch is no other program
        network_similarity(network, variables, batches, mesh=mesh, progress=False)
    assert apply.traces == 1 and compiled == []


def test_eight_devices_equal_one(batches):
    arguments = toys.toy_network(), toys.toy_variables(), batches
    alone = network_similarity(*arguments, progress=False)
    split = network_similarity(*arguments, mesh=parallel.make_mesh(), progress=False)
    np.testing.assert_allclose(split, alone, rtol=1e-6)


def half_logits(variables, images, perturbations=None):
    logits, taps = toys.toy_apply(variables, images, perturbations)
    return logits.astype(jnp.bfloat16), taps


def test_probabilities_of_half_precision_logits_are_not_rounded(batches, classes):
    network, variables = toys.toy_network(apply=half_logits), toys.toy_variables()
    found = network_similarity(network, variables, batches, progress=False)
    logits = jax.jit(half_logits)(variables, toys.toy_images(NUMBER))[0]
    expected = looped([softmax(row) for row in np.asarray(logits, np.float64)], classes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_many_batches_do_not_round(batches):
    arguments = toys.toy_network(), toys.toy_variables()
    once = network_similarity(*arguments, batches[:1], progress=False)
    often = network_similarity(*arguments, batches[:1] * 100, progress=False)
    np.testing.assert_allclose(often, 100 * once, rtol=1e-13)


def test_errors_of_batches(batches):
    network, variables = toys.toy_network(), toys.toy_variables()

    def check(message, *wrong):
        with pytest.raises(ValueError, match=message):
            network_similarity(network, variables, wrong, progress=False)

    check("there is nothing to compare: no batch was given")
    labels = batches[1]["labels"].copy()
    labels[3], labels[4] = True, False
    wrong = batches[1] | {"labels": labels}
    check("batch 1: row 3 has 4 labels, not exactly one", batches[0], wrong)
    labels[3] = labels[2]
    check("batch 1: row 4 has 0 labels, not exactly one", batches[0], wrong)
    wrong = batches[0] | {"labels": np.eye(5, dtype=bool)}
    check(r"labels have shape \(5, 5\), the logits have \(5, 4\)", wrong)
    wrong = batches[0] | {"labels": np.eye(4, dtype=bool)}
    check(r"batch 0: labels have shape \(4, 4\), of 5 images", wrong)
    check("batch 1: there are 5 images, the first had 3", batches[2], batches[0])


def test_outputs_that_are_not_finite_name_their_class(batches, classes):
    images = batches[0]["image"].copy()
    images[1] = math.nan
    wrong = [batches[0] | {"image": images}, *batches[1:]]
    with pytest.raises(ValueError, match=f"images of class {classes[1]} are not finite"):
        network_similarity(toys.toy_network(), toys.toy_variables(), wrong, progress=False)


def test_sigterm_ends_it(batches, monkeypatch):
    monkeypatch.setattr(preemption, "requested", lambda: True)
    with pytest.raises(preemption.Preempted):
        network_similarity(toys.toy_network(), toys.toy_variables(), batches, progress=False)


def test_the_diagonal_of_a_matrix_is_left_out():
    given = np.array([[math.nan, 2], [3, 4]])
    np.testing.assert_array_equal(check_similarity(given), [[0, 2], [3, 0]])
    assert given[1, 1] == 4


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (np.ones((2, 3)), r"must be \(n n\), n at least 2, not \(2, 3\)"),
        (np.ones((1, 1)), r"not \(1, 1\)"),
        (np.ones(4), r"not \(4,\)"),
        ([[1, 2], [math.inf, 3]], r"similarity\[1, 0\] is inf, not finite"),
    ],
)
def test_what_is_no_similarity(similarity, message):
    with pytest.raises(ValueError, match=message):
        check_similarity(similarity)
