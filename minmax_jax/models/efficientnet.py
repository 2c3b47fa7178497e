"""EfficientNet B0 to B7, with the layer names of the Keras applications.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019.
"""

from __future__ import annotations

import dataclasses
import math
import string
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.preprocess import IMAGENET

STYLES = {
    "torchvision": Style(IMAGENET),
    "timm": Style(IMAGENET),
    "keras": Style(IMAGENET, padding="SAME", epsilon=1e-3, momentum=0.99),
}
# torchvision's B5 to B7 were converted from TensorFlow's, with the epsilon of those.
LARGE_STYLES = STYLES | {"torchvision": Style(IMAGENET, epsilon=1e-3, momentum=0.99)}


@dataclasses.dataclass(frozen=True)
class _Stage:
    size: int  # of the depthwise window
    repeats: int
    features: int
    expansion: int
    stride: int


_STAGES = (
    _Stage(3, 1, 16, 1, 1),
    _Stage(3, 2, 24, 6, 2),
    _Stage(5, 2, 40, 6, 2),
    _Stage(3, 3, 80, 6, 2),
    _Stage(5, 3, 112, 6, 1),
    _Stage(5, 4, 192, 6, 2),
    _Stage(3, 1, 320, 6, 1),
)
_STEM, _TOP = 32, 1280
_SQUEEZE = 4  # squeeze-and-excitation has a quarter of the block's input channels


class EfficientNet(Backbone):
    """EfficientNet, output stride 32: B0 at 224 px gives `(b 7 7 1280)` at "stride32".

    A tap is the deepest activation at its stride: the expanded features that the next strided
    convolution reads, and the last activation. All follow a swish, so they may be as low as -0.28.

    Attributes:
      width, depth: factors of the channels and of the blocks.
      drop_connect: share of the examples in which, in training, the last block is skipped; earlier
        blocks are skipped proportionally less often.
    """

    width: float = 1.0
    depth: float = 1.0
    drop_connect: float = 0.2

    taps: ClassVar[tuple[str, ...]] = ("stride2", "stride4", "stride8", "stride16", "stride32")

    def features(self, x, *, tap, norm, train):
        x = Conv(self._channels(_STEM), 3, 2, self.style.padding, name="stem_conv")(x)
        x = nn.swish(norm(x, name="stem_bn"))
        repeats = [math.ceil(self.depth * stage.repeats) for stage in _STAGES]
        done, total_stride = 0, 2
        for number, stage in enumerate(_STAGES):
            for index in range(repeats[number]):
                block = f"block{number + 1}{string.ascii_lowercase[index]}"
                stride = stage.stride if not index else 1
                shortcut = x
                if stage.expansion > 1:
                    x = Conv(stage.expansion * x.shape[-1], 1, name=f"{block}_expand_conv")(x)
                    x = nn.swish(norm(x, name=f"{block}_expand_bn"))
                if stride == 2:
                    x = tap(f"stride{total_stride}", x)
                    total_stride *= 2
                x = Conv(None, stage.size, stride, self.style.padding, name=f"{block}_dwconv")(x)
                x = nn.swish(norm(x, name=f"{block}_bn"))
                x = self._excite(x, block, shortcut.shape[-1] // _SQUEEZE)
                x = Conv(self._channels(stage.features), 1, name=f"{block}_project_conv")(x)
                x = norm(x, name=f"{block}_project_bn")
                if shortcut.shape == x.shape:
                    rate = self.drop_connect * done / sum(repeats)
                    x = nn.Dropout(rate, broadcast_dims=(1, 2, 3))(x, deterministic=not train)
                    x = x + shortcut
                done += 1
        x = Conv(self._channels(_TOP), 1, name="top_conv")(x)
        return tap(f"stride{total_stride}", nn.swish(norm(x, name="top_bn")))

    def _excite(self, x, block, squeezed) -> jax.Array:
        """Squeeze-and-excitation: each channel times a gate made of all channels' means."""
        gate = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        gate = nn.swish(Conv(squeezed, 1, bias=True, name=f"{block}_se_reduce")(gate))
        gate = Conv(x.shape[-1], 1, bias=True, name=f"{block}_se_expand")(gate)
        return x * nn.sigmoid(gate)

    def _channels(self, channels: int) -> int:
        """Scaled by the width and rounded to a multiple of 8, never by more than a tenth down."""
        scaled = self.width * channels
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded
