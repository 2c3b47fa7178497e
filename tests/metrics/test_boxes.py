from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics import boxes

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SHAPE = (6, 7)

levels = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])
values = st.lists(levels, min_size=42, max_size=42).map(
    lambda pixels: np.array(pixels, np.float32).reshape(SHAPE)
)
# Few kinds of pixels, in patches of 1 x 7 too, so that components are large and many.
segmentations = st.lists(st.sampled_from([0, 0, 1, 2, 255]), min_size=42, max_size=42).map(
    lambda pixels: np.array(pixels, np.uint8).reshape(SHAPE)
)


def flood(pixels):
    """Sizes and boxes of the components of a bool image, by flood fill, as they are come upon."""
    left = {(y, x) for y, x in np.ndindex(pixels.shape) if pixels[y, x]}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        inside, stack = [start], [start]
        while stack:
            y, x = stack.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
            inside.extend(near)
        ys, xs = zip(*inside, strict=True)
        found.append((len(inside), [min(ys), min(xs), max(ys) + 1, max(xs) + 1]))
    return found


def loop_boxes(pixels):
    return [box for _, box in sorted(flood(pixels), key=lambda part: -part[0])]


def loop_iou(first, second):
    """By counting pixels."""
    inside = [
        {(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])}
        for box in (first, second)
    ]
    return len(inside[0] & inside[1]) / len(inside[0] | inside[1])


@SETTINGS
@given(values, st.sampled_from([0.0, 0.2, 0.4, 0.8, 1.0]))
def test_boxes_of_a_map(mask, threshold):
    expected = loop_boxes(mask > np.float32(threshold))
    found = boxes.map_boxes(mask, np.float32(threshold), largest=False)
    assert found.dtype == np.int64 and found.shape == (len(expected), 4)
    assert found.tolist() == expected
    assert boxes.map_boxes(mask, np.float32(threshold)).tolist() == expected[:1]


@SETTINGS
@given(segmentations, st.integers(0, 2))
def test_boxes_of_a_segmentation(segmentation, label):
    found = boxes.segmentation_boxes(segmentation, label)
    assert found.tolist() == loop_boxes(segmentation == label + 1)


def test_pixels_that_touch_by_a_corner_are_one_component():
    pixels = np.zeros(SHAPE)
    pixels[1, 2] = pixels[2, 3] = 1
    pixels[4:6, 0:2] = 1
    assert boxes.map_boxes(pixels, 0.5, largest=False).tolist() == [[4, 0, 6, 2], [1, 2, 3, 4]]
    assert boxes.map_boxes(pixels, 1.0).shape == (0, 4)


corners = st.tuples(*[st.integers(0, 5)] * 2, *[st.integers(1, 4)] * 2).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)


