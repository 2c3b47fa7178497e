"""One forward pass, what is pulled back from its logits to its taps, and maps made of that.

Maps are `{tap: (b n h w)}`, float32 or wider. Labels come as a `select.Selection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from minmax_jax.cams.method import Method
from minmax_jax.models.network import Network
from minmax_jax.select import Selection

# Labels whose gradients are held at once: memory does not grow with the number of labels, and
# what a few of them need stays in a CPU's cache.
LABEL_CHUNK = 4

Activations = Mapping[str, jax.Array]
Pullback = Callable[[jax.Array], Activations]
T = TypeVar("T")


def forward(
    network: Network, variables: Any, images: jax.Array, taps: tuple[str, ...]
) -> tuple[Activations, jax.Array, Pullback]:
    """Activations at the taps, logits, and the pullback from logits to gradients at all taps.

    Only what lies behind the first tap depends on the perturbations, so only that is
    differentiated. Maps are sums of thousands of terms: what a network computes in fewer bits than
    float32 is widened.

    Returns:
      `{tap: (b h w k)}`, logits `(b c)`, and a function of cotangents `(b c)`.

    Raises:
      ValueError: for a tap whose activations `network.apply` does not return.
    """
    shapes = jax.eval_shape(network.apply, variables, images)[1]
    for tap in taps:
        if tap not in shapes:
            raise ValueError(
                f"network.apply returns no activations {tap!r}; it returns: {', '.join(shapes)}"
            )

    def from_taps(perturbations):
        logits, activations = network.apply(variables, images, perturbations)
        return logits, {tap: activations[tap] for tap in taps}

    perturbations = {tap: jnp.zeros(shapes[tap].shape, shapes[tap].dtype) for tap in taps}
    logits, vjp, activations = jax.vjp(from_taps, perturbations, has_aux=True)

    def pullback(cotangents):
        return jax.tree.map(at_least_float32, vjp(cotangents.astype(logits.dtype))[0])

    return jax.tree.map(at_least_float32, activations), at_least_float32(logits), pullback


def at_least_float32(array: jax.Array) -> jax.Array:
    """`array`, widened if it has fewer bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def kernel_maps(
    method: Method, activations: jax.Array, kernel: jax.Array, selection: Selection
) -> jax.Array:
    """Maps `(b n h w)` of one tap from a kernel `(k c)`."""
    rows = jax.vmap(method.score)(selection.present, selection.labels)
    channel_weights = jnp.einsum("kc,b...c->b...k", kernel, rows, precision="highest")
    return label_maps(method, activations, channel_weights)


def label_maps(method: Method, activations: jax.Array, channel_weights: jax.Array) -> jax.Array:
    """Maps `(b n h w)` of one tap from weights of its channels `(b n k)`, or `(b n 3 k)`."""
    return jax.vmap(jax.vmap(method.map, in_axes=(None, 0)))(activations, channel_weights)


def gradient_maps(
    method: Method, activations: Activations, pullback: Pullback, selection: Selection
) -> Activations:
    """Maps `{tap: (b n h w)}` of one pullback for each label (or three, for decomposed scores)."""
    rows = jnp.moveaxis(jax.vmap(method.score)(selection.present, selection.labels), 1, 0)
    if rows.ndim == 4:  # (n b 3 c): three gradients a label
        pullback = jax.vmap(pullback, in_axes=1, out_axes=1)

    def maps_of(label_rows):
        return jax.tree.map(jax.vmap(method.map), activations, pullback(label_rows))

    maps = map_labels(maps_of, rows)
    return jax.tree.map(lambda at_tap: jnp.moveaxis(at_tap, 0, 1), maps)


def map_labels(function: Callable[[Any], T], arrays: Any) -> T:
    """`function` of each row of a tree of arrays `(n ...)`, n labels, a chunk of them at a time."""
    if len(jax.tree.leaves(arrays)[0]) <= LABEL_CHUNK:
        # No loop of one round: XLA's CPU backend prepares no convolutions within loops, and runs
        # those of a gradient several times slower there.
        return jax.vmap(function)(arrays)
    return jax.lax.map(function, arrays, batch_size=LABEL_CHUNK)
