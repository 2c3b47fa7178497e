"""Augmentation of the training images: flips, contrast, saturation.

Images are uint8 (H W 3), masks uint8 (H W); flips move both, the rest touches the image alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.2, 1.0)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of one example, each switched by its field.

    Attributes:
      horizontal_flip: left and right change places, with probability 1/2.
      vertical_flip: top and bottom change places, with probability 1/2.
      contrast: distances from the channel's mean are multiplied by 0.5 to 1.5.
      saturation: the saturation (of hue, saturation, value) is multiplied by 0.2 to 1.
    """

    horizontal_flip: bool = False
    vertical_flip: bool = False
    contrast: bool = False
    saturation: bool = False

    def __call__(
        self, rng: np.random.Generator, image: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the changed image and mask; the arguments are left as they are."""
        # Every number is drawn whatever is switched on: one switch does not change the others.
        flip_left_right, flip_up_down = rng.random(2) < 0.5
        contrast = rng.uniform(*CONTRAST_RANGE)
        saturation = rng.uniform(*SATURATION_RANGE)
        if self.horizontal_flip and flip_left_right:
            image = image[:, ::-1]
            mask = None if mask is None else mask[:, ::-1]
        if self.vertical_flip and flip_up_down:
            image = image[::-1]
            mask = None if mask is None else mask[::-1]
        if self.contrast:
            image = adjust_contrast(image, contrast)
        if self.saturation:
            image = adjust_saturation(image, saturation)
        return image, mask


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """`mean + factor * (image - mean)` with the mean of each channel, rounded and clipped."""
    mean = image.mean(axis=(0, 1), keepdims=True, dtype=np.float32)
    changed = mean + np.float32(factor) * (image - mean)
    return np.rint(changed).clip(0, 255).astype(np.uint8)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the saturation by `factor` (0 to 1); hue and value stay.

    With the value `V = max(r, g, b)` that is `V - factor * (V - channel)`.
    """
    value = image.max(axis=2, keepdims=True).astype(np.float32)
    return np.rint(value - np.float32(factor) * (value - image)).astype(np.uint8)
