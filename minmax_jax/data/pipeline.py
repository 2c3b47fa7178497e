"""Batches of examples, made by threads while the consumer computes.

A batch is a dict of numpy arrays: "image" float32 (b S S 3) as the network eats it, "labels" bool
(b c) and, where the source has masks, "mask" uint8 (b S S): 0 background, 1 + label, 255 void.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Protocol

import numpy as np

from minmax_jax.data import augment as augment_lib
from minmax_jax.data import images

Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]

# Decoding, resizing and large numpy operations release the GIL, so threads are enough.
_WORKERS = min(8, os.cpu_count() or 1)
_AHEAD = 2  # batches made before they are asked for, at least


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
    augment: augment_lib.Augment | None = None,
    drop_remainder: bool = False,
) -> Batches:
    """The batches of one epoch.

    Every example comes once. The last batch is smaller where the batch size does not divide their
    number, or is left out with `drop_remainder`.

    Args:
      source: the examples.
      batch_size: examples a batch.
      image_size: side S of the square images in pixels.
      preprocess: maps uint8 (b S S 3) to the float32 that the network eats.
      resize: "crop" (centred square) or "letterbox" (whole image, padded).
      seed: None keeps the source's order. Else order and augmentation depend on
        (seed, epoch, example's index) and on nothing else.
      epoch: number of the epoch.
      augment: random changes, applied after resizing; needs a seed.
      drop_remainder: leave out the last batch if it is not full.

    Raises:
      ValueError: for sizes under 1, an unknown `resize`, an empty source, augmentation without a
        seed, or when `drop_remainder` would leave no batch. An example's own error comes up when
        its batch is asked for.
    """
    images.check_resize(resize)
    if batch_size < 1 or image_size < 1:
        raise ValueError(f"batch_size and image_size must be >= 1: {batch_size=}, {image_size=}")
    if not len(source):
        raise ValueError("the source has no examples")
    if drop_remainder and batch_size > len(source):
        raise ValueError(
            f"drop_remainder leaves no batch: batch_size {batch_size} > {len(source)} examples"
        )
    if augment is not None and seed is None:
        raise ValueError("augment needs a seed")
    return Batches(
        source=source,
        batch_size=batch_size,
        image_size=image_size,
        preprocess=preprocess,
        resize=resize,
        seed=seed,
        epoch=epoch,
        augment=augment,
        drop_remainder=drop_remainder,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """What `batches` returns: iterable, as often as wanted, always with the same batches."""

    source: Source
    batch_size: int
    image_size: int
    preprocess: Callable[[np.ndarray], np.ndarray]
    resize: str
    seed: int | None
    epoch: int
    augment: augment_lib.Augment | None
    drop_remainder: bool
    start: int = 0

    def from_batch(self, start: int) -> Batches:
        """The same batches without the first `start` of the epoch."""
        return dataclasses.replace(self, start=start)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.source), self.batch_size)
        return max(0, whole + bool(rest and not self.drop_remainder) - self.start)

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.source))
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        starts = range(self.start, self.start + len(self))
        parts = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in starts)
        pool = futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="batches")
        try:
            ahead = collections.deque()
            for part in parts:
                ahead.append(pool.submit(self._make_batch, part))
                if len(ahead) > max(_AHEAD, _WORKERS):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # Also when the consumer stops early or an example raises.
            pool.shutdown(cancel_futures=True)

    def _make_batch(self, indices: np.ndarray) -> Batch:
        examples = [self._make_example(int(index)) for index in indices]
        batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        batch["image"] = np.asarray(self.preprocess(batch["image"]), np.float32)
        return batch

    def _make_example(self, index: int) -> Example:
        example = self.source[index]
        image = images.resize_image(example["image"], self.image_size, self.resize)
        mask = example.get("mask")
        if mask is not None:
            mask = images.resize_mask(mask, self.image_size, self.resize)
        if self.augment is not None:
            # The 1 keeps this stream apart from the order's.
            rng = np.random.default_rng((self.seed, self.epoch, index, 1))
            image, mask = self.augment(rng, image, mask)
        resized = {"image": image, "labels": example["labels"]}
        return resized if mask is None else resized | {"mask": mask}
