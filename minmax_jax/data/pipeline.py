"""Batches of examples, made ahead by threads or worker processes while the consumer computes.

A batch is a dict of numpy arrays: "image" float32 (b S S 3) as the network eats it, "labels" bool
(b c), "index" int64 (b), the examples' places in the source, and, where the source has masks,
"mask" uint8 (b S S): 0 background, 1 + label, 255 void.

What is in a batch depends on the arguments of `batches` alone, not on who makes it.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import numpy as np
from absl import flags

from minmax_jax.data import augment as augment_lib
from minmax_jax.data import images

Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]

# Decoding, resizing and large numpy operations release the GIL, so threads are enough for a few
# cores. Each makes one batch at a time; no more batches than these wait for the consumer.
_THREADS = min(8, os.cpu_count() or 1)
_THREADS_AHEAD = max(2, _THREADS)
# A worker process makes one batch while at most three more of it wait: one in the queue between
# the processes, one before it and one behind it.
_WORKER_QUEUE = 1
_WORKER_BATCHES = 4
_SHARED_MEMORY = "/dev/shm"
# Iterators that have not ended yet, closed when the program ends, while all modules are there.
_ITERATORS = weakref.WeakSet()


class Source(Protocol):
    """Examples by index: "image" uint8 (H W 3), "labels" bool (c,), maybe "mask" uint8 (H W)."""

    label_names: tuple[str, ...]
    has_masks: bool
    skipped: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    preprocess: Callable[[np.ndarray], np.ndarray],
    resize: str = "crop",
    seed: int | None = None,
    epoch: int = 0,
    epochs: int | None = 1,
    augment: augment_lib.Augment | None = None,
    drop_remainder: bool = False,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """The batches of one epoch or several.

    In an epoch every example comes once. Its last batch is smaller where the batch size does not
    divide their number, or is left out with `drop_remainder`; no batch mixes two epochs.

    Args:
      source: the examples; with `workers`, one that can be pickled.
      batch_size: examples a batch, over all shards.
      image_size: side S of the square images in pixels.
      preprocess: maps uint8 (b S S 3), for any b, to the float32 (b S S 3) that the network eats.
      resize: "crop" (centred square) or "letterbox" (whole image, padded).
      seed: None keeps the source's order. Else order and augmentation depend on
        (seed, epoch, example's index) and on nothing else.
      epoch: number of the first epoch.
      epochs: how many; None goes on for ever.
      augment: random changes, applied after resizing; needs a seed.
      drop_remainder: leave out the last batch of an epoch if it is not full.
      workers: how many processes make the batches, which pass through shared memory, at most four
        of each process at once; 0 leaves it to threads of this process.
      shard: (p, n) makes the p-th of n equal parts of the rows of each batch only. The parts, one
        after the other, are the batch; of a smaller last batch a part may have no rows.

    Raises:
      ValueError: for numbers out of range, an unknown `resize`, an empty source, augmentation
        without a seed, when `drop_remainder` would leave no batch, for shards that do not divide
        the batch size, or too little shared memory for the workers. An example's own error comes
        up when its batch is asked for.
    """
    images.check_resize(resize)
    if batch_size < 1 or image_size < 1:
        raise ValueError(f"batch_size and image_size must be >= 1: {batch_size=}, {image_size=}")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be >= 1, or None for ever: {epochs=}")
    if min(epoch, workers, seed or 0) < 0:
        raise ValueError(f"epoch, workers and seed must be >= 0: {epoch=}, {workers=}, {seed=}")
    part, parts = shard
    if not 0 <= part < parts or batch_size % parts:
        raise ValueError(
            f"shard must be (p, n) with 0 <= p < n, and n must divide batch_size: {shard=}, "
            f"{batch_size=}"
        )
    if not len(source):
        raise ValueError("the source has no examples")
    if drop_remainder and batch_size > len(source):
        raise ValueError(
            f"drop_remainder leaves no batch: batch_size {batch_size} > {len(source)} examples"
        )
    if augment is not None and seed is None:
        raise ValueError("augment needs a seed")
    if workers and os.path.isdir(_SHARED_MEMORY):
        # Where it runs out, the system kills the workers without a word.
        needed = workers * _WORKER_BATCHES * (batch_size // parts) * image_size**2 * 3
        found = os.statvfs(_SHARED_MEMORY)
        if needed > found.f_blocks * found.f_frsize:
            raise ValueError(
                f"{workers=} need {needed >> 20} MiB of shared memory, {_SHARED_MEMORY} has "
                f"{found.f_blocks * found.f_frsize >> 20}: take fewer workers or smaller batches, "
                "or enlarge it (docker run --shm-size)"
            )
    return Batches(
        source=source,
        batch_size=batch_size,
        image_size=image_size,
        preprocess=preprocess,
        resize=resize,
        seed=seed,
        epoch=epoch,
        epochs=epochs,
        augment=augment,
        drop_remainder=drop_remainder,
        workers=workers,
        shard=shard,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """What `batches` returns: iterable, as often as wanted, always with the same batches.

    An iterator's threads or processes start at its first batch and end after its last, at an
    example's error, or when the iterator is closed or deleted.
    """

    source: Source
    batch_size: int
    image_size: int
    preprocess: Callable[[np.ndarray], np.ndarray]
    resize: str
    seed: int | None
    epoch: int
    epochs: int | None
    augment: augment_lib.Augment | None
    drop_remainder: bool
    workers: int
    shard: tuple[int, int]
    start: int = 0

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole + bool(rest and not self.drop_remainder)

    def from_batch(self, start: int) -> Batches:
        """The same batches without the first `start`, which may be more than an epoch's."""
        if start < 0:
            raise ValueError(f"start must be >= 0: {start}")
        return dataclasses.replace(self, start=self.start + start)

    def __len__(self) -> int:
        if self.epochs is None:
            raise TypeError("batches for ever have no length")
        return max(0, self.epochs * self.steps - self.start)

    def __iter__(self) -> Iterator[Batch]:
        iterator = self._iterate()
        _ITERATORS.add(iterator)
        return iterator

    def _iterate(self) -> Iterator[Batch]:
        import grain  # Here, because its import takes half a second.

        stop = sys.maxsize if self.epochs is None else self.start + len(self)
        _default_grain_flags()
        workers = min(self.workers, stop - self.start)
        made = grain.MapDataset.range(self.start, stop).map(self._make_batch)
        if workers:
            dataset = (
                made.to_iter_dataset(grain.ReadOptions(0, 0))
                .mp_prefetch(
                    grain.MultiprocessingOptions(workers, _WORKER_QUEUE),
                    worker_init_fn=_start_worker,
                )
                .map(self._preprocess)
            )
        else:
            dataset = made.map(self._preprocess).to_iter_dataset(
                grain.ReadOptions(_THREADS, _THREADS_AHEAD)
            )
        iterator = dataset.__iter__()
        try:
            yield from iterator
        finally:  # Also when the consumer stops early or an example raises.
            iterator.close()

    def indices(self, number: int) -> np.ndarray:
        """int64 (b): which examples are in batch `number`, counted from the first epoch on."""
        epochs, step = divmod(number, self.steps)
        part, parts = self.shard
        rows = self.batch_size // parts
        first = step * self.batch_size
        last = min(first + self.batch_size, len(self.source))
        mine = slice(first + part * rows, min(first + (part + 1) * rows, last))
        return _epoch_order(len(self.source), self.seed, self.epoch + epochs)[mine].copy()

    def in_order(self) -> Batches:
        """Each example once, in the source's order.

        Raises:
          ValueError: if examples are augmented, and so have no one look.
        """
        if self.augment not in (None, augment_lib.Augment()):
            raise ValueError(f"augmented examples have no fixed features: {self.augment}")
        return dataclasses.replace(
            self, seed=None, epoch=0, epochs=1, augment=None, drop_remainder=False, start=0
        )

    def _make_batch(self, number: int) -> Batch:
        epoch = self.epoch + number // self.steps
        index = self.indices(number)
        square = (len(index), self.image_size, self.image_size)
        batch = {
            "image": np.empty((*square, 3), np.uint8),
            "labels": np.empty((len(index), len(self.source.label_names)), bool),
            "index": index,
        }
        if self.source.has_masks:
            batch["mask"] = np.empty(square, np.uint8)
        for row, i in enumerate(index.tolist()):
            image, labels, mask = self._make_example(i, epoch)
            batch["image"][row] = image
            batch["labels"][row] = labels
            if self.source.has_masks:
                batch["mask"][row] = mask
        return batch

    def _preprocess(self, batch: Batch) -> Batch:
        """The batch for the consumer, from the one with uint8 images, maybe in shared memory.

        Not for the workers to do: float32 is four times as much to pass on.
        """
        pixels = np.asarray(batch.pop("image"))
        image = np.empty(pixels.shape, np.float32)
        for row in range(len(pixels)):  # One image at a time stays in the cache.
            image[row] = self.preprocess(pixels[row : row + 1])[0]
        return {"image": image} | {name: np.array(value) for name, value in batch.items()}

    def _make_example(
        self, index: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        example = self.source[index]
        image = images.resize_image(example["image"], self.image_size, self.resize)
        mask = example.get("mask")
        if mask is not None:
            mask = images.resize_mask(mask, self.image_size, self.resize)
        if self.augment is not None:
            # The 1 keeps this stream apart from the order's.
            rng = np.random.default_rng((self.seed, epoch, index, 1))
            image, mask = self.augment(rng, image, mask)
        return image, example["labels"], mask


@functools.lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int | None, epoch: int) -> np.ndarray:
    """The examples' indices in the order of the epoch; not to be written to."""
    order = np.arange(count, dtype=np.int64)
    if seed is not None:
        np.random.default_rng((seed, epoch)).shuffle(order)
    return order


@atexit.register
def _close_iterators() -> None:
    for iterator in list(_ITERATORS):
        iterator.close()


def _default_grain_flags() -> None:
    """Lets grain read its flags, as their defaults, in programs that do not parse absl's flags."""
    if not flags.FLAGS.is_parsed():
        for name in flags.FLAGS:
            if name.startswith("grain_"):
                flags.FLAGS[name].present = True


def _start_worker(index: int, count: int) -> None:
    """Makes a worker process leave the accelerators and Ctrl-C to its parent, and end with it."""
    del index, count
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
