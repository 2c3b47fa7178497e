"""ResNet, first and second version, with the layer names of the Keras applications.

He et al., "Deep Residual Learning for Image Recognition", 2015, and "Identity Mappings in Deep
Residual Networks", 2016.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from minmax_jax.models.attention import cbam
from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.preprocess import IMAGENET, IMAGENET_BGR, MINUS_ONE_TO_ONE
from minmax_jax.models.windows import max_pool

BASIC_STYLES = {"torchvision": Style(IMAGENET), "timm": Style(IMAGENET)}
STYLES = BASIC_STYLES | {
    "keras": Style(
        IMAGENET_BGR,
        epsilon=1.001e-5,
        momentum=0.99,
        options=(("stride_first", True), ("bias", True)),
    )
}
V2_STYLES = {"keras": Style(MINUS_ONE_TO_ONE, epsilon=1.001e-5, momentum=0.99)}
_FEATURES = (64, 128, 256, 512)
_STAGES = ("stage1", "stage2", "stage3", "stage4")


class ResNet(Backbone):
    """ResNet v1, output stride 32: 224 px give `(b 7 7 512)` or, of bottlenecks, `(b 7 7 2048)`.

    A tap ends each of the four stages, after a ReLU.

    Attributes:
      blocks: in each stage.
      bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions; else of two 3x3.
      stride_first: the stride of a bottleneck is in its first convolution, not in its 3x3.
      bias: whether convolutions add a bias.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    stride_first: bool = False
    bias: bool = False

    taps: ClassVar[tuple[str, ...]] = _STAGES

    def features(self, x, *, tap, norm, train):
        def normalised_conv(x, layer, features, size, stride=1):
            x = Conv(features, size, stride, "symmetric", self.bias, name=f"{layer}_conv")(x)
            return norm(x, name=f"{layer}_bn")

        def residual(x, block, features, stride):
            if not self.bottleneck:
                x = nn.relu(normalised_conv(x, f"{block}_1", features, 3, stride))
                return normalised_conv(x, f"{block}_2", features, 3)
            first, second = (stride, 1) if self.stride_first else (1, stride)
            x = nn.relu(normalised_conv(x, f"{block}_1", features, 1, first))
            x = nn.relu(normalised_conv(x, f"{block}_2", features, 3, second))
            return normalised_conv(x, f"{block}_3", 4 * features, 1)

        x = nn.relu(normalised_conv(x, "conv1", 64, 7, 2))
        x = max_pool(x, 3, stride=2, padding="symmetric")
        for stage, (name, features, number) in enumerate(
            zip(_STAGES, _FEATURES, self.blocks, strict=True)
        ):
            for index in range(number):
                block = f"conv{stage + 2}_block{index + 1}"
                stride = 2 if stage and not index else 1
                out = residual(x, block, features, stride)
                if self.attention == "cbam":
                    out = cbam(out, block=block, norm=norm)
                if out.shape != x.shape:
                    x = normalised_conv(x, f"{block}_0", out.shape[-1], 1, stride)
                x = nn.relu(x + out)
            x = tap(name, x)
        return x


class ResNetV2(Backbone):
    """ResNet v2 of the Keras applications: 224 px give `(b 7 7 2048)` at "stage4".

    Normalisation and ReLU stand before each convolution, and the last block of a stage has the
    stride. A tap ends each of the four stages; the last stands behind the final ReLU, the other
    three behind a sum, so that they may be negative.

    Attributes:
      blocks: in each stage.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)

    taps: ClassVar[tuple[str, ...]] = _STAGES

    def features(self, x, *, tap, norm, train):
        x = Conv(64, 7, 2, "symmetric", bias=True, name="conv1_conv")(x)
        # Zeros, not minus infinity: nothing has been rectified yet.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, stride=2)
        for stage, (name, features, number) in enumerate(
            zip(_STAGES, _FEATURES, self.blocks, strict=True)
        ):
            for index in range(number):
                stride = 2 if stage < 3 and index == number - 1 else 1
                block = f"conv{stage + 2}_block{index + 1}"
                x = self._block(x, norm, block, features, stride, project=not index)
            if name == _STAGES[-1]:
                x = nn.relu(norm(x, name="post_bn"))
            x = tap(name, x)
        return x

    def _block(self, x, norm, block, features, stride, *, project) -> jax.Array:
        def preactivated(x, layer):
            return nn.relu(norm(x, name=f"{block}_{layer}_bn"))

        out = preactivated(x, "preact")
        if project:
            x = Conv(4 * features, 1, stride, bias=True, name=f"{block}_0_conv")(out)
        else:
            x = x[:, ::stride, ::stride]
        out = preactivated(Conv(features, 1, name=f"{block}_1_conv")(out), "1")
        out = Conv(features, 3, stride, "symmetric", name=f"{block}_2_conv")(out)
        out = preactivated(out, "2")
        return x + Conv(4 * features, 1, bias=True, name=f"{block}_3_conv")(out)
