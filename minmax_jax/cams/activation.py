"""Maps from activations alone: no score, the same for every label."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def eigen_cam(activations: jax.Array) -> jax.Array:
    """Eigen-CAM: activations projected on their first right singular vector, rectified.

    `A v` of `A (h w, k) = U S V^T` (Muhammad and Yeasin 2020). `A` is not centred, as in the paper;
    pytorch-grad-cam subtracts each channel's mean first, which gives another map. A singular vector
    has no sign of its own: the one is taken with which the projection's sum is not negative.

    Args:
      activations: `(h w k)`, floating point.

    Returns:
      `(h w)` raw map, not normalised.
    """
    h, w, k = activations.shape
    # Squares of what is at most 1 neither overflow nor all underflow.
    scale = jnp.abs(activations).max()
    positions = (activations / jnp.where(scale > 0, scale, 1)).reshape(h * w, k)
    # The smaller of the two Gram matrices has the same first eigenvector, on its own side.
    if k <= h * w:
        gram = jnp.einsum("pk,pl->kl", positions, positions, precision="highest")
        _, vectors = jnp.linalg.eigh(gram)
        projection = jnp.einsum("pk,k->p", positions, vectors[:, -1], precision="highest")
    else:
        gram = jnp.einsum("pk,qk->pq", positions, positions, precision="highest")
        values, vectors = jnp.linalg.eigh(gram)
        projection = vectors[:, -1] * jnp.sqrt(jnp.maximum(values[-1], 0))
    projection = jnp.where(projection.sum() < 0, -projection, projection)
    return jax.nn.relu(scale * projection).reshape(h, w)
