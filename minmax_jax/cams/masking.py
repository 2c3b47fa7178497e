"""Score-CAM: channels weighted by how a network scores the image seen through them.

The only maps made for a batch at once: masks of several images are packed into full chunks. A mask
does not depend on the label, so each is forwarded once for all labels.

Two approximations need fewer passes. One forwards only the channels with the highest standard
deviation (Faster Score-CAM, a public implementation of Score-CAM by tabayashi0117). The other
forwards one mask for each cluster of alike channels, after the idea of Cluster-CAM (Feng et al.
2024), of whose other steps it takes none.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from . import maps, weights
from .chunks import map_live
from .clusters import cluster_channels, spread


def score_cam_weights(
    scores: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    activations: jax.Array,
    *,
    labels: jax.Array | None = None,
    valid: jax.Array | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    skipped_weight: float = 0,
    chunk_size: int,
    split: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Channel weights `sigmoid(f(x * H_k))_l` (Wang et al. 2020, as MinMax-CAM's tables use it).

    `H_k` is the min-max normalised bilinear upsampling of channel `k`. Flat channels are not
    forwarded; their weight is `skipped_weight`. Memory for images grows with `chunk_size`, not with
    the number of channels; weights are kept of the labels wanted only.

    Args:
      scores: maps images `(n H W 3)` to scores `(n c)`, the weights.
      images: `(b H W 3)`.
      activations: `(b h w k)`.
      labels: `(b n)` integers, the labels wanted of each image; by default all, `n = c`.
      valid: `(b,)` bool, images to forward; all by default.
      channels: forwards of each image only so many live channels, those with the highest standard
        deviation over space; all by default.
      clusters: forwards one mask for each of so many clusters of an image's live channels
        (`cluster_channels`), the min-max normalised mean of its members' normalised maps; all
        members get its weight. By default every channel has its own mask.
      skipped_weight: of channels that are not forwarded; minus infinity for `softmax_score_cam`.
      chunk_size: masked images in one forward pass.
      split: spreads a chunk `(n ...)` over devices.

    Returns:
      `(b k n)` weights.

    Raises:
      ValueError: if `channels` or `clusters` is no integer of at least 1, or both are given.
    """
    check_approximation(channels, clusters)
    if clusters is not None:
        # Means of empty clusters are flat.
        means, index = cluster_channels(activations, clusters)
        found = score_cam_weights(
            scores,
            images,
            means,
            labels=labels,
            valid=valid,
            skipped_weight=skipped_weight,
            chunk_size=chunk_size,
            split=split,
        )
        return jnp.take_along_axis(
            found, index[..., None], axis=1, mode="fill", fill_value=skipped_weight
        )
    size = images.shape[1:3]
    b, h, w, k = activations.shape
    candidates = jnp.moveaxis(activations, -1, 1)
    skipped = maps.is_flat(candidates)
    if channels is not None:
        rank = jnp.argsort(jnp.argsort(-spread(candidates), axis=1), axis=1)
        skipped |= rank >= channels
    if valid is not None:
        skipped |= ~valid[:, None]
    candidates = candidates.reshape(b * k, h, w)

    def forward(index):
        masks = maps.normalize_maps(maps.resize_maps(candidates.at[index].get(mode="clip"), size))
        masked = split(images.at[index // k].get(mode="clip") * masks[..., None])
        found = scores(masked)
        if labels is None:
            return found
        return jnp.take_along_axis(found, labels.at[index // k].get(mode="clip"), axis=1)

    num_labels = jax.eval_shape(scores, images).shape[-1] if labels is None else labels.shape[1]
    found = map_live(
        forward,
        skipped.reshape(b * k),
        columns=num_labels,
        fill=skipped_weight,
        chunk_size=chunk_size,
        split=split,
    )
    return found.reshape(b, k, num_labels)


def softmax_score_cam(activations: jax.Array, scores: jax.Array) -> jax.Array:
    """Score-CAM as published: channels weighted by a softmax over channels (Wang et al. 2020).

    The paper's scores are `f(x * H_k)_l - f(x_b)_l` with a baseline image `x_b`, the same for all
    channels: it cancels in the softmax and is left out. Channels that are flat or whose score is
    minus infinity weigh 0.

    Args:
      activations: `(h w k)`.
      scores: `(k,)`, the label's logit for the image seen through each channel.

    Returns:
      `(h w)` raw map, not normalised.
    """
    live = ~maps.is_flat(jnp.moveaxis(activations, -1, 0)) & (scores > -jnp.inf)
    highest = jnp.max(scores, where=live, initial=-jnp.inf)
    powers = jnp.exp(jnp.where(live, scores - highest, -jnp.inf))
    return weights.cam(activations, powers / jnp.maximum(powers.sum(), 1))


def check_approximation(channels: int | None, clusters: int | None) -> None:
    """Raises `ValueError` unless at most one is given, an integer of at least 1."""
    for name, number in (("channels", channels), ("clusters", clusters)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{name} must be an integer of at least 1, not {number!r}")
    if channels is not None and clusters is not None:
        raise ValueError(
            f"channels={channels} and clusters={clusters} exclude each other: give one of them"
        )
