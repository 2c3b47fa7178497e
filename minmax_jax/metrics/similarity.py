"""How alike two maps are: structure (SSIM) and the order of their pixels (rank correlation).

Maps are `(H W)`, floating point. Functions are of one pair of maps; `jax.vmap` makes them of many.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Wang, Bovik, Sheikh and Simoncelli (2004), for values in 0..1.
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(first: jax.Array, second: jax.Array) -> jax.Array:
    """Structural similarity: the mean over all Gaussian windows that lie in the maps whole.

    Args:
      first, second: `(H W)` in 0..1, at least 11 pixels a side.

    Returns:
      Scalar in -1..1; 1 for equal maps.

    Raises:
      ValueError: for maps of different shapes, or too small for a window.
    """
    _check(first, second)
    if min(first.shape) < _WINDOW:
        raise ValueError(f"ssim needs maps of at least {_WINDOW} x {_WINDOW}, not {first.shape}")
    down, across = map(_window_means, first.shape)

    def blur(x):
        return jnp.einsum("ih,hw,jw->ij", down, x, across, precision="highest")

    # Variances are small differences of squares, unless most of the mean is gone before.
    shift_1, shift_2 = first.mean(), second.mean()
    x, y = first - shift_1, second - shift_2
    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + shift_1, mean_y + shift_2
    alike = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return (alike / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))).mean()


def rank_correlation(first: jax.Array, second: jax.Array) -> jax.Array:
    """Spearman's rank correlation of two maps' pixels; equal pixels share their mean rank.

    Of signed maps it compares where they are high, of their absolute values where they are strong.

    Args:
      first, second: `(H W)`.

    Returns:
      Scalar in -1..1; 0 where a map has the same value everywhere.

    Raises:
      ValueError: for maps of different shapes.
    """
    _check(first, second)
    x, y = _centred_ranks(first.ravel()), _centred_ranks(second.ravel())
    spread = jnp.sqrt((x * x).sum() * (y * y).sum())
    return jnp.where(spread > 0, (x * y).sum() / jnp.where(spread > 0, spread, 1), 0)


def _centred_ranks(values: jax.Array) -> jax.Array:
    """Ranks of float32 values `(n,)` as multiples of `n`, less their mean."""
    number = len(values)
    # Integers in the same order, which CPUs sort several times faster; -0 is 0.
    values = jnp.where(values == 0, 0, values.astype(jnp.float32))
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ordered = jnp.sort(keys)
    find = functools.partial(jnp.searchsorted, ordered, keys, method="scan_unrolled")
    return (find(side="left") + find(side="right") - number).astype(jnp.float32) / (2 * number)


def _window_means(side: int) -> np.ndarray:
    """Gaussian means of all windows in a line, as a matrix `(side - 10, side)`."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    windows = side - _WINDOW + 1
    means = np.zeros((windows, side), np.float32)
    for offset, weight in enumerate(weights / weights.sum()):
        means[np.arange(windows), np.arange(windows) + offset] = weight
    return means


def _check(first, second):
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"two maps (H W) of one shape are needed, not {first.shape} and {second.shape}"
        )
