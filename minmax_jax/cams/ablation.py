"""Ablation-CAM: channels weighted by what the score loses without them (Desai and Ramaswamy 2020).

The published weight `(S - S_without) / S` is divided by the score, which vanishes in the
normalisation up to its sign and blows up near 0: the divisor is left out. A channel is taken away
by a perturbation of its own activations with the sign turned, at the tap.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .chunks import map_live


def ablation_weights(
    logits_of: Callable[[jax.Array, jax.Array], jax.Array],
    images: jax.Array,
    activations: jax.Array,
    logits: jax.Array,
    rows: jax.Array,
    *,
    valid: jax.Array | None = None,
    chunk_size: int,
    split: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Channel weights `r . (S - S without channel k)`, for scores `r . S` of the logits `S`.

    Each channel is taken away once for all scores. Channels that are 0 everywhere are not
    forwarded; their weight is 0. Only `chunk_size` images and perturbations are held at once, and
    what each of the `c` logits loses without each channel.

    Args:
      logits_of: maps images `(m H W 3)` and perturbations of their activations `(m h w k)` to
        logits `(m c)`.
      images: `(b H W 3)`.
      activations: `(b h w k)`, without perturbations.
      logits: `(b c)`, without perturbations.
      rows: `(b ... c)`, cotangents of the scores.
      valid: `(b,)` bool, images to forward; the others' weights are 0. All by default.
      chunk_size: images in one forward pass.
      split: spreads a chunk `(m ...)` over devices.

    Returns:
      `(b ... k)` weights.
    """
    b, *_, k = activations.shape
    skipped = (activations == 0).all(axis=(1, 2))
    if valid is not None:
        skipped |= ~valid[:, None]

    def forward(index):
        def of_image(array):
            return array.at[index // k].get(mode="clip")

        without = -of_image(activations) * jax.nn.one_hot(index % k, k)[:, None, None]
        return of_image(logits) - logits_of(split(of_image(images)), split(without))

    lost = map_live(
        forward,
        skipped.reshape(b * k),
        columns=logits.shape[1],
        chunk_size=chunk_size,
        split=split,
    )
    return jnp.einsum("b...c,bkc->b...k", rows, lost.reshape(b, k, -1), precision="highest")


def linear_ablation_weights(activations: jax.Array, channel_weights: jax.Array) -> jax.Array:
    """`ablation_weights` at the last tap of a head that is linear after global average pooling.

    Without a channel such a score loses the channel's mean times its weight: no forward pass.

    Args:
      activations: `(b h w k)`.
      channel_weights: `(b ... k)`, the head's kernel times the scores' rows.

    Returns:
      `(b ... k)` weights.
    """
    means = activations.mean(axis=(1, 2))
    return jnp.einsum("b...k,bk->b...k", channel_weights, means, precision="highest")
