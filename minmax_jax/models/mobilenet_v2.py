"""MobileNetV2 1.0, with the layer names of the Keras applications.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn

from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.preprocess import IMAGENET, MINUS_ONE_TO_ONE

STYLES = {
    "keras": Style(MINUS_ONE_TO_ONE, padding="SAME", epsilon=1e-3, momentum=0.999),
    "torchvision": Style(IMAGENET),
    "timm": Style(IMAGENET),
}
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


class MobileNetV2(Backbone):
    """MobileNetV2 1.0, output stride 32: 224 px give `(b 7 7 1280)` at "stride32".

    A tap is the deepest activation at its stride: the expanded features that the next strided
    convolution reads, and the last ReLU6. None is negative.
    """

    taps: ClassVar[tuple[str, ...]] = ("stride2", "stride4", "stride8", "stride16", "stride32")

    def features(self, x, *, tap, norm, train):
        padding = self.style.padding
        x = Conv(32, 3, 2, padding, name="Conv1")(x)
        x = nn.relu6(norm(x, name="bn_Conv1"))
        total_stride = 2
        for index, (features, stride) in enumerate(_BLOCKS):
            block = f"block_{index}" if index else "expanded_conv"
            shortcut = x
            if index:
                x = Conv(EXPANSION * x.shape[-1], 1, name=f"{block}_expand")(x)
                x = nn.relu6(norm(x, name=f"{block}_expand_BN"))
            if stride == 2:
                x = tap(f"stride{total_stride}", x)
                total_stride *= 2
            x = Conv(None, 3, stride, padding, name=f"{block}_depthwise")(x)
            x = nn.relu6(norm(x, name=f"{block}_depthwise_BN"))
            x = Conv(features, 1, name=f"{block}_project")(x)
            x = norm(x, name=f"{block}_project_BN")
            if stride == 1 and shortcut.shape == x.shape:
                x = x + shortcut
        x = Conv(1280, 1, name="Conv_1")(x)
        return tap(f"stride{total_stride}", nn.relu6(norm(x, name="Conv_1_bn")))
