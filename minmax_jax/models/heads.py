"""Heads: global average pooling, dropout in training, a linear layer `(k c)` on float32.

`dense` is the plain linear layer. Three have their kernel regularised by kernel usage (Eq. 15) and
differ in its factor alpha: `kur` keeps the one that it is given, `kur_learned` trains it as a
parameter, and in `kur_scheduled` it goes linearly to another over so many training steps. The
last, `acol`, is two plain ones, in `models.acol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def kernel_usage(kernel: jax.Array, alpha: float | jax.Array) -> jax.Array:
    """`alpha * W * softmax(W)`, the softmax over the outputs, which are the last axis (Eq. 15)."""
    return alpha * kernel * jax.nn.softmax(kernel, axis=-1)


def _plain(kernel: jax.Array, alpha: float | jax.Array) -> jax.Array:
    del alpha
    return kernel


ACOL = "acol"  # the head's name and that of its tap
LEARNED, SCHEDULED = "kur_learned", "kur_scheduled"
_EFFECTIVE_KERNELS = {
    "dense": _plain,
    "kur": kernel_usage,
    LEARNED: kernel_usage,
    SCHEDULED: kernel_usage,
    ACOL: _plain,
}
ALPHA_ARRAYS = ("alpha", "steps")  # that heads have beside kernel and bias
HEADS = tuple(_EFFECTIVE_KERNELS)


def check_head(head: str) -> None:
    """Raises `ValueError`, naming the valid ones, unless `head` is a head's name."""
    if head not in _EFFECTIVE_KERNELS:
        raise ValueError(f"unknown head {head!r}; heads are {list(HEADS)}.")


def effective_kernel(kernel: jax.Array, *, head: str, alpha: float | jax.Array) -> jax.Array:
    """The kernel that multiplies the pooled features.

    `dense` and `acol`: `W`. The others: `alpha * W * softmax(W)`, the softmax over the labels for
    each of the `k` features (Eq. 15, where alpha is 1).

    Args:
      kernel: `(k c)`, the parameter `W`.
      head: one of `HEADS`.
      alpha: factor of the regularised kernel, as `current_alpha` gives it; the plain heads do not
        use it.

    Returns:
      `(k c)`, dtype of `kernel`.

    Raises:
      ValueError: unknown head, or a kernel that is not of rank 2.
    """
    check_head(head)
    if kernel.ndim != 2:
        raise ValueError(f"a head's kernel must have shape (k c), got {kernel.shape}.")
    return _EFFECTIVE_KERNELS[head](kernel, alpha)


def current_alpha(fields: Any, arrays: Mapping[str, jax.Array]) -> float | jax.Array:
    """The factor of a regularised kernel at the point that training has reached.

    `kur_learned`: the parameter `alpha ()`. `kur_scheduled`: after `steps ()` steps of training,
    `alpha + min(steps / alpha_steps, 1) * (alpha_end - alpha)`. Else `alpha` itself.

    Args:
      fields: a `Head`, or whatever has its fields; those of the schedule are read where there is
        one.
      arrays: the head's parameters and statistics by name.
    """
    if fields.head == LEARNED:
        return arrays["alpha"]
    if fields.head == SCHEDULED:
        share = jnp.minimum(arrays["steps"] / fields.alpha_steps, 1)
        return fields.alpha + share * (fields.alpha_end - fields.alpha)
    return fields.alpha


class Head(nn.Module):
    """Activations `(b h w k)` to float32 logits `(b c)`.

    Parameters `kernel (k c)` and `bias (c,)`. "kur_learned" has the parameter `alpha ()` besides;
    "kur_scheduled" the statistic `steps ()` int32, which every pass in training counts up.

    Attributes:
      num_labels: `c`.
      head: one of `HEADS` other than "acol".
      alpha: factor of the regularised kernel; that of the start, if it is trained or scheduled.
      dropout: fraction of the pooled features dropped in training.
      alpha_end, alpha_steps: where "kur_scheduled" takes alpha, and after how many steps.
    """

    num_labels: int
    head: str
    alpha: float
    dropout: float
    alpha_end: float = 1.0
    alpha_steps: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        pooled = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.num_labels)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_labels,))
        alpha = current_alpha(self, self._arrays_of_alpha(train))
        kernel = effective_kernel(kernel, head=self.head, alpha=alpha)
        # The head is small and the maps are made of its kernel: no reduced precision here.
        return jnp.matmul(pooled, kernel, precision="highest") + bias[None]

    def _arrays_of_alpha(self, train: bool) -> dict[str, jax.Array]:
        if self.head == LEARNED:
            return {"alpha": self.param("alpha", nn.initializers.constant(self.alpha), ())}
        if self.head == SCHEDULED:
            steps = self.variable("batch_stats", "steps", jnp.zeros, (), jnp.int32)
            before = steps.value
            if train and not self.is_initializing():
                steps.value = before + 1
            return {"steps": before}
        return {}


class HeadAlone(Head):
    """A network's head without the network; random numbers are the same as within it."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return Head(self.num_labels, self.head, self.alpha, self.dropout, name="head")(
            x, train=train
        )
