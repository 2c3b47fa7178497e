"""What networks want to be fed: uint8 photos brought to the range that their weights know."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Normalize:
    """`(images - mean) / std` for each channel; numpy in, numpy out.

    Attributes:
      mean, std: red, green and blue, in the units of the photos, 0 to 255.
      bgr: whether the result's channels are turned round to blue, green, red.

    Raises:
      ValueError: not three finite numbers each, or a `std` that is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __post_init__(self):
        for field in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, field))
            if len(value) != 3 or not np.isfinite(value).all():
                raise ValueError(f"Normalize.{field} must be three finite numbers, got {value}.")
            object.__setattr__(self, field, value)
        if min(self.std) <= 0:
            raise ValueError(f"Normalize.std must be positive, got {self.std}.")

    def __call__(self, images: Any) -> Any:
        """uint8 `(... H W 3)`, RGB, to float32 of the same shape."""
        # Whole rows at once: numpy is an order of magnitude slower over an axis of three.
        *rest, width, channels = images.shape
        row = (1,) * len(rest) + (width * channels,)
        mean = np.tile(np.asarray(self.mean, np.float32), width).reshape(row)
        std = np.tile(np.asarray(self.std, np.float32), width).reshape(row)
        normalized = images.reshape(*rest, width * channels).astype(np.float32)
        normalized -= mean
        normalized /= std
        normalized = normalized.reshape(images.shape)
        return normalized[..., ::-1] if self.bgr else normalized


# From -1 to 1 (Keras' mode "tf").
MINUS_ONE_TO_ONE = Normalize((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
# ImageNet's mean and deviation (torchvision, timm; Keras' mode "torch").
IMAGENET = Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# ImageNet's mean, blue first (Keras' mode "caffe").
IMAGENET_BGR = Normalize((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), bgr=True)
