"""Convolutions that are fast on every platform, and the batch normalisation that can be frozen.

Channels last: images `(b h w i)`, kernels `(kh kw i/groups o)` as `lax.conv_general_dilated` has
them with `NHWC`, `HWIO`. On CPU, XLA runs 1x1 convolutions faster as matrix products and 3x3
depthwise ones far faster as nine shifted multiply-adds; accelerators want the plain convolution.
One program holds both, the platform chooses when it is lowered.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = str | Sequence[tuple[int, int]]


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = "SAME"
) -> jax.Array:
    """Convolution, grouped if the kernel says so, chosen for speed by platform.

    Args:
      x: `(b h w i)`.
      kernel: `(kh kw i/groups o)`, same dtype as `x`.
      stride: step in both directions.
      padding: "SAME", "VALID" or `((top, bottom), (left, right))`.

    Returns:
      `(b h' w' o)`, dtype of `x`.

    Raises:
      ValueError: the kernel's inputs do not divide the channels of `x`.
    """
    channels, (height, width, inputs, outputs) = x.shape[-1], kernel.shape
    if channels % inputs:
        raise ValueError(f"kernel {kernel.shape} does not fit input {x.shape}.")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (height, width), (stride, stride), padding)
    padding = tuple(map(tuple, padding))
    groups = channels // inputs

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def pointwise(x, kernel):
        return jnp.einsum("bhwi,io->bhwo", x[:, ::stride, ::stride], kernel[0, 0])

    def depthwise(x, kernel):
        return _shifted_sum(x, kernel[:, :, 0], stride, padding)

    if groups == 1 and (height, width) == (1, 1) and padding == ((0, 0), (0, 0)):
        return lax.platform_dependent(x, kernel, cpu=pointwise, default=plain)
    if groups == channels == outputs and groups > 1:
        return lax.platform_dependent(x, kernel, cpu=depthwise, default=plain)
    return plain(x, kernel)


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Depthwise convolution of `(b h w c)` with `(kh kw c)` as a sum of shifted products."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    total = 0
    for i in range(height):
        for j in range(width):
            window = x[:, i : i + stride * (rows - 1) + 1 : stride]
            window = window[:, :, j : j + stride * (columns - 1) + 1 : stride]
            total = total + window * kernel[i, j][None, None, None]
    return total


class Conv(nn.Module):
    """Convolution without bias; its parameter is `kernel (kh kw i/groups features)`.

    Attributes:
      features: outputs; None makes the convolution depthwise (one output per input).
      size: side of the window.
      stride: step in both directions.
      padding: see `convolve`.
    """

    features: int | None
    size: int = 3
    stride: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, outputs = (x.shape[-1], self.features) if self.features else (1, x.shape[-1])
        kernel = self.param(
            "kernel", nn.initializers.he_normal(), (self.size, self.size, inputs, outputs)
        )
        return convolve(x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding)
