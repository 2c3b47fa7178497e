"""Layers with parameters: convolution, and batch normalisation that can be frozen.

Channels last: images `(b h w c)`.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from minmax_jax.models.windows import Padding, convolve


class Conv(nn.Module):
    """Convolution with the parameters `kernel (kh kw i/groups features)` and maybe `bias`.

    Attributes:
      features: outputs; None makes the convolution depthwise (one output per input).
      size: side of the window.
      stride: step in both directions.
      padding: see `convolve`.
      bias: whether to add `bias (features,)`.
    """

    features: int | None
    size: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, outputs = (x.shape[-1], self.features) if self.features else (1, x.shape[-1])
        kernel = self.param(
            "kernel", nn.initializers.he_normal(), (self.size, self.size, inputs, outputs)
        )
        x = convolve(x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (outputs,))
            x = x + bias.astype(x.dtype)[None, None, None]
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, computed in float32.

    Parameters `scale (c,)` and `bias (c,)`, statistics `mean (c,)` and `var (c,)`.

    Attributes:
      stored: normalise by the stored statistics and leave them as they are; else by the batch's,
        which move the stored ones: `new = momentum * old + (1 - momentum) * batch`.
      momentum: see above.
      epsilon: added to the variance.
    """

    stored: bool
    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        var = self.variable("batch_stats", "var", jnp.ones, features)
        if self.stored:
            return _affine(x, mean.value, lax.rsqrt(var.value + self.epsilon) * scale, bias)
        normalized, batch_mean, batch_var = _normalize(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for variable, batch in ((mean, batch_mean), (var, batch_var)):
                batch = lax.stop_gradient(batch)
                variable.value = self.momentum * variable.value + (1 - self.momentum) * batch
        return normalized


def _affine(x, mean, factor, bias):
    """`(x - mean) * factor + bias`, in the dtype of `x`."""
    channels = (None,) * (x.ndim - 1)
    shift = bias - mean * factor
    return (x.astype(jnp.float32) * factor[channels] + shift[channels]).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x, scale, bias, epsilon):
    """Normalised by its own mean and variance, which are returned too, without gradient."""
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes)
    var = jnp.maximum(jnp.mean(jnp.square(wide), axes) - jnp.square(mean), 0)
    return _affine(x, mean, lax.rsqrt(var + epsilon) * scale, bias), mean, var


def _normalize_forward(x, scale, bias, epsilon):
    out = _normalize(x, scale, bias, epsilon)
    _, mean, var = out
    return out, (x, scale, mean, lax.rsqrt(var + epsilon))


# Written out, it reads `x` and `g` twice; autodiff would also keep and read centred copies.
def _normalize_backward(epsilon, saved, cotangents):
    x, scale, mean, inverse = saved
    g = cotangents[0].astype(jnp.float32)
    axes, channels = tuple(range(x.ndim - 1)), (None,) * (x.ndim - 1)
    number = x.size // x.shape[-1]
    wide = x.astype(jnp.float32)
    dbias = jnp.sum(g, axes)
    dscale = (jnp.sum(g * wide, axes) - mean * dbias) * inverse
    # dx = scale * inverse * (g - dbias / n - normalised x * dscale / n), by powers of x
    slope = -scale * inverse * inverse * dscale / number
    shift = -scale * inverse * dbias / number - slope * mean
    dx = (scale * inverse)[channels] * g + slope[channels] * wide + shift[channels]
    return dx.astype(x.dtype), dscale, dbias


_normalize.defvjp(_normalize_forward, _normalize_backward)


def batch_norm(
    x: jax.Array,
    *,
    name: str,
    train: bool,
    frozen: frozenset[str],
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Batch normalisation as the layer `name` of the module that calls.

    By the batch's statistics in training, which move the stored ones; by the stored ones, left as
    they are, in inference and for layers named in `frozen`.
    """
    stored = not train or name in frozen
    return BatchNorm(stored, momentum, epsilon, name=name)(x)
