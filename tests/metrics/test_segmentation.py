from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics import segmentation

NUM_LABELS = 3
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)

pixels = st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=12, max_size=12)


def loop_ious(pairs):
    """Class by class, pixel by pixel, over `(true, predicted)` of all images."""
    kept = [(t, p) for t, p in pairs if t != 255 and p != 255]
    ious = []
    for number in range(1 + NUM_LABELS):
        both = sum(t == number and p == number for t, p in kept)
        either = sum(t == number or p == number for t, p in kept)
        ious.append(both / either if either else None)
    return ious


@SETTINGS
@given(st.lists(st.tuples(pixels, pixels), min_size=1, max_size=3))
def test_scores_are_those_of_a_loop(images):
    matrix = sum(
        segmentation.confusion(
            np.uint8(true).reshape(3, 4), np.array(predicted).reshape(3, 4), NUM_LABELS
        )
        for true, predicted in images
    )
    ious = loop_ious([pair for true, found in images for pair in zip(true, found, strict=True)])
    result = segmentation.result(matrix)
    assert [result["background"], *result["per_label"]] == pytest.approx(ious, nan_ok=False)
    defined = [iou for iou in ious if iou is not None]
    expected = sum(defined) / len(defined) if defined else None
    assert result["mean"] == pytest.approx(expected)
    json.dumps(result, allow_nan=False)


def test_rows_are_the_truth():
    matrix = segmentation.confusion(np.array([[1, 1, 0]]), np.array([[2, 2, 1]]), 2)
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [0, 0, 2], [0, 0, 0]])
    assert matrix.dtype == np.int64


def test_several_images_at_once():
    rng = np.random.default_rng(0)
    true, found = rng.choice([0, 1, 2, 255], (2, 5, 4, 6)).astype(np.uint8)
    alone = sum(segmentation.confusion(t, f, 2) for t, f in zip(true, found, strict=True))
    np.testing.assert_array_equal(segmentation.confusion(true, found, 2), alone)


def test_an_absent_class_does_not_count_and_a_missed_one_does():
    """Label 1 is in neither, label 2 is missed."""
    matrix = segmentation.confusion(np.array([[0, 0, 3, 0]]), np.array([[0, 0, 0, 255]]), 3)
    result = segmentation.result(matrix)
    assert result["per_label"] == [None, None, 0.0]
    assert result["background"] == pytest.approx(2 / 3) and result["mean"] == pytest.approx(1 / 3)


def test_nothing_but_void():
    void = np.full((2, 2), 255)
    result = segmentation.result(segmentation.confusion(void, void, 2))
    assert result == {"mean": None, "background": None, "per_label": [None, None]}


@pytest.mark.parametrize(
    ("true", "found", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"segmentation is \(2, 3\), predicted \(3, 2\)"),
        ([[4]], [[0]], "segmentation holds the value 4: valid are 0, 1 to 3 .* and 255"),
        ([[0]], [[-1]], "predicted holds the value -1"),
    ],
)
def test_errors(true, found, message):
    with pytest.raises(ValueError, match=message) as error:
        segmentation.confusion(true, found, NUM_LABELS)
    assert "\n" not in str(error.value)
