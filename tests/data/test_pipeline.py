from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
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

    def __init__(self, count: int, *, has_masks: bool = True, broken: int = -1, side: int = 6):
        self.count, self.has_masks, self.broken, self.side = count, has_masks, broken, side
        self.read = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.read.append(index)
        if index == self.broken:
            raise ValueError(f"cannot decode image number {index}")
        shape = (self.side + index % 3, self.side + 1)
        example = {
            "image": np.full((*shape, 3), index, np.uint8),
            "labels": index >> np.arange(8) & 1 > 0,
        }
        return example | {"mask": np.full(shape, index, np.uint8)} if self.has_masks else example


class Noise(Numbered):
    """The same with random pixels, to see what augmentation does."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = super().__getitem__(index)
        noise = np.random.default_rng(index).integers(
            0, 256, (self.side, self.side, 3), dtype=np.uint8
        )
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
            np.testing.assert_array_equal(value, other[name], strict=True)


def _wait_until(condition) -> bool:
    limit = time.monotonic() + 20
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "grain-prefetch" in thread.name]


def test_shapes_and_types():
    *_, last = _batches(Numbered(10))
    found = {name: (value.shape, value.dtype) for name, value in last.items()}
    assert found == {
        "image": ((2, 6, 6, 3), np.float32),
        "labels": ((2, 8), np.bool_),
        "index": ((2,), np.int64),
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
        np.testing.assert_array_equal(batch["mask"][:, 0, 0], batch["index"])


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


def test_the_order_is_numpys_shuffle():
    order = np.arange(50)
    np.random.default_rng((7, 3)).shuffle(order)
    index = np.concatenate([batch["index"] for batch in _batches(Numbered(50), seed=7, epoch=3)])
    np.testing.assert_array_equal(index, order)
    index[:] = 0  # The consumer's own copy.
    assert _order(_batches(Numbered(50), seed=7, epoch=3)) == order.tolist()


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


OPTIONS = {"seed": 1, "augment": SWITCHED_ON}


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_epochs_follow_one_another(drop_remainder):
    options = OPTIONS | {"drop_remainder": drop_remainder}
    single = [list(_batches(Noise(10), epoch=epoch, **options)) for epoch in (4, 5, 6)]
    steps = 2 if drop_remainder else 3
    assert [len(epoch) for epoch in single] == [steps] * 3
    expected = list(itertools.chain(*single))
    whole = _batches(Noise(10), epoch=4, epochs=3, **options)
    assert whole.steps == steps and len(whole) == 3 * steps
    _assert_equal(whole, expected)
    endless = _batches(Noise(10), epoch=4, epochs=None, **options)
    assert endless.steps == steps
    _assert_equal(itertools.islice(endless, len(expected)), expected)
    for start in (1, steps, 2 * steps + 1, 3 * steps, 3 * steps + 1):
        assert len(whole.from_batch(start)) == len(expected[start:])
        _assert_equal(whole.from_batch(start), expected[start:])
        tail = itertools.islice(endless.from_batch(start), len(expected[start:]))
        _assert_equal(tail, expected[start:])
    _assert_equal(whole.from_batch(1).from_batch(2), expected[3:])


def test_endless_batches_have_no_length():
    with pytest.raises(TypeError, match="no length"):
        len(_batches(Numbered(10), epochs=None))


def test_a_tail_reads_no_example_of_the_head():
    source = Numbered(20)
    assert _order(_batches(source).from_batch(3)) == list(range(12, 20))
    assert sorted(source.read) == list(range(12, 20))
    source = Numbered(20)
    _order(_batches(source, seed=0, epochs=3).from_batch(12))
    assert len(source.read) == 3 * 20 - 12 * 4


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans()
)
def test_shards_side_by_side_are_the_batch(count, parts, rows, has_masks, drop_remainder):
    batch_size = parts * rows
    hypothesis.assume(count >= batch_size or not drop_remainder)
    source = Noise(count) if has_masks else Numbered(count, has_masks=False)
    options = OPTIONS | {"epochs": 2, "drop_remainder": drop_remainder}
    whole = _batches(source, batch_size, **options)
    shards = [_batches(source, batch_size, shard=(p, parts), **options) for p in range(parts)]
    assert {(len(shard), shard.steps) for shard in shards} == {(len(whole), whole.steps)}
    for batch, *made in zip(whole, *shards, strict=True):
        for p, part in enumerate(made):
            assert part.keys() == batch.keys()
            there = len(batch["index"]) - p * rows
            assert len(part["index"]) == min(rows, max(0, there))
        for name, value in batch.items():
            joined = np.concatenate([part[name] for part in made])
            np.testing.assert_array_equal(joined, value, strict=True)


def test_a_shard_reads_its_rows_only():
    source = Numbered(10)
    parts = list(_batches(source, 4, shard=(1, 2)))
    assert [part["index"].tolist() for part in parts] == [[2, 3], [6, 7], []]
    assert sorted(source.read) == [2, 3, 6, 7]
    found = {name: (value.shape, value.dtype) for name, value in parts[-1].items()}
    assert found == {
        "image": ((0, 6, 6, 3), np.float32),
        "labels": ((0, 8), np.bool_),
        "index": ((0,), np.int64),
        "mask": ((0, 6, 6), np.uint8),
    }


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
    assert _wait_until(lambda: not _threads())


def test_batches_are_made_ahead_but_not_all():
    source = Numbered(250)
    batches = iter(_batches(source, 2, seed=0, epochs=None))
    next(batches)
    assert _wait_until(lambda: len(source.read) >= 6)  # two more batches, unasked
    time.sleep(0.1)
    assert len(source.read) <= 40
    batches.close()


def test_threads_end_when_the_consumer_stops():
    for _ in _batches(Numbered(250), 2):
        assert _threads()
        break
    assert _wait_until(lambda: not _threads())
    assert len(list(_batches(Numbered(9)))) == 3
    assert _wait_until(lambda: not _threads())


def test_worker_processes_make_the_same_batches():
    expected = list(_batches(Noise(10), epochs=2, **OPTIONS))
    made = list(_batches(Noise(10), epochs=2, workers=2, **OPTIONS).from_batch(1))
    assert {type(value) for batch in made for value in batch.values()} == {np.ndarray}
    _assert_equal(made, expected[1:])
    assert not multiprocessing.active_children()


def test_an_example_that_fails_in_a_worker_comes_up_at_its_batch():
    batches = iter(_batches(Numbered(20, broken=9), workers=2))
    assert _order([next(batches), next(batches)]) == list(range(8))
    with pytest.raises(ValueError) as caught:
        next(batches)
    assert str(caught.value) == "cannot decode image number 9"
    assert not multiprocessing.active_children()


def test_worker_processes_end_when_the_consumer_stops():
    batches = iter(_batches(Numbered(20), workers=3, seed=0, epochs=None))
    next(batches)
    assert _wait_until(lambda: len(multiprocessing.active_children()) == 3)
    batches.close()
    assert not multiprocessing.active_children()


PROGRAM = """
import os, signal
import jax, numpy as np
from minmax_jax import data

