"""A network that is trained in no time: convolution, normalisation, dropout, head."""

from __future__ import annotations

import functools
from typing import ClassVar

import flax.linen as nn

from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.network import from_module
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE

SIZE, CHANNELS = 8, 6


class Tiny(Backbone):
    """A convolution and a normalisation; "late" is `(b 2 2 6)`."""

    taps: ClassVar[tuple[str, ...]] = ("late",)

    def features(self, x, *, tap, norm, train):
        x = Conv(CHANNELS, 4, 4, "VALID", name="conv")(x)
        return tap("late", nn.relu(norm(x, name="bn")))


@functools.cache
def tiny(dropout=0.0, num_labels=2):
    return from_module(
        Tiny(num_labels, Style(MINUS_ONE_TO_ONE), dropout=dropout),
        name="tiny",
        image_size=SIZE,
        preprocess=MINUS_ONE_TO_ONE,
    )
