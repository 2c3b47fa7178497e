from __future__ import annotations

import threading
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from minmax_jax import data

SWITCHED_ON = data.Augment(horizontal_flip=True, vertical_flip=True, contrast=True, saturation=True)


class Numbered:
    """Examples that carry their index: in every pixel, in the labels as bits, in the mask."""

    label_names = tuple(f"bit {i}" for i in range(8))
    skipped = ()

    def __init__(self, count: int, *, has_masks: bool = True, broken: int = -1):
        self.count, self.has_masks, self.broken = count, has_masks, broken
        self.read = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.read.append(index)
        if index == self.broken:
            raise ValueError(f"cannot decode image number {index}")
        shape = (6 + index % 3, 7)
        example = {
            "image": np.full((*shape, 3), index, np.uint8),
            "labels": index >> np.arange(8) & 1 > 0,
        }
        return example | {"mask": np.full(shape, index, np.uint8)} if self.has_masks else example


class Noise(Numbered):
    """The same with random pixels, to see what augmentation does."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = super().__getitem__(index)
        noise = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return example | {"image": noise, "mask": noise[:, :, 0]}


def _to_float(image: np.ndarray) -> np.ndarray:
    assert image.dtype == np.uint8 and image.ndim == 4
    return image / np.float32(2) - 1


def _batches(source, batch_size=4, **options):
    options = {"image_size": 6, "preprocess": _to_float} | options
    return data.batches(source, batch_size=batch_size, **options)


def _order(batches) -> list[int]:
    return [int((value[0, 0, 0] + 1) * 2) for batch in batches for value in batch["image"]]


def _assert_equal(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            np.testing.assert_array_equal(value, other[name])


def _wait_until(condition) -> bool:
    limit = time.monotonic() + 20
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_shapes_and_types():
    *_, last = _batches(Numbered(10))
    found = {name: (value.shape, value.dtype) for name, value in last.items()}
    assert found == {
        "image": ((2, 6, 6, 3), np.float32),
        "labels": ((2, 8), np.bool_),
        "mask": ((2, 6, 6), np.uint8),
    }
    assert "mask" not in next(iter(_batches(Numbered(3, has_masks=False))))


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(1, 40), st.integers(1, 15), st.none() | st.integers(0, 9))
def test_every_example_comes_once(count, batch_size, seed):
    whole = _batches(Numbered(count), batch_size, seed=seed)
    made = list(whole)
    assert len(made) == len(whole) == -(-count // batch_size)
    assert sorted(_order(made)) == list(range(count))
    assert [len(batch["image"]) for batch in made[:-1]] == [batch_size] * (len(made) - 1)
    for batch in made:
        np.testing.assert_array_equal(batch["labels"] @ (1 << np.arange(8)), batch["mask"][:, 0, 0])
        np.testing.assert_array_equal((batch["image"][:, :, :, 0] + 1) * 2, batch["mask"])


def test_natural_order_without_a_seed():
    assert _order(_batches(Numbered(11), epoch=3)) == list(range(11))


def test_order_depends_on_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            batches = _batches(Numbered(50), seed=seed, epoch=epoch)
            orders[seed, epoch] = tuple(_order(batches))
            assert tuple(_order(batches)) == orders[seed, epoch]
            again = _batches(Numbered(50), batch_size=7, seed=seed, epoch=epoch)
            assert tuple(_order(again)) == orders[seed, epoch]
    assert len(set(orders.values())) == 6


def test_augmentation_depends_on_seed_epoch_and_index():
    def by_index(batch_size, **options):
        batches = _batches(Noise(20), batch_size, augment=SWITCHED_ON, **options)
        return {
            int(labels @ (1 << np.arange(8))): image.tobytes()
            for batch in batches
            for labels, image in zip(batch["labels"], batch["image"], strict=True)
        }

    first = by_index(4, seed=5, epoch=2)
    assert len(first) == 20 and len(set(first.values())) == 20
    assert by_index(7, seed=5, epoch=2) == first
    for other in (by_index(4, seed=5, epoch=3), by_index(4, seed=6, epoch=2)):
        assert all(other[i] != first[i] for i in first)


def test_augmentation_moves_the_mask_along():
    flips = data.Augment(horizontal_flip=True, vertical_flip=True)
    changed = 0
    for batch in _batches(Noise(20), seed=0, augment=flips):
        np.testing.assert_array_equal((batch["image"][:, :, :, 0] + 1) * 2, batch["mask"])
        for labels, mask in zip(batch["labels"], batch["mask"], strict=True):
            index = int(labels @ (1 << np.arange(8)))
            changed += (mask != Noise(20)[index]["mask"]).any()
    assert 8 <= changed <= 20


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("start", [0, 1, 3, 5, 8])
def test_from_batch_is_the_tail(start, drop_remainder):
    whole = _batches(Noise(19), seed=1, epoch=4, augment=SWITCHED_ON, drop_remainder=drop_remainder)
    tail = whole.from_batch(start)
    expected = list(whole)[start:]
    assert len(tail) == len(expected)
    _assert_equal(tail, expected)


def test_a_tail_reads_no_example_of_the_head():
    source = Numbered(20)
    assert _order(_batches(source).from_batch(3)) == list(range(12, 20))
    assert sorted(source.read) == list(range(12, 20))


@pytest.mark.parametrize("count", [8, 11])
def test_drop_remainder(count):
    batches = _batches(Numbered(count), drop_remainder=True)
    assert [len(batch["image"]) for batch in batches] == [4, 4]
    assert len(batches) == 2


def test_letterbox_pads():
    batch = next(iter(_batches(Numbered(3), image_size=14, resize="letterbox")))
    # 6x7 pixels become 12x14: one row of padding on either side.
    np.testing.assert_array_equal(batch["mask"][0, [0, -1]], 255)
    np.testing.assert_array_equal(batch["mask"][0, 1:-1], 0)
    np.testing.assert_array_equal(batch["image"][1, 2:-2], -0.5)
    np.testing.assert_array_equal(batch["image"][2, :, [0, -1]], -1)  # 8x7: columns instead
    np.testing.assert_array_equal(batch["image"][2, :, 1:-1], 0)


def test_an_example_that_fails_comes_up_at_its_batch():
    batches = iter(_batches(Numbered(20, broken=9)))
    assert _order([next(batches), next(batches)]) == list(range(8))
    with pytest.raises(ValueError, match="cannot decode image number 9"):
        next(batches)
    assert not _threads()


def test_batches_are_made_ahead_but_not_all():
    source = Numbered(250)
    batches = iter(_batches(source, 2))
    next(batches)
    assert _wait_until(lambda: len(source.read) >= 6)  # two more batches, unasked
    time.sleep(0.1)
    assert len(source.read) <= 40
    batches.close()


def test_threads_end_when_the_consumer_stops():
    for _ in _batches(Numbered(250), 2):
        assert _threads()
        break
    assert not _threads()
    assert len(list(_batches(Numbered(9)))) == 3
    assert not _threads()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"resize": "stretch"}, "unknown resize 'stretch', valid: crop, letterbox"),
        ({"batch_size": 6, "drop_remainder": True}, "batch_size 6 > 5 examples"),
        ({"augment": SWITCHED_ON}, "augment needs a seed"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _batches(Numbered(5), **options)


def test_a_source_without_examples():
    with pytest.raises(ValueError, match="no examples"):
        _batches(Numbered(0))
