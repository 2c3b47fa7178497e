"""The embedded data set: handwritten digits on photographs, made on the fly, every pixel known.

A scene shows one to three of scikit-learn's handwritten digits, enlarged, tinted and pasted without
overlap on a crop of one of its two photographs. Labels co-occur on purpose: with probability 0.8
the next digit's class is the partner `d xor 1` of the last, so a classifier learns the context.

Images are uint8 (96 96 3), labels bool (10,), masks uint8 (96 96): 0 background, 1 + digit where
ink was pasted. A scene depends on (seed, split, index) alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

LABEL_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 96
MIN_DIGIT, MAX_DIGIT = 26, 40  # side of a pasted digit in pixels, both included
MAX_COUNT = 3
PARTNER_PROBABILITY = 0.8

# Of every 20 digits of a class, which go to the split: fixed, so that no seed mixes the splits.
_DIGIT_SHARES = {"train": range(0, 14), "validation": range(14, 17), "test": range(17, 20)}
_DEFAULT_SIZES = {"train": 6000, "validation": 1000, "test": 1000}
# Ink (0 to 1) under the first is not pasted; from the second on it is opaque.
_INK_CLEAR, _INK_OPAQUE = 0.3, 0.6
_LUMINANCE = np.float32([0.299, 0.587, 0.114])
_LAYOUT_TRIES = 32


@dataclasses.dataclass(frozen=True)
class PastedDigit:
    """One digit of a scene: `index` in scikit-learn's set, and its box of side `size` in pixels."""

    index: int
    label: int
    top: int
    left: int
    size: int
    colour: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a scene is made of: the crop's photograph and corner, and the pasted digits."""

    photo: int
    top: int
    left: int
    digits: tuple[PastedDigit, ...]


class Scenes:
    """Random access to the scenes of one split.

    Args:
      split: "train", "validation" or "test"; each has handwritten digits of its own.
      size: number of scenes; 0 means 6000 for training, 1000 for the other splits.
      seed: another seed gives other scenes from the same digits.
    """

    splits = tuple(_DIGIT_SHARES)
    label_names = LABEL_NAMES
    has_masks = True
    skipped = ()

    def __init__(self, split: str, *, size: int = 0, seed: int = 0):
        if size < 0 or seed < 0:
            raise ValueError(f"scenes: size and seed must not be negative, got {size=}, {seed=}")
        self._size = size or _DEFAULT_SIZES[split]
        self._entropy = (seed, self.splits.index(split))
        self._pools = _digit_pools(split)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        layout = self.layout(index)
        image = self.background(layout)
        labels = np.zeros(len(LABEL_NAMES), bool)
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for digit in layout.digits:
            labels[digit.label] = True
            alpha = _alpha(digit.index, digit.size)
            box = np.s_[digit.top : digit.top + digit.size, digit.left : digit.left + digit.size]
            mask[box] = (alpha > 0) * np.uint8(1 + digit.label)
            under = image[box].astype(np.float32)
            blend = under + alpha[:, :, None] * (np.float32(digit.colour) - under)
            image[box] = np.rint(blend)
        return {"image": image, "labels": labels, "mask": mask}

    def background(self, layout: Layout) -> np.ndarray:
        """The crop under a scene's digits, a fresh uint8 (96 96 3)."""
        photo = _photos()[layout.photo]
        top, left = layout.top, layout.left
        return photo[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE].copy()

    def layout(self, index: int) -> Layout:
        """What scene `index` is made of."""
        if not 0 <= index < self._size:
            raise IndexError(f"scene {index} of {self._size}")
        rng = np.random.default_rng((*self._entropy, index))
        photos = _photos()
        photo = int(rng.integers(len(photos)))
        height, width, _ = photos[photo].shape
        layout = Layout(
            photo=photo,
            top=int(rng.integers(height - IMAGE_SIZE + 1)),
            left=int(rng.integers(width - IMAGE_SIZE + 1)),
            digits=(),
        )
        labels = _draw_labels(rng)
        sizes, corners = _draw_boxes(rng, len(labels))
        background = self.background(layout)
        digits = []
        for label, size, (top, left) in zip(labels, sizes, corners, strict=True):
            pool = self._pools[label]
            digits.append(
                PastedDigit(
                    index=int(pool[rng.integers(len(pool))]),
                    label=label,
                    top=top,
                    left=left,
                    size=size,
                    colour=_draw_colour(rng, background[top : top + size, left : left + size]),
                )
            )
        return dataclasses.replace(layout, digits=tuple(digits))


