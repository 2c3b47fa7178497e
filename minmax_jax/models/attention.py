"""CBAM: a gate for each channel, then one for each pixel, at the end of a residual branch.

Woo et al., "CBAM: Convolutional Block Attention Module", 2018; biases, normalisation and kernel
sizes are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from minmax_jax.models.layers import Conv

ATTENTIONS = ("none", "cbam")
_REDUCTION = 16  # channels of a block for each hidden unit
_LAYERS = ("_channel_1", "_channel_2", "_spatial_conv", "_spatial_bn")


def cbam(x: jax.Array, *, block: str, norm: Callable[..., jax.Array]) -> jax.Array:
    """Features times `sigmoid(MLP(mean) + MLP(max))` of their channels, then times the sigmoid of
    a normalised 7x7 convolution over the maximum and the mean of all channels.

    Its layers belong to the module that calls: `BLOCK_channel_1` and `BLOCK_channel_2` (the hidden
    and the last layer of the MLP), `BLOCK_spatial_conv` and `BLOCK_spatial_bn`.

    Args:
      x: `(b h w k)`, what a residual branch adds to the shortcut.
      block: the block's name.
      norm: `norm(x, name=layer)` normalises a batch.

    Returns:
      `(b h w k)`, dtype of `x`.
    """
    channels = x.shape[-1]
    hidden = Conv(max(1, channels // _REDUCTION), 1, bias=True, name=f"{block}_channel_1")
    last = Conv(channels, 1, bias=True, name=f"{block}_channel_2")
    pooled = _mean(x, (1, 2)), jnp.max(x, axis=(1, 2), keepdims=True)
    x = x * nn.sigmoid(sum(last(nn.relu(hidden(values))) for values in pooled))
    planes = jnp.concatenate([jnp.max(x, axis=-1, keepdims=True), _mean(x, -1)], axis=-1)
    gate = Conv(1, 7, 1, "symmetric", name=f"{block}_spatial_conv")(planes)
    return x * nn.sigmoid(norm(gate, name=f"{block}_spatial_bn"))


def is_attention(layer: str) -> bool:
    """Whether a layer of that name is part of an attention module."""
    return layer.endswith(_LAYERS)


def _mean(x, axis):
    return jnp.mean(x, axis=axis, keepdims=True, dtype=jnp.float32).astype(x.dtype)
