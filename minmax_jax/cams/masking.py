"""Score-CAM: channels weighted by how a network scores the image seen through them.

The only maps made for a batch at once: masks of several images are packed into full chunks. A mask
does not depend on the label, so each is forwarded once for all labels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from . import maps


def score_cam_weights(
    scores: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    activations: jax.Array,
    *,
    labels: jax.Array | None = None,
    valid: jax.Array | None = None,
    chunk_size: int,
    split: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Channel weights `sigmoid(f(x * H_k))_l` (Wang et al. 2020, as MinMax-CAM's tables use it).

    `H_k` is the min-max normalised bilinear upsampling of channel `k`. Flat channels are not
    forwarded; their weight is 0. Memory for images grows with `chunk_size`, not with the number of
    channels; weights are kept of the labels wanted only.

    Args:
      scores: maps images `(n H W 3)` to scores `(n c)` in 0..1.
      images: `(b H W 3)`.
      activations: `(b h w k)`.
      labels: `(b n)` integers, the labels wanted of each image; by default all, `n = c`.
      valid: `(b,)` bool, images to forward; the others' weights are 0. All by default.
      chunk_size: masked images in one forward pass.
      split: spreads a chunk `(n ...)` over devices.

    Returns:
      `(b k n)` weights.
    """
    size = images.shape[1:3]
    b, h, w, k = activations.shape
    channels = jnp.moveaxis(activations, -1, 1).reshape(b * k, h, w)
    skipped = maps.is_flat(channels)
    if valid is not None:
        skipped |= jnp.repeat(~valid, k)
    # Live channels first, so that the loop ends when they do. Past the end stands an index out of
    # bounds: a gather clamps it and the scatter drops it.
    order = jnp.argsort(skipped, stable=True)
    order = jnp.pad(order, (0, -len(order) % chunk_size), constant_values=b * k)
    num_live = jnp.sum(~skipped)
    num_labels = jax.eval_shape(scores, images).shape[-1] if labels is None else labels.shape[1]

    def forward(state):
        start, weights = state
        index = split(jax.lax.dynamic_slice_in_dim(order, start, chunk_size))
        masks = maps.normalize_maps(maps.resize_maps(channels.at[index].get(mode="clip"), size))
        masked = split(images.at[index // k].get(mode="clip") * masks[..., None])
        found = scores(masked)
        if labels is not None:
            wanted = labels.at[index // k].get(mode="clip")
            found = jnp.take_along_axis(found, wanted, axis=1)
        return start + chunk_size, weights.at[index].set(found, mode="drop")

    zero = jnp.zeros((b * k, num_labels), jnp.float32)
    _, weights = jax.lax.while_loop(lambda state: state[0] < num_live, forward, (0, zero))
    return jnp.where(skipped[:, None], 0, weights).reshape(b, k, num_labels)
