"""Heads: global average pooling, dropout in training, a linear layer `(k c)` on float32.

`dense` is the plain linear layer; `kur` has its kernel regularised by kernel usage (Eq. 15). The
third, `acol`, is two plain ones, in `models.acol`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


def _plain(kernel: jax.Array, alpha: float) -> jax.Array:
    del alpha
    return kernel


def _kernel_usage(kernel: jax.Array, alpha: float) -> jax.Array:
    return alpha * kernel * jax.nn.softmax(kernel, axis=1)


ACOL = "acol"  # the head's name and that of its tap
_EFFECTIVE_KERNELS = {"dense": _plain, "kur": _kernel_usage, "acol": _plain}
HEADS = tuple(_EFFECTIVE_KERNELS)


def check_head(head: str) -> None:
    """Raises `ValueError`, naming the valid ones, unless `head` is a head's name."""
    if head not in _EFFECTIVE_KERNELS:
        raise ValueError(f"unknown head {head!r}; heads are {list(HEADS)}.")


def effective_kernel(kernel: jax.Array, *, head: str, alpha: float) -> jax.Array:
    """The kernel that multiplies the pooled features.

    `dense` and `acol`: `W`. `kur`: `alpha * W * softmax(W)`, the softmax over the labels for each
    of the `k` features (Eq. 15, where alpha is 1).

    Args:
      kernel: `(k c)`, the parameter `W`.
      head: one of `HEADS`.
      alpha: factor of the regularised kernel; the other heads do not use it.

    Returns:
      `(k c)`, dtype of `kernel`.

    Raises:
      ValueError: unknown head, or a kernel that is not of rank 2.
    """
    check_head(head)
    if kernel.ndim != 2:
        raise ValueError(f"a head's kernel must have shape (k c), got {kernel.shape}.")
    return _EFFECTIVE_KERNELS[head](kernel, alpha)


class Head(nn.Module):
    """Activations `(b h w k)` to float32 logits `(b c)`.

    Attributes:
      num_labels: `c`.
      head: "dense" or "kur".
      alpha: see `effective_kernel`.
      dropout: fraction of the pooled features dropped in training.
    """

    num_labels: int
    head: str
    alpha: float
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        pooled = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.num_labels)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_labels,))
        kernel = effective_kernel(kernel, head=self.head, alpha=self.alpha)
        # The head is small and the maps are made of its kernel: no reduced precision here.
        return jnp.matmul(pooled, kernel, precision="highest") + bias[None]


class HeadAlone(Head):
    """A network's head without the network; random numbers are the same as within it."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return Head(self.num_labels, self.head, self.alpha, self.dropout, name="head")(
            x, train=train
        )
