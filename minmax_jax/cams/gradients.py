"""Maps from activations and the gradients of a score with respect to them.

The factor `1 / (h w)` of the published weights is left out: it vanishes in the normalisation.
Any score goes: what a form calls the gradients are those of one label's logit in its paper, of the
difference of labels with the MinMax cotangent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import scores, weights


def grad_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """Grad-CAM: channels weighted by their summed gradient (Selvaraju et al. 2017; Eq. 2).

    With the MinMax cotangent this is MinMax-Grad-CAM (Eq. 4 to 6).

    Args:
      activations: `(h w k)`.
      gradients: `(h w k)`, of the score.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return weights.cam(activations, gradients.sum(axis=(0, 1)))


def d_minmax_grad_cam(activations: jax.Array, terms: jax.Array) -> jax.Array:
    """D-MinMax-Grad-CAM: the three terms are rectified before they are summed over space (Eq. 8).

    Args:
      activations: `(h w k)`.
      terms: `(3 h w k)`, gradients of the scores in `scores.decomposed`.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return grad_cam(activations, scores.recombine(terms))


def grad_cam_plus_plus(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """Grad-CAM++ in the form behind the published tables (Chattopadhyay et al. 2018).

    Channel weights are `sum_ij a relu(g)` with `a = g^2 / (2 g^2 + (sum_ij A) g^3)`, 0 where the
    denominator is 0. Cancelling `g^2` leaves `a = 1 / (2 + (sum_ij A) g)`, which is what is
    computed: `g^2` and `g^3` underflow for the small gradients behind a pooling layer. The
    denominator is negative where `(sum_ij A) g < -2`: never where `relu(g)` lets anything through,
    unless activations are negative (swish networks), and is then used as it is. The published
    factor `exp(S)` is one positive number per label, which leaves the normalised map as it is and
    overflows for large logits: it is left out.

    Args:
      activations: `(h w k)`.
      gradients: `(h w k)`, of one label's logit.

    Returns:
      `(h w)` raw map, not normalised.
    """
    denominator = 2 + activations.sum(axis=(0, 1), keepdims=True) * gradients
    defined = denominator != 0
    factors = jnp.where(defined, 1 / jnp.where(defined, denominator, 1), 0)
    return weights.cam(activations, (factors * jax.nn.relu(gradients)).sum(axis=(0, 1)))


def hires_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """HiResCAM: `relu(sum_k A_k g_k)`, position by position (Draelos and Carin 2020).

    Args:
      activations: `(h w k)`.
      gradients: `(h w k)`, of the score.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return jax.nn.relu((activations * gradients).sum(axis=-1))


def xgrad_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """XGrad-CAM: channels weighted by `sum_ij g A / sum_ij A` (Fu et al. 2020).

    The weight is 0 where the channel's sum is 0.

    Args:
      activations: `(h w k)`.
      gradients: `(h w k)`, of the score.

    Returns:
      `(h w)` raw map, not normalised.
    """
    total = activations.sum(axis=(0, 1))
    live = total != 0
    channel_weights = (gradients * activations).sum(axis=(0, 1)) / jnp.where(live, total, 1)
    return weights.cam(activations, jnp.where(live, channel_weights, 0))


def layer_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """LayerCAM: `relu(sum_k relu(g_k) A_k)`, position by position (Jiang et al. 2021).

    Args:
      activations: `(h w k)`.
      gradients: `(h w k)`, of the score.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return hires_cam(activations, jax.nn.relu(gradients))


def relevance_cam(activations: jax.Array, relevance: jax.Array) -> jax.Array:
    """Relevance-CAM: channels weighted by their summed relevance (Lee et al. 2021).

    Args:
      activations: `(h w k)`.
      relevance: `(h w k)`, of layer-wise relevance propagation from the score's row.

    Returns:
      `(h w)` raw map, not normalised.
    """
    return weights.cam(activations, relevance.sum(axis=(0, 1)))
