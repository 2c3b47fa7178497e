"""Evaluations of the toy network: what the tests of `evaluate` share."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import sweep
from tests import toys

METHODS = ("score_cam", "minmax_gradients", "d_minmax_cam")  # one of them explains pairs
SIZES = (3, 3, 1)


def evaluate(*arguments, **options):
    """So that the few pairs of these tests take several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_MASKED", 8)
        return mj.evaluate(*arguments, **({"progress": False, "mask_chunk": 8} | options))


def preprocess(images):
    return images.astype("float32") / 127.5 - 1


@functools.cache
def counting_network():
    """The same for all tests, so that what is compiled for it is compiled once."""
    return toys.toy_network(apply=toys.CountingApply(), preprocess=preprocess)


def make_examples():
    """Seven images, annotations that differ from the detections, masks with void borders."""
    rng = np.random.default_rng(5)
    masks = np.zeros((7, *toys.SIZE), np.uint8)
    for mask in masks:
        for label in rng.permutation(toys.NUM_LABELS)[:3]:
            top, left = rng.integers(0, toys.SIZE[0] - 3), rng.integers(0, toys.SIZE[1] - 4)
            mask[top : top + 4, left : left + 5] = label + 1
        mask[rng.integers(0, toys.SIZE[0])] = 255
    labels = rng.uniform(size=(7, toys.NUM_LABELS)) < 0.4
    labels[3] = [True, False, False, False]
    return {"image": toys.toy_images(7), "labels": labels, "mask": masks}


def cut(examples, sizes=SIZES, names=("image", "labels", "mask")):
    stops = np.cumsum(sizes)
    return [
        {name: examples[name][stop - size : stop] for name in names}
        for size, stop in zip(sizes, stops, strict=True)
    ]


def assert_same(found, expected, tolerance=2e-5):
    """Same structure, None at the same places, numbers to the tolerance."""
    if isinstance(expected, dict):
        free = {"seconds", "passes"}  # time, and how the work was cut
        assert found.keys() - free == expected.keys() - free
        for key in expected.keys() - free:
            assert_same(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, tolerance)
    elif isinstance(expected, float):
        assert isinstance(found, float) and abs(found - expected) <= tolerance
    else:
        assert found == expected and type(found) is type(expected)


class Recorder:
    """Batches that can be entered later and tell which were made."""

    def __init__(self, batches, start=0, made=None):
        self.batches, self.start = batches, start
        self.made = [] if made is None else made

    def from_batch(self, start):
        return Recorder(self.batches, start, self.made)

    def __len__(self):
        return len(self.batches) - self.start

    def __iter__(self):
        for index in range(self.start, len(self.batches)):
            self.made.append(index)
            yield self.batches[index]
