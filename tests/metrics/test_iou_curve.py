from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics import iou_curve
from minmax_jax.metrics.iou_curve import THRESHOLDS

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SHAPE = (4, 6)

counts_fn = jax.jit(iou_curve.iou_counts)

# Just on, below and above the thresholds, and anywhere; to devices, subnormal numbers are 0.
on_thresholds = st.integers(1, 100).map(lambda k: np.float32(k / 100))
values = st.one_of(
    st.just(np.float32(0)),
    on_thresholds,
    on_thresholds.map(lambda value: np.nextafter(value, np.float32(0))),
    on_thresholds.map(lambda value: min(np.nextafter(value, np.float32(2)), np.float32(1))),
    st.floats(0, 1, width=32, allow_subnormal=False).map(np.float32),
)


def loop_counts(mask, segmentation, label):
    """Threshold by threshold, pixel by pixel."""
    intersection, predicted = [], []
    pixels = [
        (value, int(kind))
        for value, kind in zip(mask.ravel(), segmentation.ravel(), strict=True)
        if kind != 255
    ]
    for k in range(100):
        above = [kind for value, kind in pixels if value > np.float32(k / 100)]
        predicted.append(len(above))
        intersection.append(sum(kind == label + 1 for kind in above))
    return intersection, predicted, sum(kind == label + 1 for _, kind in pixels)


def test_thresholds():
    assert THRESHOLDS.dtype == np.float32
    assert THRESHOLDS.tolist() == [np.float32(f"0.{k:02}") for k in range(100)]


@SETTINGS
@given(
    st.lists(values, min_size=24, max_size=24),
    st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=24, max_size=24),
    st.integers(0, 2),
    st.sampled_from([np.uint8, np.int32]),
)
def test_counts(pixels, segmentation, label, dtype):
    mask = np.array(pixels, np.float32).reshape(SHAPE)
    segmentation = np.array(segmentation, dtype).reshape(SHAPE)
    found = counts_fn(mask, segmentation, label)
    assert all(array.dtype == np.int32 for array in found)
    for array, expected in zip(found, loop_counts(mask, segmentation, label), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_every_value_around_every_threshold():
    """What is on a threshold is not above it."""
    beside = [np.nextafter(THRESHOLDS[1:], np.float32(side)) for side in (-1, 2)]
    mask = np.concatenate([THRESHOLDS, *beside])
    assert mask.dtype == np.float32 and len(np.unique(mask)) == 298
    found = counts_fn(mask[None], np.ones((1, 298), np.uint8), 0)
    np.testing.assert_array_equal(
        found.predicted, [(mask > threshold).sum() for threshold in THRESHOLDS]
    )


def _sums(seed, num_rows, maps):
    """Sums of maps of random rows, and the IoU of each as lists by row."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, max(num_rows - 1, 1), maps)  # the last row has none
    sums, lists = iou_curve.zero(num_rows), [[] for _ in range(num_rows)]
    batches = []
    for row in rows:
        mask = rng.uniform(size=SHAPE).astype(np.float32)
        segmentation = rng.choice([0, 1, 1, 255], SHAPE) * rng.integers(0, 2)
        intersection, predicted, pixels = loop_counts(mask, segmentation, 0)
        batches.append((row, intersection, predicted, pixels))
        if pixels:
            union = [p + pixels - i for p, i in zip(predicted, intersection, strict=True)]
            lists[row].append((intersection, union))
    for start in range(0, maps, 3):
        rows, *counts = zip(*batches[start : start + 3], strict=True)
        counts = iou_curve.Counts(*(np.array(array) for array in counts))
        sums = iou_curve.add(sums, counts, np.array(rows))
    return sums, lists


@pytest.mark.parametrize("iou", ["pooled", "per_image"])
@pytest.mark.parametrize("threshold", [0.15, 0.4, 0])
def test_results(iou, threshold):
    sums, lists = _sums(seed=3, num_rows=4, maps=20)
    assert [len(pairs) for pairs in lists] == sums.images.tolist()
    curves = []
    for pairs in lists[:3]:
        curve = []
        for k in range(100):
            if iou == "pooled":
                numbers = [sum(i[k] for i, _ in pairs) / sum(u[k] for _, u in pairs)]
            else:
                numbers = [i[k] / u[k] for i, u in pairs]
            curve.append(sum(numbers) / len(numbers))
        curves.append(curve)
    mean = [sum(column) / 3 for column in zip(*curves, strict=True)]
    found = iou_curve.result(sums, threshold=threshold, iou=iou)
    at = round(threshold * 100)
    np.testing.assert_allclose(found["per_label"][:3], [curve[at] for curve in curves], rtol=1e-12)
    assert found["per_label"][3] is None
    np.testing.assert_allclose(found["mean"], mean[at], rtol=1e-12)
    np.testing.assert_allclose(found["curve"], mean, rtol=1e-12)
    assert found["best_threshold"] == mean.index(max(mean)) / 100
    assert found["best"] == found["curve"][mean.index(max(mean))]
    json.dumps(found, allow_nan=False)


def test_the_ways_of_pooling_by_hand():
    """A small object that is found, a large one that is missed."""
    counts = iou_curve.Counts(
        np.array([[1] * 100, [0] * 100]), np.array([[1] * 100, [0] * 100]), np.array([1, 9])
    )
    sums = iou_curve.add(iou_curve.zero(1), counts, np.zeros(2, int))
    assert iou_curve.result(sums)["mean"] == 0.1
    assert iou_curve.result(sums, iou="per_image")["mean"] == 0.5


def test_nothing_scored():
    no_object = iou_curve.Counts(np.zeros((2, 100)), np.ones((2, 100)), np.zeros(2))
    sums = iou_curve.add(iou_curve.zero(2), no_object, np.array([0, 1]))
    for iou in ("pooled", "per_image"):
        assert iou_curve.result(sums, iou=iou) == {
            "per_label": [None, None],
            "mean": None,
            "curve": [None] * 100,
            "best_threshold": None,
            "best": None,
        }


@pytest.mark.parametrize("threshold", [0.155, 1.0, -0.01, float("nan")])
def test_another_threshold(threshold):
    with pytest.raises(ValueError, match=r"^threshold must be one of 0.00, .*not"):
        iou_curve.result(iou_curve.zero(1), threshold=threshold)


def test_another_way():
    with pytest.raises(ValueError, match="unknown iou 'both'; valid: pooled, per_image"):
        iou_curve.result(iou_curve.zero(1), iou="both")
