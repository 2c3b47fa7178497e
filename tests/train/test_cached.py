"""Cached features come in the order of the images that they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minmax_jax import data
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE
from minmax_jax.train.cached import CachedBatches


def endless(**options):
    return data.batches(
        data.create_source("scenes", "train", size=11),
        image_size=8,
        preprocess=MINUS_ONE_TO_ONE,
        seed=4,
        epochs=None,
        **options,
    )


@pytest.mark.parametrize(
    ("drop_remainder", "start", "shard"), [(True, 0, (0, 1)), (True, 5, (1, 2)), (False, 2, (1, 2))]
)
def test_indices_are_those_of_the_batches(drop_remainder, start, shard):
    batches = endless(batch_size=4, drop_remainder=drop_remainder, shard=shard)
    made = itertools.islice(batches.from_batch(start), 7)
    for number, batch in enumerate(made, start=start):
        np.testing.assert_array_equal(batches.indices(number), batch["index"], strict=True)


def test_in_order_is_every_example_once():
    batches = endless(batch_size=4, drop_remainder=True, augment=data.Augment()).in_order()
    assert [batch["index"].tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10],
    ]
    with pytest.raises(ValueError, match="vertical_flip=True"):
        endless(batch_size=4, augment=data.Augment(vertical_flip=True)).in_order()


def test_features_come_with_their_labels():
    batches = endless(batch_size=3, drop_remainder=True)
    labels = np.concatenate([batch["labels"] for batch in batches.in_order()])
    features = np.arange(11.0, dtype=np.float32)[:, None]
    cached = CachedBatches(batches, features, labels)
    assert cached.steps == batches.steps == 3
    images = batches.from_batch(2)
    for batch, expected in itertools.islice(zip(cached.from_batch(2), images, strict=False), 8):
        assert batch["image"][:, 0].tolist() == expected["index"].tolist()
        np.testing.assert_array_equal(batch["labels"], expected["labels"])
