"""How the maps of each family of methods are made: one function a family.

Each takes a `Request` and a method to maps `{tap: (b n h w)}`, float32 or wider.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax import memory, parallel
from minmax_jax.cams import ablation, masking
from minmax_jax.cams.method import Method
from minmax_jax.models.network import Network
from minmax_jax.pullback import (
    IMAGE,
    Activations,
    Pullback,
    at_least_float32,
    forward,
    map_labels,
)
from minmax_jax.rules.loops import for_loops
from minmax_jax.select import Selection


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What methods that are asked for together share.

    Attributes:
      network, variables, images: as in `explain`.
      taps: where maps are made, but for those of saliency.
      passes: what `pullback.forward` gives by a rule, of the images.
      selection: the labels to explain.
      all_labels: whether these are all labels in their order.
      probabilities: of logits `(m c)`.
      valid, mask_chunk, channels, clusters, mesh: as in `make_explain_fn`.
    """

    network: Network
    variables: Any
    images: jax.Array
    taps: tuple[str, ...]
    passes: Callable[[str], tuple[Activations, jax.Array, Pullback]]
    selection: Selection
    all_labels: bool
    probabilities: Callable[[jax.Array], jax.Array]
    valid: jax.Array | None
    mask_chunk: int | None
    channels: int | None
    clusters: int | None
    mesh: jax.sharding.Mesh | None

    @property
    def activations(self) -> Activations:
        return self.passes("gradient")[0]

    def rows(self, method: Method) -> jax.Array:
        """Cotangents of all labels, `(b n c)`; of decomposed scores `(b n 3 c)`."""
        return jax.vmap(method.score)(self.selection.present, self.selection.labels)

    def kernel_weights(self, method: Method) -> jax.Array:
        """Weights of the last tap's channels, `(b n k)` or `(b n 3 k)`."""
        kernel = at_least_float32(self.network.head_kernel(self.variables))
        return jnp.einsum("kc,b...c->b...k", kernel, self.rows(method), precision="highest")

    def loop_options(self, masks: int) -> dict[str, Any]:
        """What loops over changed images, at most `masks` of them, are told."""
        image = jax.ShapeDtypeStruct(self.images.shape[1:], self.images.dtype)
        per_device = self.mask_chunk or memory.images_at_once(
            self.network.apply, self.variables, image, mesh=self.mesh
        )
        return {
            "valid": self.valid,
            "chunk_size": _chunk_size(masks, per_device, self.mesh),
            "split": functools.partial(parallel.split, self.mesh),
        }


def kernel_maps(request: Request, method: Method) -> Activations:
    """Of the last tap, from the head's kernel."""
    last = request.network.taps[-1]
    return {last: _of_channels(method, request.activations[last], request.kernel_weights(method))}


def gradient_maps(request: Request, method: Method) -> Activations:
    """One pullback for each label, or three for decomposed scores, to all taps."""
    activations, _, pullback = request.passes(method.rule)

    def maps_of(gradients):
        return {tap: jax.vmap(method.map)(activations[tap], gradients[tap]) for tap in request.taps}

    return _pulled_back(request, method, pullback, maps_of)


def activation_maps(request: Request, method: Method) -> Activations:
    """The same map for every label."""
    shape = request.selection.labels.shape

    def at_tap(activations):
        maps = jax.vmap(method.map)(activations)[:, None]
        return jnp.broadcast_to(maps, (*shape, *maps.shape[2:]))

    return {tap: at_tap(request.activations[tap]) for tap in request.taps}


def masking_maps(request: Request, method: Method) -> Activations:
    """One forward pass for each channel of each image, for all labels together."""
    seen_as = method.seen_as or request.probabilities
    own = method.score is None
    forwarded = request.channels or request.clusters

    def at_tap(activations):
        b, *_, k = activations.shape
        weights = masking.score_cam_weights(
            lambda masked: seen_as(request.network.apply(request.variables, masked)[0]),
            request.images,
            activations,
            labels=request.selection.labels if own and not request.all_labels else None,
            channels=request.channels,
            clusters=request.clusters,
            skipped_weight=-jnp.inf,
            **request.loop_options(b * min(k, forwarded or k)),
        )
        # Channels that are not forwarded have no score: they become 0, whatever a map makes of it.
        scored = (weights != -jnp.inf).any(axis=-1)
        weights = jnp.moveaxis(jnp.where(scored[..., None], weights, 0), -1, 1)
        activations = jnp.where(scored[:, None, None], activations, 0)
        if not own:
            rows = request.rows(method)
            weights = jnp.einsum("b...c,bck->b...k", rows, weights, precision="highest")
        return _of_channels(method, activations, weights)

    return {tap: at_tap(request.activations[tap]) for tap in request.taps}


