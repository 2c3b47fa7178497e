"""The head of Adversarial Complementary Learning: two classifiers, the second without the first's
evidence.

Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", 2018.
Classifier A reads the features `(b h w k)`; they are set to 0 where A's map exceeds a threshold,
and classifier B reads what is left. Both are linear after global average pooling here, without the
convolutions that the paper puts before them. The authors erase by the map of the true class in
training; here it is A's most probable class in training and inference alike.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from minmax_jax.cams.maps import normalize_maps
from minmax_jax.models.heads import ACOL
from minmax_jax.models.network import Taps

_ERASE_ABOVE = 0.6  # of A's map in 0..1, as in the authors' code


class AcolHead(nn.Module):
    """Activations `(b h w k)` to float32 logits: of A and B `(b 2 c)` in training, else `(b c)`.

    The tap "acol" holds features and erased features, one after the other: `(b h w 2k)`. In
    inference the logits are the sum of both classifiers', and so linear in the pooled tap: the
    parameter `kernel (2k c)` has A's kernel above B's, `bias (2 c)` a row for each.

    Attributes:
      num_labels: `c`.
      dropout: fraction of the pooled features dropped in training; A's map sees all of them.
    """

    num_labels: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, tap: Taps, train: bool) -> jax.Array:
        k, c = x.shape[-1], self.num_labels
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (2 * k, c))
        bias = self.param("bias", nn.initializers.zeros, (2, c))
        x = tap(ACOL, jnp.concatenate([x, erase(x, kernel[:k], bias[0])], axis=-1))
        pooled = nn.Dropout(self.dropout)(_pool(x), deterministic=not train)
        logits = jnp.einsum(
            "brk,rkc->brc",
            pooled.reshape(-1, 2, k),
            kernel.reshape(2, k, c),
            precision="highest",
        )
        logits = logits + bias[None]
        return logits if train else logits.sum(axis=1)


def erase(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Features without the pixels that speak most for the most probable class.

    The map of the class is min-max normalised without being rectified, as in the authors' code.
    No gradient flows through the choice of pixels.

    Args:
      x: `(b h w k)`.
      kernel: `(k c)`.
      bias: `(c,)`.

    Returns:
      `(b h w k)`, dtype of `x`, 0 where the normalised map exceeds 0.6.
    """
    features, kernel, bias = jax.lax.stop_gradient((x, kernel, bias))
    logits = jnp.matmul(_pool(features), kernel, precision="highest") + bias[None]
    weights = kernel.T[jnp.argmax(logits, axis=-1)]
    maps = jnp.einsum("bhwk,bk->bhw", features.astype(jnp.float32), weights, precision="highest")
    return jnp.where(normalize_maps(maps)[..., None] > _ERASE_ABOVE, jnp.zeros_like(x), x)


def _pool(x):
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
