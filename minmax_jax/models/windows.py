"""Convolution and pooling that are fast on every platform.

Channels last: images `(b h w i)`, kernels `(kh kw i/groups o)` as `lax.conv_general_dilated` has
them with `NHWC`, `HWIO`. On CPU, XLA runs 1x1 convolutions faster as matrix products, 3x3 depthwise
ones far faster as nine shifted multiply-adds and pooling as the maximum of shifted arrays, the
gradients included if they are written out; accelerators want the plain operations. One program
holds both, the platform chooses when it is lowered.
"""

from __future__ import annotations

import functools
import itertools
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
      padding: "SAME", "VALID", "symmetric" (half the window on all sides, as torch pads; with a
        stride, "SAME" may pad less above and on the left) or `((top, bottom), (left, right))`, not
        negative.

    Returns:
      `(b h' w' o)`, dtype of `x`.

    Raises:
      ValueError: `x` or `kernel` is not of rank 4, or the kernel's inputs do not divide the
        channels of `x`.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] % kernel.shape[2]:
        raise ValueError(f"kernel {kernel.shape} does not fit input {x.shape}.")
    return _convolve(x, kernel, stride, _explicit(padding, x.shape[1:3], kernel.shape[:2], stride))


# Deep networks repeat the same convolution; inlined, it is traced once for all of them.
@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _convolve(x, kernel, stride, padding):
    window, outputs = kernel.shape[:2], kernel.shape[3]
    groups = x.shape[-1] // kernel.shape[2]

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
        return _pointwise(x[:, ::stride, ::stride], kernel[0, 0])

    def depthwise(x, kernel):
        return _depthwise(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel[:, :, 0], stride)

    if groups == 1 and window == (1, 1) and padding == ((0, 0), (0, 0)):
        return lax.platform_dependent(x, kernel, cpu=pointwise, default=plain)
    if groups == x.shape[-1] == outputs and groups > 1:
        return lax.platform_dependent(x, kernel, cpu=depthwise, default=plain)
    return plain(x, kernel)


def max_pool(x: jax.Array, size: int, *, stride: int, padding: Padding = "VALID") -> jax.Array:
    """Largest value in each window; padding never wins.

    Args:
      x: `(b h w c)`.
      size: side of the window.
      stride, padding: see `convolve`.

    Returns:
      `(b h' w' c)`, dtype of `x`.
    """
    padding = _explicit(padding, x.shape[1:3], (size, size), stride)

    def plain(x):
        return nn.max_pool(x, (size, size), (stride, stride), padding)

    def by_axis(x):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
        return _max_along(_max_along(x, 1, size, stride), 2, size, stride)

    return lax.platform_dependent(x, cpu=by_axis, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_along(x: jax.Array, axis: int, size: int, stride: int) -> jax.Array:
    """Largest value in each window along one axis: the maximum of shifted arrays."""
    return functools.reduce(jnp.maximum, _shifted(x, axis, size, stride))


def _shifted(x, axis, size, stride):
    last = (x.shape[axis] - size) // stride * stride
    return [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(size)]


def _max_along_forward(x, axis, size, stride):
    pooled = _max_along(x, axis, size, stride)
    return pooled, (x, pooled)


def _max_along_backward(axis, size, stride, saved, g):
    x, pooled = saved
    # The first of equals gets the gradient. What goes to the places of one remainder modulo the
    # stride is summed on the grid of `g`; the remainders are then interleaved.
    number = -(-x.shape[axis] // stride)
    sums = [0] * stride
    taken = jnp.zeros(g.shape, bool)
    for i, values in enumerate(_shifted(x, axis, size, stride)):
        first = (values == pooled) & ~taken
        taken |= first
        around = [(0, 0, 0)] * x.ndim
        around[axis] = (i // stride, number - i // stride - g.shape[axis], 0)
        part = lax.pad(jnp.where(first, g, 0), jnp.zeros((), g.dtype), around)
        sums[i % stride] = sums[i % stride] + part
    shape = (*x.shape[:axis], number * stride, *x.shape[axis + 1 :])
    interleaved = jnp.stack(jnp.broadcast_arrays(*sums), axis + 1).reshape(shape)
    return (lax.slice_in_dim(interleaved, 0, x.shape[axis], 1, axis),)


_max_along.defvjp(_max_along_forward, _max_along_backward)


def _explicit(padding, sides, window, stride) -> tuple[tuple[int, int], tuple[int, int]]:
    if padding == "symmetric":
        padding = [(side // 2, side // 2) for side in window]
    elif isinstance(padding, str):
        padding = lax.padtype_to_pads(sides, window, (stride, stride), padding)
    return tuple(map(tuple, padding))


@jax.custom_vjp
def _pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`(b h w i)` times `(i o)`."""
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


def _pointwise_forward(x, kernel):
    return _pointwise(x, kernel), (x, kernel)


def _pointwise_backward(saved, g):
    x, kernel = saved
    # The product begins with a transposed copy of its left side, so the smaller one stands there;
    # the barrier keeps XLA from computing anew, element by element, what is copied.
    inputs, outputs = lax.optimization_barrier((x, g))
    if x.shape[-1] <= g.shape[-1]:
        dkernel = jnp.einsum("bhwi,bhwo->io", inputs, outputs)
    else:
        dkernel = jnp.einsum("bhwo,bhwi->oi", outputs, inputs).T
    return jnp.einsum("bhwo,io->bhwi", g, kernel), dkernel


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`(b h w c)`, already padded, with `(kh kw c)`: a sum of shifted products."""
    height, width = kernel.shape[:2]
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    total = 0
    for i, j in itertools.product(range(height), range(width)):
        window = x[:, i : i + stride * (rows - 1) + 1 : stride]
        window = window[:, :, j : j + stride * (columns - 1) + 1 : stride]
        total = total + window * kernel[i, j][None, None, None]
    return total


def _depthwise_forward(x, kernel, stride):
    return _depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, saved, g):
    x, kernel = saved
    height, width = kernel.shape[:2]
    rows, columns = g.shape[1:3]

    # Gradient in x: spread g to the grid of x, then the same sum with the kernel turned round.
    def around(size, side, steps):
        return (size - 1, side - stride * (steps - 1) - 1, stride - 1)

    spread = (
        (0, 0, 0),
        around(height, x.shape[1], rows),
        around(width, x.shape[2], columns),
        (0, 0, 0),
    )
    dx = _depthwise(lax.pad(g, jnp.zeros((), g.dtype), spread), kernel[::-1, ::-1], 1)

    # Gradient in the kernel: row by row, summed at the end. XLA's CPU backend runs a reduction
    # over a product of shifted arrays, which autodiff would write, about ten times slower.
    def add_row(row, sums):
        g_row = lax.dynamic_index_in_dim(g, row, axis=1, keepdims=False)
        x_rows = [
            lax.dynamic_index_in_dim(x, row * stride + i, axis=1, keepdims=False)
            for i in range(height)
        ]
        windows = (
            x_rows[i][:, j : j + stride * (columns - 1) + 1 : stride]
            for i, j in itertools.product(range(height), range(width))
        )
        return tuple(total + window * g_row for total, window in zip(sums, windows, strict=True))

    sums = lax.fori_loop(0, rows, add_row, (jnp.zeros_like(g[:, 0]),) * (height * width))
    dkernel = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in sums])
    return dx, dkernel.reshape(kernel.shape)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
