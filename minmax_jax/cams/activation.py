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
    # Squares of what is at most 1 neither overflow nor all underflow. The map is proportional to
    # the activations, so its derivative does not depend on the scale.
    highest = jax.lax.stop_gradient(jnp.abs(activations).max())
    scale = jnp.where(highest > 0, highest, 1)
    positions = (activations / scale).reshape(h * w, k)
    # The smaller of the two Gram matrices has the same first eigenvector, on its own side.
    if k <= h * w:
        gram = jnp.einsum("pk,pl->kl", positions, positions, precision="highest")
        right = _first_eigenvector(gram)
    else:
        gram = jnp.einsum("pk,qk->pq", positions, positions, precision="highest")
        left = _first_eigenvector(gram)
        right = jnp.einsum("pk,p->k", positions, left, precision="highest")
        square = jnp.square(right).sum()
        right = right / jnp.sqrt(jnp.where(square > 0, square, 1))
    projection = jnp.einsum("pk,k->p", positions, right, precision="highest")
    projection = jnp.where(projection.sum() < 0, -projection, projection)
    return jax.nn.relu(scale * projection).reshape(h, w)


@jax.custom_jvp
def _first_eigenvector(matrix):
    """Of the largest eigenvalue of a symmetric matrix."""
    return jnp.linalg.eigh(matrix)[1][:, -1]


@_first_eigenvector.defjvp
def _move_first_eigenvector(primals, tangents):
    # The derivative of `eigh` is not a number where any two eigenvalues are equal, as those of
    # channels that are 0; for the first vector only the distances from the largest one matter.
    values, vectors = jnp.linalg.eigh(*primals)
    first, distances = vectors[:, -1], values[-1] - values
    moved = vectors.T @ (tangents[0] @ first)
    apart = distances > 0
    return first, vectors @ jnp.where(apart, moved / jnp.where(apart, distances, 1), 0)
