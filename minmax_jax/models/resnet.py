"""A small residual network for images of about 96 px: fast enough to train on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from minmax_jax.models.heads import Head
from minmax_jax.models.layers import Conv, batch_norm
from minmax_jax.models.network import Taps


class ScenesResNet(nn.Module):
    """Stem and four residual blocks, output stride 8: 96 px give `(b 12 12 64)` at "block4".

    Every tap follows a ReLU, so activations are not negative.

    Attributes:
      num_labels, head, alpha, dropout: see `heads.Head`.
    """

    num_labels: int
    head: str = "dense"
    alpha: float = 1.0
    dropout: float = 0.0

    # Wide layers only at stride 8: on CPU a training step spends its time in the kernel gradients.
    stem: ClassVar[tuple[int, int, int]] = (16, 7, 4)  # features, size, stride
    blocks: ClassVar[tuple[tuple[int, int], ...]] = ((16, 1), (32, 2), (64, 1), (64, 1))
    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3", "block4")

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        perturbations: Mapping[str, jax.Array] | None,
        *,
        train: bool,
        frozen: frozenset[str],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        tap = Taps(perturbations)

        def normalised_conv(x, layer, features, size, stride):
            x = Conv(features, size, stride, name=f"{layer}_conv")(x)
            return batch_norm(x, name=f"{layer}_bn", train=train, frozen=frozen)

        x = nn.relu(normalised_conv(images, "stem", *self.stem))
        for block, (features, stride) in zip(self.taps, self.blocks, strict=True):
            shortcut = x
            x = nn.relu(normalised_conv(x, f"{block}_1", features, 3, stride))
            x = normalised_conv(x, f"{block}_2", features, 3, 1)
            if shortcut.shape != x.shape:
                shortcut = normalised_conv(shortcut, f"{block}_shortcut", features, 1, stride)
            x = tap(block, nn.relu(x + shortcut))
        logits = Head(self.num_labels, self.head, self.alpha, self.dropout, name="head")(
            x, train=train
        )
        return logits, tap.activations
