"""MobileNetV2 1.0 with the layer names and the arithmetic of the Keras applications.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from minmax_jax.models.heads import Head
from minmax_jax.models.layers import Conv, batch_norm
from minmax_jax.models.network import Taps

EXPANSION = 6
# (features, stride) of the inverted residual blocks; the first does not expand.
_BLOCKS = (
    *((16, 1),),
    *((24, 2), (24, 1)),
    *((32, 2), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1)),
    *((96, 1), (96, 1), (96, 1)),
    *((160, 2), (160, 1), (160, 1)),
    *((320, 1),),
)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0, output stride 32: 224 px give `(b 7 7 1280)` at "stride32".

    A tap is the deepest activation at its stride: the expanded features that the next strided
    convolution reads, and the last ReLU6. None is negative.

    Attributes:
      num_labels, head, alpha, dropout: see `heads.Head`.
    """

    num_labels: int
    head: str = "dense"
    alpha: float = 1.0
    dropout: float = 0.0

    taps: ClassVar[tuple[str, ...]] = ("stride2", "stride4", "stride8", "stride16", "stride32")

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

        def norm(x, name):
            return batch_norm(
                x, name=name, train=train, frozen=frozen, momentum=0.999, epsilon=1e-3
            )

        # "SAME" with a 3x3 window and stride 2 is (0, 1) on even sides and (1, 1) on odd ones,
        # which is what Keras pads explicitly.
        x = Conv(32, 3, stride=2, name="Conv1")(images)
        x = nn.relu6(norm(x, "bn_Conv1"))
        total_stride = 2
        for index, (features, stride) in enumerate(_BLOCKS):
            block = f"block_{index}" if index else "expanded_conv"
            shortcut = x
            if index:
                x = Conv(EXPANSION * x.shape[-1], 1, name=f"{block}_expand")(x)
                x = nn.relu6(norm(x, f"{block}_expand_BN"))
            if stride == 2:
                x = tap(f"stride{total_stride}", x)
                total_stride *= 2
            x = Conv(None, 3, stride=stride, name=f"{block}_depthwise")(x)
            x = nn.relu6(norm(x, f"{block}_depthwise_BN"))
            x = Conv(features, 1, name=f"{block}_project")(x)
            x = norm(x, f"{block}_project_BN")
            if stride == 1 and shortcut.shape == x.shape:
                x = x + shortcut
        x = Conv(1280, 1, name="Conv_1")(x)
        x = tap(f"stride{total_stride}", nn.relu6(norm(x, "Conv_1_bn")))
        logits = Head(self.num_labels, self.head, self.alpha, self.dropout, name="head")(
            x, train=train
        )
        return logits, tap.activations