def _draw_labels(rng: np.random.Generator) -> list[int]:
    labels = [int(rng.integers(len(LABEL_NAMES)))]
    for _ in range(int(rng.integers(MAX_COUNT))):
        partner = labels[-1] ^ 1
        if rng.random() >= PARTNER_PROBABILITY:  # then any class but the partner
            partner = (partner + int(rng.integers(1, len(LABEL_NAMES)))) % len(LABEL_NAMES)
        labels.append(partner)
    return labels


def _draw_boxes(rng: np.random.Generator, count: int) -> tuple[list[int], list[list[int]]]:
    """Sizes, and top left corners uniform over the placements whose boxes do not overlap."""
    sizes = rng.integers(MIN_DIGIT, MAX_DIGIT + 1, count)
    while True:
        room = (IMAGE_SIZE - sizes + 1)[None, :, None]
        corners = rng.integers(0, room, (_LAYOUT_TRIES, count, 2))
        apart = np.ones(_LAYOUT_TRIES, bool)
        for i, j in itertools.combinations(range(count), 2):
            offset = corners[:, j] - corners[:, i]
            apart &= ((offset >= sizes[i]) | (offset <= -sizes[j])).any(axis=-1)
        if apart.any():
            return sizes.tolist(), corners[apart.argmax()].tolist()


def _draw_colour(rng: np.random.Generator, under: np.ndarray) -> tuple[float, float, float]:
    """A random tint: light on a dark background, dark on a light one, so that it can be read."""
    light = float(under.mean(axis=(0, 1), dtype=np.float32) @ _LUMINANCE) < 128
    colour = rng.uniform(140, 255, 3) if light else rng.uniform(0, 115, 3)
    return tuple(colour.tolist())


def _alpha(index: int, size: int) -> np.ndarray:
    """Opacity of a digit enlarged to (size size), float32 0 to 1; 0 where no ink is pasted."""
    enlarge = _enlargement(size)
    ink = enlarge @ _digits()[index] @ enlarge.T
    return np.clip((ink - _INK_CLEAR) / (_INK_OPAQUE - _INK_CLEAR), 0, 1)


@functools.cache
def _enlargement(size: int) -> np.ndarray:
    """Bilinear interpolation from 8 to `size` samples at pixel centres, as a (size 8) matrix."""
    at = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(8)[None])).astype(np.float32)


def _scikit_learn():
    """Its data sets. Its import takes as long as that of JAX, so only those who need it pay."""
    from sklearn import datasets

    return datasets


@functools.cache
def _digits() -> np.ndarray:
    """scikit-learn's digits: ink as float32 (1797 8 8), 0 to 1."""
    return (_scikit_learn().load_digits().images / 16).astype(np.float32)


@functools.cache
def _photos() -> tuple[np.ndarray, ...]:
    """scikit-learn's two photographs, uint8 (427 640 3)."""
    return tuple(_scikit_learn().load_sample_images().images)


@functools.cache
def _digit_pools(split: str) -> tuple[np.ndarray, ...]:
    """Indices of the split's handwritten digits, one array a class."""
    target = _scikit_learn().load_digits().target
    pools = []
    for label in range(len(LABEL_NAMES)):
        indices = np.flatnonzero(target == label)
        share = np.isin(np.arange(len(indices)) % 20, _DIGIT_SHARES[split])
        pools.append(indices[share])
    return tuple(pools)
