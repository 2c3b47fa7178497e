"""Labels exchanged among images: each set of labels once, the images as they were."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from minmax_jax import data
from minmax_jax.data.permute import PermutedLabels

SIZE = 40


@pytest.fixture(scope="module")
def source():
    return data.create_source("scenes", "train", size=SIZE)


def labels_of(source):
    return np.stack([source[index]["labels"] for index in range(len(source))])


def test_images_stay_and_labels_are_exchanged(source):
    permuted = PermutedLabels(source, 3)
    assert (len(permuted), permuted.label_names) == (SIZE, source.label_names)
    assert not permuted.has_masks and permuted.skipped == source.skipped
    for index in (0, 17, SIZE - 1):
        assert set(permuted[index]) == {"image", "labels"}
        np.testing.assert_array_equal(permuted[index]["image"], source[index]["image"])
    before, after = labels_of(source), labels_of(permuted)
    assert sorted(map(tuple, before)) == sorted(map(tuple, after))
    assert (before != after).any(axis=1).mean() > 0.7


def test_the_seed_tells_who_gets_whose_labels(source):
    first = labels_of(PermutedLabels(source, 3))
    np.testing.assert_array_equal(first, labels_of(PermutedLabels(source, 3)))
    assert (first != labels_of(PermutedLabels(source, 4))).any()
    copy = pickle.loads(pickle.dumps(PermutedLabels(source, 3)))  # as worker processes get it
    np.testing.assert_array_equal(first, labels_of(copy))


def test_batches_have_no_masks(source):
    made = data.batches(
        PermutedLabels(source, 0), batch_size=8, image_size=16, preprocess=np.asarray
    )
    assert all("mask" not in batch for batch in made)
    with pytest.raises(ValueError, match="must be >= 0, not -1"):
        PermutedLabels(source, -1)
