"""A small residual network for images of about 96 px: fast enough to train on two CPU cores."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn

from minmax_jax.models.attention import cbam
from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE

STYLES = {"own": Style(MINUS_ONE_TO_ONE, padding="SAME")}


class ScenesResNet(Backbone):
    """Stem and four residual blocks, output stride 8: 96 px give `(b 12 12 64)` at "block4".

    Every tap follows a ReLU, so activations are not negative.
    """

    # Wide layers only at stride 8: on CPU a training step spends its time in the kernel gradients.
    stem: ClassVar[tuple[int, int, int]] = (16, 7, 4)  # features, size, stride
    blocks: ClassVar[tuple[tuple[int, int], ...]] = ((16, 1), (32, 2), (64, 1), (64, 1))
    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3", "block4")

    def features(self, x, *, tap, norm, train):
        def normalised_conv(x, layer, features, size, stride):
            x = Conv(features, size, stride, self.style.padding, name=f"{layer}_conv")(x)
            return norm(x, name=f"{layer}_bn")

        x = nn.relu(normalised_conv(x, "stem", *self.stem))
        for block, (features, stride) in zip(self.taps, self.blocks, strict=True):
            shortcut = x
            x = nn.relu(normalised_conv(x, f"{block}_1", features, 3, stride))
            x = normalised_conv(x, f"{block}_2", features, 3, 1)
            if self.attention == "cbam":
                x = cbam(x, block=block, norm=norm)
            if shortcut.shape != x.shape:
                shortcut = normalised_conv(shortcut, f"{block}_shortcut", features, 1, stride)
            x = tap(block, nn.relu(x + shortcut))
        return x
