from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics import localization
from minmax_jax.metrics.sums import Sums
from tests import reference

SETTINGS = settings(max_examples=30, deadline=None, derandomize=True)
SHAPE = (4, 5)
THRESHOLD = 0.15


@functools.cache
def scores(threshold):
    return jax.jit(
        jax.vmap(
            lambda mask, segmentation, label: localization.pair_scores(
                mask, segmentation, label, threshold=threshold
            )
        )
    )


def _check(masks, segmentation, threshold=THRESHOLD):
    """Two labels of one image against the loop."""
    segmentations = np.stack([segmentation, segmentation])
    found = scores(threshold)(masks, segmentations, np.arange(2))
    for label in range(2):
        mask = masks[label].astype(float)
        expected = reference.location_scores(mask, segmentation, label, np.float32(threshold))
        assert set(found) == set(expected) == set(localization.SUMS)
        for name, value in expected.items():
            assert bool(found[name].defined[label]) == (value is not None), name
            if value is not None:
                np.testing.assert_allclose(found[name].value[label], value, rtol=1e-5, err_msg=name)
    assert all(np.isfinite(score.value).all() for score in found.values())
    return found


@SETTINGS
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=20, max_size=20),
    st.sampled_from([np.uint8, np.int32]),
)
def test_pair_scores(seed, segmentation, dtype):
    masks = np.random.default_rng(seed).uniform(size=(2, *SHAPE)).astype(np.float32)
    _check(masks, np.array(segmentation, dtype).reshape(SHAPE))


def test_a_map_of_zeros_scores_zero_even_where_the_object_is_first():
    segmentation = np.zeros(SHAPE, np.uint8)
    segmentation[0, 0] = 1
    found = _check(np.zeros((2, *SHAPE), np.float32), segmentation)
    assert {name: float(score.value[0]) for name, score in found.items()} == {
        "intersection": 0,
        "union": 1,
        "iou": 0,
        "pointing_game": 0,
        "energy_on_object": 0,
    }


def test_void_pixels_do_not_count():
    """Neither as the highest pixel, nor as predicted, nor as energy."""
    mask = np.zeros((1, *SHAPE), np.float32)
    mask[0, 0, 0], mask[0, 1, 1], mask[0, 2, 2] = 1.0, 0.6, 0.2
    segmentation = np.zeros((1, *SHAPE), np.uint8)
    segmentation[0, 0, 0], segmentation[0, 1, 1] = 255, 1
    found = scores(THRESHOLD)(mask, segmentation, np.zeros(1, int))
    values = {name: float(score.value[0]) for name, score in found.items()}
    assert values["pointing_game"] == 1 and values["union"] == 2
    np.testing.assert_allclose([values["iou"], values["energy_on_object"]], [1 / 2, 0.6 / 0.8])


def test_everything_void_is_not_scored():
    found = _check(np.ones((2, *SHAPE), np.float32), np.full(SHAPE, 255, np.uint8))
    assert not any(score.defined.any() for score in found.values())


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_pixels_above_the_threshold_are_predicted(threshold):
    masks = np.stack([np.linspace(0, 1, 20), np.full(20, threshold)]).reshape(2, *SHAPE)
    segmentation = np.tile([1, 2], 10).reshape(SHAPE).astype(np.uint8)
    found = _check(masks.astype(np.float32), segmentation, threshold)
    assert found["intersection"].value[1] == 0  # equal is not above


def test_gradient_at_zero_is_finite():
    def total(mask):
        segmentation = jnp.ones(SHAPE, jnp.uint8)
        found = localization.pair_scores(mask, segmentation, 0, threshold=THRESHOLD)
        return sum(score.value for score in found.values())

    assert np.isfinite(jax.jit(jax.grad(total))(jnp.zeros(SHAPE))).all()


VALUES = {
    "intersection": [[3.0, 1.0], [2.0], []],
    "union": [[4.0, 100.0], [2.0], []],
    "iou": [[0.75, 0.01], [1.0], []],
    "pointing_game": [[1.0, 0.0], [1.0], []],
    "energy_on_object": [[0.5, 0.25], [0.1], []],
}


@pytest.mark.parametrize("iou", localization.IOU_MODES)
@pytest.mark.parametrize("values", [VALUES, dict.fromkeys(VALUES, [[], []])], ids=["some", "none"])
def test_results(values, iou):
    state = {
        name: Sums(np.array([sum(row) for row in rows]), np.array([len(row) for row in rows]))
        for name, rows in values.items()
    }
    found = localization.result(state, iou=iou)
    masking = dict.fromkeys(
        sum(reference.F1.values(), ()), [[None]]
    )  # the reference also wants the metrics of its F1
    expected = reference.summarize(values | masking, iou=iou)
    for part in ("per_label", "macro", "micro"):
        assert tuple(found[part]) == localization.METRICS
        for name in localization.METRICS:
            wanted = np.array(expected[part][name], float)
            np.testing.assert_allclose(found[part][name], wanted, rtol=1e-12, err_msg=name)


def test_pooled_and_per_image_iou_by_hand():
    state = {
        name: Sums(np.array([sum(row) for row in rows]), np.array([len(row) for row in rows]))
        for name, rows in VALUES.items()
    }
    pooled, per_image = (localization.result(state, iou=iou) for iou in localization.IOU_MODES)
    np.testing.assert_allclose(pooled["per_label"]["iou"], [4 / 104, 1, np.nan])
    np.testing.assert_allclose(pooled["macro"]["iou"], (4 / 104 + 1) / 2)
    np.testing.assert_allclose(pooled["micro"]["iou"], 6 / 106)
    np.testing.assert_allclose(per_image["per_label"]["iou"], [0.38, 1, np.nan])
    np.testing.assert_allclose(per_image["micro"]["iou"], 1.76 / 3)
