"""Stages of training: for how long, how fast, and which layers."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      epochs: at most so many.
      learning_rate: at its start.
      unfrozen: fraction of the layers, from the top, that are trained; 0 is the head alone. The
        others keep their weights and normalise by their stored statistics.
    """

    epochs: int
    learning_rate: float
    unfrozen: float = 1.0


def frozen_layers(layers: tuple[str, ...], unfrozen: float) -> frozenset[str]:
    """The lower layers, all but a fraction of them.

    Args:
      layers: names of the layers with parameters, in forward order, the head last.
      unfrozen: fraction of the layers, from the top, that are trained; 0 is the head alone.

    Returns:
      Names of the layers that are not trained.

    Raises:
      ValueError: if `unfrozen` is outside 0..1.
    """
    if not 0 <= unfrozen <= 1:
        raise ValueError(f"unfrozen must be a fraction in 0..1, not {unfrozen}")
    trained = max(1, math.floor(unfrozen * len(layers) + 0.5))
    return frozenset(layers[: len(layers) - trained])