class Platform:
    label_names, has_masks, skipped = ("cpu only",), False, ()

    def __len__(self):
        return 100

    def __getitem__(self, index):
        platforms = np.array([jax.config.jax_platforms == "cpu"])
        return {"image": np.zeros((4, 4, 3), np.uint8), "labels": platforms}

options = dict(batch_size=1, image_size=4, preprocess=np.float32, epochs=None, seed=0)
for workers in (0, 1):
    batches = iter(data.batches(Platform(), workers=workers, **options))
    print(bool(next(batches)["labels"][0]), flush=True)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_worker_keeps_to_the_cpu_and_ends_with_its_parent(killed):
    # A program that parses no flags of absl, chooses no platform and closes no iterator.
    program = PROGRAM + ("os.kill(os.getpid(), signal.SIGKILL)" if killed else "")
    environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
    # The pipes end when the last process that could write to them has ended.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert killed or (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"resize": "stretch"}, "unknown resize 'stretch', valid: crop, letterbox"),
        ({"batch_size": 6, "drop_remainder": True}, "batch_size 6 > 5 examples"),
        ({"augment": SWITCHED_ON}, "augment needs a seed"),
        ({"epochs": 0}, "epochs=0"),
        ({"epoch": -1}, "epoch=-1"),
        ({"workers": -2}, "workers=-2"),
        ({"seed": -3}, "seed=-3"),
        ({"workers": 9, "image_size": 1 << 17}, "workers=9 need .* MiB of shared memory"),
        ({"shard": (2, 2)}, r"shard=\(2, 2\)"),
        ({"shard": (0, 0)}, r"shard=\(0, 0\)"),
        ({"shard": (0, 3)}, r"shard=\(0, 3\), batch_size=4"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _batches(Numbered(5), **options)


def test_a_tail_cannot_start_before_the_first_batch():
    with pytest.raises(ValueError, match="start must be >= 0: -1"):
        _batches(Numbered(5)).from_batch(-1)


def test_a_source_without_examples():
    with pytest.raises(ValueError, match="no examples"):
        _batches(Numbered(0))