@SETTINGS
@given(st.lists(corners, min_size=1, max_size=3), st.lists(corners, min_size=1, max_size=3))
def test_box_iou(first, second):
    expected = [[loop_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(boxes.box_iou(np.array(first), np.array(second)), expected)


def test_box_iou_of_small_integers():
    """Whose differences wrap and whose areas overflow."""
    first, second = [[0, 0, 2, 2], [0, 0, 200, 200]], [[5, 5, 7, 7], [100, 0, 200, 200]]
    expected = [[loop_iou(a, b) for b in second] for a in first]
    found = boxes.box_iou(np.array(first, np.uint8), np.array(second, np.uint8))
    np.testing.assert_allclose(found, expected)


def loop_pair(mask, segmentation, label):
    """The best IoU at each threshold, of the largest component and of any."""
    true = loop_boxes(segmentation == label + 1)
    if not true:
        return None
    curves = [[], []]
    for k in range(20):
        found = loop_boxes(mask > np.float32(k / 20))
        ious = [max(loop_iou(box, other) for other in true) for box in found] or [0.0]
        curves[0].append(ious[0])
        curves[1].append(max(ious))
    return curves


@SETTINGS
@given(values, segmentations, st.integers(0, 1))
def test_pair_ious(mask, segmentation, label):
    expected = loop_pair(mask, segmentation, label)
    found = boxes.pair_ious(mask, segmentation, label)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_thresholds():
    assert boxes.THRESHOLDS.tolist() == [np.float32(f"{k / 20:.2f}") for k in range(20)]


def test_scores_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    pairs, sums = [], boxes.zero(4)
    while len(pairs) < 24:
        segmentation = np.zeros(SHAPE, np.uint8)
        y, x = rng.integers(0, 4, 2)
        segmentation[y : y + 3, x : x + 3] = 1
        mask = 0.6 * rng.uniform(size=SHAPE) + 0.4 * (segmentation * rng.uniform() > 0.3)
        # The last label has no pair.
        pairs.append((rng.integers(3), loop_pair(mask, segmentation, 0)))
        if len(pairs) % 3 == 0:
            rows, ious = zip(*pairs[-3:], strict=True)
            sums = boxes.add(sums, np.array(ious), np.array(rows))
    result = boxes.max_box_accuracy(sums)

    def share(label, curve, iou, at):
        chosen = [ious for row, ious in pairs if label in (None, row)]
        return sum(ious[curve][at] >= iou for ious in chosen) / len(chosen)

    for form, curve, wanted in (("v1", 0, [0.5]), ("v2", 1, [0.3, 0.5, 0.7])):
        best, thresholds, labels = [], [], np.zeros(3)
        for iou in wanted:
            shares = [share(None, curve, iou, at) for at in range(20)]
            at = shares.index(max(shares))
            best.append(shares[at])
            thresholds.append(at / 20)
            labels += [share(label, curve, iou, at) / len(wanted) for label in range(3)]
        assert result[form]["micro"] == pytest.approx(sum(best) / len(best))
        assert result[form]["thresholds"] == thresholds
        assert result[form]["per_label"] == pytest.approx([*labels, None])
        assert result[form]["macro"] == pytest.approx(labels.mean())
        assert 0 < result[form]["micro"] < 1
    assert set(result) == {"v1", "v2"} and sums.pairs.sum() == 24
    json.dumps(result, allow_nan=False)


def test_the_two_forms_by_hand():
    """The largest component lies beside the object, the second one covers it by 2 of 3 columns."""
    mask, segmentation = np.zeros(SHAPE), np.zeros(SHAPE, int)
    segmentation[0:2, 0:3] = 1
    mask[0:2, 0:2], mask[3:6, 3:7] = 0.6, 0.9
    ious = boxes.pair_ious(mask, segmentation, 0)
    np.testing.assert_allclose(ious[0], 0)
    np.testing.assert_allclose(ious[1], [2 / 3] * 12 + [0] * 8)
    result = boxes.max_box_accuracy(boxes.add(boxes.zero(1), ious[None], np.zeros(1, int)))
    assert result["v1"]["micro"] == 0
    assert result["v2"]["micro"] == pytest.approx(2 / 3)  # of 0.3, 0.5 and 0.7 two are reached


def test_nothing_scored():
    nothing = {"micro": None, "thresholds": None, "macro": None, "per_label": [None, None]}
    assert boxes.max_box_accuracy(boxes.zero(2)) == {"v1": nothing, "v2": nothing}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boxes.map_boxes(np.zeros(4), 0.5), r"mask must be \(H W\), not \(4,\)"),
        (lambda: boxes.segmentation_boxes(np.zeros((1, 2, 2)), 0), r"segmentation must be \(H W\)"),
        (
            lambda: boxes.pair_ious(np.zeros((2, 3)), np.zeros((3, 2)), 0),
            r"mask is \(2, 3\), the segmentation \(3, 2\)",
        ),
        (lambda: boxes.box_iou([0, 0, 2, 2], [[0, 0, 2, 2]]), r"must be \(m 4\), not \(4,\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
