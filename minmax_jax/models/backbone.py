"""What all networks have in common: convolutional features, taps, a head; and the styles.

Frameworks build the same architecture with small differences, and weights work only in the
arithmetic that they were trained in. A `Style` holds these differences.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax

from minmax_jax.models.acol import AcolHead
from minmax_jax.models.heads import ACOL, Head
from minmax_jax.models.layers import batch_norm
from minmax_jax.models.network import Taps
from minmax_jax.models.preprocess import Normalize


@dataclasses.dataclass(frozen=True)
class Style:
    """How a framework computes an architecture.

    Attributes:
      preprocess: what its weights want to be fed.
      padding: of strided convolutions, "SAME" or "symmetric"; see `windows.convolve`.
      epsilon: added to the variance in batch normalisation.
      momentum: of the stored statistics, `new = momentum * old + (1 - momentum) * batch`.
      options: fields of the network's module in which this style differs, as (name, value).
    """

    preprocess: Normalize
    padding: str = "symmetric"
    epsilon: float = 1e-5
    momentum: float = 0.9
    options: tuple[tuple[str, object], ...] = ()


class Backbone(nn.Module):
    """Base of the networks.

    A subclass has the class attribute `taps` and the method `features(x, *, tap, norm, train)`,
    which makes of images `(b H W 3)` the activations of the last tap: `x = tap(name, x)` at each of
    the taps, `x = norm(x, name=layer)` normalises a batch, `train` says whether random layers work.

    Attributes:
      num_labels, head, alpha, dropout, alpha_end, alpha_steps: see `heads.Head` and, for the head
        "acol", `acol.AcolHead`.
      style: paddings and batch normalisation.
      dtype: of the computation up to the head, "float32" or "bfloat16"; parameters, statistics and
        logits are float32.
      attention: at the end of residual branches, "none" or "cbam"; only some networks read it.
    """

    num_labels: int
    style: Style
    head: str = "dense"
    alpha: float = 1.0
    dropout: float = 0.0
    dtype: str = "float32"
    attention: str = "none"
    alpha_end: float = 1.0
    alpha_steps: int = 1

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        perturbations: Mapping[str, jax.Array] | None,
        *,
        train: bool,
        frozen: frozenset[str],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        tap = Taps(perturbations)
        norm = functools.partial(
            batch_norm,
            train=train,
            frozen=frozen,
            epsilon=self.style.epsilon,
            momentum=self.style.momentum,
        )
        x = self.features(images.astype(self.dtype), tap=tap, norm=norm, train=train)
        if self.head == ACOL:
            logits = AcolHead(self.num_labels, self.dropout, name="head")(x, tap=tap, train=train)
        else:
            head = Head(
                self.num_labels,
                self.head,
                self.alpha,
                self.dropout,
                self.alpha_end,
                self.alpha_steps,
                name="head",
            )
            logits = head(x, train=train)
        return logits, tap.activations
