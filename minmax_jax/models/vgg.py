"""VGG16 and VGG19 without their fully connected layers, with the Keras applications' layer names.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014;
with global average pooling after the last convolution, as Zhou et al. (CAM, 2016) use them.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn

from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.preprocess import IMAGENET, IMAGENET_BGR
from minmax_jax.models.windows import max_pool

STYLES = {
    "torchvision": Style(IMAGENET),
    "timm": Style(IMAGENET),
    "keras": Style(IMAGENET_BGR),
}
_FEATURES = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """Five blocks of 3x3 convolutions, output stride 16: 224 px give `(b 14 14 512)` at "block5".

    The taps stand before the five poolings; the fifth is the global one. None is negative.

    Attributes:
      convolutions: in each block.
    """

    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)

    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3", "block4", "block5")

    def features(self, x, *, tap, norm, train):
        for block, features, number in zip(self.taps, _FEATURES, self.convolutions, strict=True):
            if block != self.taps[0]:
                x = max_pool(x, 2, stride=2)
            for index in range(number):
                x = nn.relu(Conv(features, bias=True, name=f"{block}_conv{index + 1}")(x))
            x = tap(block, x)
        return x
