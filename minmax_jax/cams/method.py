"""What a method is made of: a score and a map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from .saliency import Inputs

FAMILIES = ("kernel", "gradient", "activation", "masking", "ablation", "saliency")


@dataclasses.dataclass(frozen=True)
class Method:
    """A score and a way to make a map of it; `METHODS` has those with a name.

    Any other target is a score of your own. Grad-CAM of what tells label 3 from label 7:

        def difference(present, labels):
            own = scores.one_label(present, labels)
            return own - scores.one_label(present, jnp.full_like(labels, 7))

        target = Method("gradient", difference, gradients.grad_cam)
        maps, *_ = explain(..., method=target, select=NamedLabels((3,)))

    What a map is made of depends on the family:

        kernel      activations `(h w k)`, weights `(k,)`: the head's kernel times the score's row
        gradient    activations `(h w k)`, gradients `(h w k)` of the score
        activation  activations `(h w k)` alone: the same map for every label
        masking     activations `(h w k)`, weights `(k,)`: the label's score of the image seen
                    through each channel; both 0 for channels that are flat or not looked through
        ablation    activations `(h w k)`, weights `(k,)`: what the score loses without a channel
        saliency    the image `(H W 3)` and gradients `(H W 3)` of the score

    Decomposed scores give three weights or gradients, `(3 ...)`.

    Attributes:
      family: see above. Maps are raw, `(h w)`; those of saliency have the size of the image.
      score: `present (c,)` and `labels (n,)` to cotangents `(n c)`, or `(n 3 c)` for decomposed
        scores. Masking may have none: the label's own, which needs no other labels' weights. None
        for activations.
      map: see above.
      rule: of the backward pass (`rules.RULES`): "gradient", "guided" or "relevance"; or "biases",
        by which a saliency map is made of two dicts, of the image and all biases of the network
        (`rules.with_biases`) and of the gradients there.
      inputs: of saliency, the points over which gradients are averaged; by default the image alone.
      seen_as: of masking, what logits `(m c)` of masked images become before they are scored; by
        default probabilities.

    Raises:
      ValueError: for another family, a score that is missing or too much, and a rule or inputs that
        the family does not take.
    """

    family: str
    score: Callable[..., jax.Array] | None
    map: Callable[..., jax.Array]
    rule: str = "gradient"
    inputs: Inputs | None = None
    seen_as: Callable[[jax.Array], jax.Array] | None = None

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; families: {', '.join(FAMILIES)}")
        if self.family != "masking" and (self.score is None) != (self.family == "activation"):
            needs = "takes no score" if self.score else "needs a score"
            raise ValueError(f"a method of the family {self.family} {needs}")
        if self.seen_as is not None and self.family != "masking":
            raise ValueError(f"seen_as is for masking, not for the family {self.family}")
        if self.inputs is not None and self.family != "saliency":
            raise ValueError(f"inputs are for saliency, not for the family {self.family}")
        if self.rule == "biases" and (self.family != "saliency" or self.inputs is not None):
            raise ValueError("the rule biases is for saliency of the image alone, without inputs")
