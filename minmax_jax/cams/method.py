"""What a method is made of: a score and a map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class Method:
    """A score and a way to make a map of it; `METHODS` has those with a name.

    Any other target is a score of your own. Grad-CAM of what tells label 3 from label 7:

        def difference(present, labels):
            own = scores.one_label(present, labels)
            return own - scores.one_label(present, jnp.full_like(labels, 7))

        target = Method("gradient", difference, gradients.grad_cam)
        maps, *_ = explain(..., method=target, select=NamedLabels((3,)))

    Attributes:
      family: "kernel", "gradient" or "masking".
      score: `present (c,)` and `labels (n,)` to cotangents `(n c)`, or `(n 3 c)` for decomposed
        scores; None for masking methods, which weigh channels by the label's own probability.
      map: activations `(h w k)` and what the cotangents of one label were pulled back to (channel
        weights `(k,)` or gradients `(h w k)`; three of them for decomposed scores) to a raw map
        `(h w)`.

    Raises:
      ValueError: for another family, or a score that is missing or too much.
    """

    family: str
    score: Callable[[jax.Array, jax.Array], jax.Array] | None
    map: Callable[[jax.Array, jax.Array], jax.Array]

    def __post_init__(self):
        if self.family not in ("kernel", "gradient", "masking"):
            raise ValueError(f"unknown family {self.family!r}; families: kernel, gradient, masking")
        if (self.score is None) != (self.family == "masking"):
            needs = "takes no score" if self.score else "needs a score"
            raise ValueError(f"a method of the family {self.family} {needs}")
