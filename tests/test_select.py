"""Policies against numpy, and maps of chosen labels: the same as all labels', for less."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax.select import AllLabels, DetectedLabels, NamedLabels, TopLabels
from tests import reference, toys

LOGITS = np.array(
    [[0.5, -1.0, 3.0, 0.2, -4.0], [-1.0, -0.1, -3.0, -2.0, -5.0], [2.0, 2.0, -1.0, 2.0, 9.0]],
    np.float32,
)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ALL = tuple(
    name
    for name, method in mj.METHODS.items()
    if name != "acol_cam" and method.family != "saliency"  # whose maps are not of a layer's size
)


def run(policy, logits=LOGITS):
    selection = jax.jit(policy)(logits)
    assert selection.labels.dtype == np.int32
    assert selection.chosen.dtype == selection.present.dtype == bool
    return [np.asarray(array).tolist() for array in selection]


def members(rows):
    return [[index in row for index in range(5)] for row in rows]


def test_top_labels_are_the_present_ones():
    """Falling; of equal ones the first."""
    labels, chosen, present = run(TopLabels(3))
    assert labels == [[2, 0, 3], [1, 0, 3], [4, 0, 1]]
    assert chosen == [[True] * 3] * 3
    assert present == members(labels)


def test_detected_labels():
    """Present are all detected labels, also those that no map is made of."""
    labels, chosen, present = run(DetectedLabels(2))
    assert labels == [[2, 0], [1, 0], [4, 0]]
    assert chosen == [[True, True], [False, False], [True, True]]
    assert present == members([[0, 2, 3], [], [0, 1, 3, 4]])


@pytest.mark.parametrize("threshold", [0.1, 0.55, 0.95])
def test_the_threshold_is_a_probability(threshold):
    detected = 1 / (1 + np.exp(-LOGITS.astype(float))) > threshold
    _, chosen, present = run(DetectedLabels(5, threshold))
    assert present == detected.tolist()
    assert np.sum(chosen, axis=1).tolist() == detected.sum(axis=1).tolist()
    assert run(NamedLabels((1,), threshold))[2] == detected.tolist()


def test_named_labels():
    labels, chosen, present = run(NamedLabels((3, 1)))
    assert labels == [[3, 1]] * 3 and chosen == [[True] * 2] * 3
    assert present == members([[3, 1]] * 3)


def test_all_labels():
    labels, chosen, present = run(AllLabels())
    assert labels == [list(range(5))] * 3 and np.all(chosen)
    assert present == (LOGITS > 0).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopLabels(0), "at least 1, not 0"),
        (lambda: TopLabels(6)(LOGITS), "6 labels wanted of a network with 5"),
        (lambda: DetectedLabels(6)(LOGITS), "6 labels wanted of a network with 5"),
        (lambda: DetectedLabels(1, 1.0), r"threshold must be in \(0, 1\), not 1.0"),
        (lambda: NamedLabels(()), "each once, not"),
        (lambda: NamedLabels((1, 1)), "each once, not"),
        (lambda: NamedLabels((1, 5))(LOGITS), "do not all exist among 5 labels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def toy():
    return toys.toy_network(), toys.toy_variables(), toys.toy_images(4)


@pytest.mark.parametrize(
    "policy", [TopLabels(2), DetectedLabels(3), NamedLabels((2, 0)), NamedLabels((1,), 0.3)]
)
def test_maps_of_chosen_labels_are_rows_of_all_maps(policy, toy):
    """With the labels present that the policy says, for all methods."""
    network, variables, images = toy
    maps, logits, selection = mj.make_explain_fn(network, ALL, select=policy, mask_chunk=5)(
        variables, images
    )
    assert selection.present.shape == logits.shape == (4, toys.NUM_LABELS)
    every, _ = mj.make_explain_fn(network, ALL, mask_chunk=5)(variables, images, selection.present)
    live = 0
    for name in ALL:
        assert maps[name].shape == (4, selection.labels.shape[1], 4, 6)
        for b in range(4):
            wanted = np.asarray(every[name])[b, np.asarray(selection.labels[b])]
            np.testing.assert_allclose(maps[name][b], wanted, err_msg=name, **CLOSE)
            live += np.asarray(wanted).max() > 0
    assert live > 10


def test_the_maps_match_the_equations(toy):
    """One label of one image, by the float64 twin."""
    network, variables, images = toy
    maps, logits, selection = mj.explain(
        network, variables, images, method="d_minmax_cam", select=TopLabels(2)
    )
    twin = toys.Toy64(variables, images[1])
    assert selection.labels[1].tolist() == np.argsort(-twin.logits)[:2].tolist()
    present = np.asarray(selection.present[1])
    for rank, label in enumerate(selection.labels[1].tolist()):
        expected = twin.map("d_minmax_cam", present, label)
        np.testing.assert_allclose(maps[1, rank], expected, **CLOSE)


def test_present_may_be_given_beside_a_selection(toy):
    network, variables, images = toy
    present = np.ones((4, toys.NUM_LABELS), bool)
    maps, _, selection = mj.explain(
        network, variables, images, select=NamedLabels((1,)), present=present
    )
    np.testing.assert_array_equal(selection.present, present)
    every, _ = mj.explain(network, variables, images, present=present)
    np.testing.assert_allclose(maps[:, 0], every[:, 1], **CLOSE)


def test_score_cam_weighs_by_the_softmax_of_a_softmax_network(toy):
    network, variables, images = toy
    maps, _ = mj.explain(network, variables, images, method="score_cam", activation="softmax")
    twin = toys.Toy64(variables, images[1])
    weights = np.zeros((toys.CHANNELS["late"], toys.NUM_LABELS))
    for k, mask in reference.score_cam_masks(twin.taps["late"], toys.SIZE).items():
        exponents = np.exp(toys.Toy64(variables, images[1] * mask[..., None]).logits)
        weights[k] = exponents / exponents.sum()
    for label in range(toys.NUM_LABELS):
        expected = reference.weighted_map(twin.taps["late"], weights[:, label])
        np.testing.assert_allclose(maps[1, label], expected, **CLOSE)
    with pytest.raises(ValueError, match="unknown activation 'tanh'; valid: sigmoid, softmax"):
        mj.explain(network, variables, images, activation="tanh")


def temporary_bytes(num_labels):
    """What the compiled program holds beside its arguments and results."""
    methods = [name for name in ALL if name != "score_cam"]
    explain_fn = mj.make_explain_fn(toys.toy_network(), methods, select=TopLabels(3))
    return _compiled(explain_fn, num_labels).memory_analysis().temp_size_in_bytes


def _compiled(explain_fn, num_labels):
    sizes = {"first": (3, 5), "second": (5, 6), "kernel": (6, num_labels), "bias": (num_labels,)}
    variables = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in sizes.items()}
    images = jax.ShapeDtypeStruct((4, 8, 12, 3), jnp.float32)
    return explain_fn.lower(variables, images).compile()


def test_memory_does_not_grow_with_the_square_of_the_labels():
    """Rows of 4 images and 3 labels take about 1 MB; one (c c) array would take 16 MB."""
    assert temporary_bytes(2048) < 4 * 2048**2 / 8


def test_score_cam_keeps_weights_of_the_chosen_labels_only():
    explain_fn = mj.make_explain_fn(toys.toy_network(), "score_cam", select=TopLabels(3))
    every = mj.make_explain_fn(toys.toy_network(), "score_cam")
    # A weight for each of 4 images, 6 channels and 2,048 labels.
    all_weights = 4 * 4 * 6 * 2048
    chosen, whole = (
        _compiled(fn, 2048).memory_analysis().temp_size_in_bytes for fn in (explain_fn, every)
    )
    assert whole - chosen > all_weights / 2


@pytest.mark.parametrize("select", [None, TopLabels(2)])
def test_reduced_precision_is_widened_before_maps_are_made(select, toy):
    """A network in bfloat16: maps are the float32 arithmetic on what it returns."""
    _, variables, images = toy
    methods = ("cam", "grad_cam", "d_minmax_grad_cam", "score_cam")

    def apply(variables, images, perturbations=None):
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (variables, images))
        return toys.toy_apply(*narrow, perturbations)

    explain_fn = mj.make_explain_fn(toys.toy_network(apply=apply), methods, select=select)
    maps, logits, *_ = explain_fn(variables, images)
    assert logits.dtype == np.float32
    narrow = np.asarray(jax.jit(apply)(variables, images)[1]["late"].astype(jnp.float32))
    kernel = variables["kernel"]
    labels = range(toys.NUM_LABELS) if select is None else np.argsort(-logits[1])[:2]
    for rank, label in enumerate(labels):
        expected = np.maximum(narrow[1].astype(float) @ kernel[:, label].astype(float), 0)
        np.testing.assert_allclose(maps["cam"][1, rank], expected, rtol=1e-5, atol=1e-6)
    for name in methods:
        assert maps[name].dtype == np.float32 and np.isfinite(maps[name]).all()


def test_sharded_maps_of_chosen_labels_are_the_unsharded_ones(toy):
    network, variables, images = toy
    made = [
        mj.make_explain_fn(network, ALL, select=TopLabels(2), mask_chunk=8, mesh=mesh)(
            variables, images
        )
        for mesh in (None, parallel.make_mesh(jax.devices()[:4]))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *made)
