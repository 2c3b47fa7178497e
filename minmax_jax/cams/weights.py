"""CAM forms: maps from the kernel of a head that is linear after global average pooling.

A score's gradient with respect to the pooled features is the kernel times the score's cotangent,
so no differentiation is needed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import maps, scores


def cam(activations: jax.Array, weights: jax.Array) -> jax.Array:
    """`relu(sum_k weights[k] A[..., k])` (Zhou et al. 2016; MinMax-CAM, Eq. 1, 4 and 7).

    Args:
      activations: `(h w k)`.
      weights: `(k,)`, one weight a channel.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return jax.nn.relu(jnp.einsum("hwk,k->hw", activations, weights, precision="highest"))


def d_minmax_cam(activations: jax.Array, terms: jax.Array) -> jax.Array:
    """D-MinMax-CAM (Eq. 9).

    Assumes activations that are never negative; other networks get the same sum all the same.

    Args:
      activations: `(h w k)`.
      terms: `(3 k)`, the kernel times the rows of `scores.decomposed`.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return cam(activations, scores.recombine(terms))


def acol_cam(activations: jax.Array, weights: jax.Array) -> jax.Array:
    """Map of two classifiers, each on its own half of the channels (ACoL; Zhang et al. 2018).

    Args:
      activations: `(h w 2k)`.
      weights: `(2k,)`, one weight a channel.

    Returns:
      `(h w)` in 0..1: of the two halves' maps, each rectified and normalised, the larger value.
    """
    halves = zip(jnp.split(activations, 2, axis=-1), jnp.split(weights, 2), strict=True)
    return jnp.maximum(*(maps.normalize_maps(cam(*half)) for half in halves))
