"""One forward pass, and what is pulled back from its logits to its taps.

The image itself is a tap, too, by the name `IMAGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from minmax_jax import rules
from minmax_jax.models.network import Network
from minmax_jax.rules.loops import for_loops

# Labels whose gradients are held at once: memory does not grow with the number of labels, and
# what a few of them need stays in a CPU's cache.
LABEL_CHUNK = 4
IMAGE = "image"

Activations = Mapping[str, jax.Array]
Pullback = Callable[[jax.Array], Activations]
T = TypeVar("T")


def forward(
    network: Network,
    variables: Any,
    images: jax.Array,
    taps: tuple[str, ...],
    *,
    rule: str = "gradient",
) -> tuple[Activations, jax.Array, Pullback]:
    """Activations at the taps, logits, and the pullback from logits to gradients at all taps.

    Only what lies behind the first tap depends on the perturbations, so only that is
    differentiated. Maps are sums of thousands of terms: what a network computes in fewer bits than
    float32 is widened.

    Args:
      rule: of the backward pass (`rules`); with "biases" the network's biases are taps as well.

    Returns:
      `{tap: (b h w k)}`, logits `(b c)`, and a function of cotangents `(b c)`.

    Raises:
      ValueError: for a tap whose activations `network.apply` does not return.
    """
    shapes = {**jax.eval_shape(network.apply, variables, images)[1], IMAGE: images}
    for tap in taps:
        if tap not in shapes:
            raise ValueError(
                f"network.apply returns no activations {tap!r}; it returns: {', '.join(shapes)}"
            )

    def from_taps(perturbations):
        inner = {tap: value for tap, value in perturbations.items() if tap != IMAGE}
        seen = images + perturbations[IMAGE] if IMAGE in perturbations else images
        logits, activations = network.apply(variables, seen, inner)
        activations = {**activations, IMAGE: seen}
        return logits, {tap: activations[tap] for tap in taps}

    perturbations = {tap: jnp.zeros(shapes[tap].shape, shapes[tap].dtype) for tap in taps}
    if rule == "biases":
        from_taps, perturbations = _with_biases(from_taps, perturbations)
    elif rule != "gradient":
        from_taps = rules.with_rule(from_taps, rule)
    logits, vjp, activations = jax.vjp(from_taps, perturbations, has_aux=True)

    def pullback(cotangents):
        return jax.tree.map(at_least_float32, vjp(cotangents.astype(logits.dtype))[0])

    return jax.tree.map(at_least_float32, activations), at_least_float32(logits), pullback


def _with_biases(from_taps, perturbations):
    """The same with the network's biases among the taps."""
    perturbed, zeros = rules.with_biases(from_taps, perturbations)

    def from_all(perturbations):
        own = {tap: value for tap, value in perturbations.items() if tap not in zeros}
        (logits, activations), biases = perturbed(
            own, {name: perturbations[name] for name in zeros}
        )
        return logits, activations | biases

    return from_all, perturbations | zeros


def at_least_float32(array: jax.Array) -> jax.Array:
    """`array`, widened if it has fewer bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def map_labels(function: Callable[[Any], T], arrays: Any) -> T:
    """`function` of each row of a tree of arrays `(n ...)`, n labels, a chunk of them at a time."""
    if len(jax.tree.leaves(arrays)[0]) <= LABEL_CHUNK:
        return jax.vmap(function)(arrays)
    return jax.lax.map(for_loops(function), arrays, batch_size=LABEL_CHUNK)