def ablation_maps(request: Request, method: Method) -> Activations:
    """One forward pass for each channel of each image; none where the head is linear."""
    _, logits, _ = request.passes("gradient")

    def at_tap(tap, activations):
        if request.network.head_kernel is not None and tap == request.network.taps[-1]:
            weights = ablation.linear_ablation_weights(activations, request.kernel_weights(method))
        else:
            b, *_, k = activations.shape
            # In the network's own precision, as the logits with all channels are.
            own = jax.eval_shape(request.network.apply, request.variables, request.images)[1][tap]
            weights = ablation.ablation_weights(
                lambda images, change: request.network.apply(
                    request.variables, images, {tap: change.astype(own.dtype)}
                )[0],
                request.images,
                activations,
                logits,
                request.rows(method),
                **request.loop_options(b * k),
            )
        return _of_channels(method, activations, weights)

    return {tap: at_tap(tap, request.activations[tap]) for tap in request.taps}


def saliency_maps(request: Request, method: Method) -> Activations:
    """Of the image itself, whatever the taps."""
    if method.inputs is not None:
        gradients = _mean_gradients(request, method)
        maps = jax.vmap(jax.vmap(method.map), in_axes=(None, 0))(request.images, gradients)
        return _as_differentiable(method, {IMAGE: jnp.moveaxis(maps, 0, 1)})
    values, _, pullback = request.passes(method.rule)

    def maps_of(gradients):
        if method.rule == "biases":
            return {IMAGE: jax.vmap(method.map)(values, gradients)}
        return {IMAGE: jax.vmap(method.map)(values[IMAGE], gradients[IMAGE])}

    return _pulled_back(request, method, pullback, maps_of)


MAKERS: dict[str, Callable[[Request, Method], Activations]] = {
    "kernel": kernel_maps,
    "gradient": gradient_maps,
    "activation": activation_maps,
    "masking": masking_maps,
    "ablation": ablation_maps,
    "saliency": saliency_maps,
}


def needed_taps(methods: list[Method], taps: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For each rule the taps from which or to which its pass is asked for something."""
    needed = {"gradient": taps if any(m.family != "saliency" for m in methods) else ()}
    for method in methods:
        if method.family in ("gradient", "saliency") and method.inputs is None:
            own = (IMAGE,) if method.family == "saliency" else taps
            needed[method.rule] = tuple(dict.fromkeys((*needed.get(method.rule, ()), *own)))
    return needed


def _of_channels(method, activations, channel_weights):
    """Maps `(b n h w)` of one tap from weights of its channels `(b n k)`, or `(b n 3 k)`."""
    return jax.vmap(jax.vmap(method.map, in_axes=(None, 0)))(activations, channel_weights)


def _pulled_back(request, method, pullback, maps_of):
    """Maps `{tap: (b n h w)}` that `maps_of` makes of the gradients of one label after another."""
    rows = jnp.moveaxis(request.rows(method), 1, 0)
    pullback = _of_rows(pullback, rows)
    maps = map_labels(lambda label_rows: maps_of(pullback(label_rows)), rows)
    maps = jax.tree.map(lambda at_tap: jnp.moveaxis(at_tap, 0, 1), maps)
    return _as_differentiable(method, maps)


def _mean_gradients(request, method):
    """Gradients at the images `(n b H W 3)`, averaged over `method.inputs`."""
    rows = jnp.moveaxis(request.rows(method), 1, 0)

    def add(total, index):
        points = jax.vmap(method.inputs.at, in_axes=(0, None))(request.images, index)
        _, _, pullback = forward(
            request.network, request.variables, points, (IMAGE,), rule=method.rule
        )
        pullback = _of_rows(pullback, rows)
        return total + map_labels(lambda label_rows: pullback(label_rows)[IMAGE], rows), None

    shape = (*rows.shape[:-1], *request.images.shape[1:])
    zeros = at_least_float32(jnp.zeros(shape, request.images.dtype))
    total, _ = jax.lax.scan(for_loops(add), zeros, jnp.arange(method.inputs.number))
    return total / method.inputs.number


def _as_differentiable(method, maps):
    """The same maps; without a derivative if what they are made of are no gradients."""
    return jax.tree.map(_constant, maps) if method.rule in ("guided", "relevance") else maps


@jax.custom_jvp
def _constant(maps):
    """The same; an error where somebody asks for its derivative."""
    return maps


@_constant.defjvp
def _no_derivative(primals, tangents):
    raise ValueError(
        "maps by the rules guided and relevance have no derivative: these rules are no gradients, "
        "so what they give cannot be differentiated in a loss; use another method"
    )


def _of_rows(pullback, rows):
    """A pullback of the rows of one label: three gradients for decomposed scores, `(n b 3 c)`."""
    return jax.vmap(pullback, in_axes=1, out_axes=1) if rows.ndim == 4 else pullback


def _chunk_size(masks, per_device, mesh):
    """Masked images in one forward pass on all devices: as few passes, then as small as can be."""
    devices = 1 if mesh is None else mesh.size
    passes = -(-masks // (per_device * devices))
    return -(-masks // (passes * devices)) * devices
