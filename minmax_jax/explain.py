"""Activation maps of all or chosen labels of every image, by any method, in one pass.

A method is a score (rows of cotangents over the labels) and a way to make a map. Three families
differ in what the map is made of: the kernel of a linear head, gradients at a tap, or forward
passes over masked images. Methods that are asked for together share one forward pass.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax import memory, parallel
from minmax_jax.cams import gradients, masking, scores, weights
from minmax_jax.models.network import Network, check_images
from minmax_jax.select import AllLabels, Policy

# Labels whose gradients are held at once: memory does not grow with the number of labels, and
# what a few of them need stays in a CPU's cache.
_LABEL_CHUNK = 4

# What makes probabilities of logits `(b c)`.
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}


@dataclasses.dataclass(frozen=True)
class Method:
    """A score and a way to make a map of it.

    Attributes:
      family: "kernel", "gradient" or "masking".
      score: `present (c,)` and `labels (n,)` to cotangents `(n c)`, or `(n 3 c)` for decomposed
        scores; None for masking methods, which weigh channels by the label's own probability.
      map: activations `(h w k)` and what the cotangents of one label were pulled back to (channel
        weights `(k,)` or gradients `(h w k)`; three of them for decomposed scores) to a raw map
        `(h w)`.
    """

    family: str
    score: Callable[[jax.Array, jax.Array], jax.Array] | None
    map: Callable[[jax.Array, jax.Array], jax.Array]


METHODS: dict[str, Method] = {
    "cam": Method("kernel", scores.one_label, weights.cam),
    "grad_cam": Method("gradient", scores.one_label, gradients.grad_cam),
    "grad_cam_plus_plus": Method("gradient", scores.one_label, gradients.grad_cam_plus_plus),
    "score_cam": Method("masking", None, weights.cam),
    "minmax_cam": Method("kernel", scores.minmax, weights.cam),
    "d_minmax_cam": Method("kernel", scores.decomposed, weights.d_minmax_cam),
    "minmax_grad_cam": Method("gradient", scores.minmax, gradients.grad_cam),
    "d_minmax_grad_cam": Method("gradient", scores.decomposed, gradients.d_minmax_grad_cam),
}


def explain(
    network: Network,
    variables: Any,
    images: jax.Array,
    *,
    method: str = "minmax_cam",
    select: Policy | None = None,
    present: jax.Array | None = None,
    activation: str = "sigmoid",
    tap: str | None = None,
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
) -> tuple[Any, ...]:
    """Raw activation maps of the labels of a batch of images.

    Compiled once for each network, method and shape. `normalize_maps` and `resize_maps` turn raw
    maps into masks.

    Args:
      network: one of `create_network`, or `Network(apply=..., taps=..., head_kernel=...)`.
      variables: what `network.apply` takes.
      images: `(b H W 3)` floating point, preprocessed.
      method: a name in `METHODS`.
      select: which labels to explain: `TopLabels`, `DetectedLabels` or `NamedLabels` of
        `minmax_jax.select`, or any hashable function of that form. By default all `n = c`; with a
        choice, time and memory do not grow with `c`.
      present: `(b c)` bool, labels taken to be in each image; by default what `select` says, and
        without it those with a sigmoid above 0.5.
      activation: "sigmoid" or "softmax", what makes the probabilities by which Score-CAM weighs.
      tap: the activations to explain; by default the last of `network.taps`, which is the only one
        for kernel methods.
      mask_chunk: masked images in one forward pass of Score-CAM on each device, at most; by
        default as many as suit the device (`memory.images_at_once`).
      channels: Score-CAM from only so many channels of each image, those with the highest standard
        deviation; by default all, exactly.
      clusters: Score-CAM with one forward pass for each of so many clusters of an image's channels;
        by default one for each channel, exactly. `approximation.approximation_error` tells what
        either costs.

    Returns:
      Maps `(b n h w)` float32 after ReLU, before normalisation, and logits `(b c)`; with `select`
      a `Selection` as well, whose `labels (b n)` are those of the maps.

    Raises:
      ValueError: for an unknown method, activation or tap, a method that the network does not
        support, numbers below 1, `channels` or `clusters` together or without Score-CAM, and arrays
        of another rank, shape or dtype.
    """
    explain_fn = make_explain_fn(
        network,
        method,
        select=select,
        activation=activation,
        tap=tap,
        mask_chunk=mask_chunk,
        channels=channels,
        clusters=clusters,
    )
    return explain_fn(variables, images, None if present is None else jnp.asarray(present))


def make_explain_fn(
    network: Network,
    method: str | Sequence[str],
    *,
    select: Policy | None = None,
    activation: str = "sigmoid",
    tap: str | None = None,
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., tuple[Any, ...]]:
    """Builds the jitted function behind `explain`; the same arguments give the same function.

    Args:
      network, select, activation, tap, mask_chunk, channels, clusters: see `explain`.
      method: a name in `METHODS`; or several, which then share one forward pass.
      mesh: devices (`parallel.make_mesh`) over which images and Score-CAM's masked images are
        split. A batch that cannot be split evenly lies whole on every device; its masked images
        are split all the same.

    Returns:
      `(variables, images, present=None, valid=None) -> (maps, logits)`, and the selection with
      `select`, as in `explain`; for several methods `maps` is a dict by name. `valid (b,)` bool is
      False for images that only fill up a batch: Score-CAM leaves them out, and their maps mean
      nothing.

    Raises:
      ValueError: as `explain`.
    """
    names = (method,) if isinstance(method, str) else tuple(method)
    tap = network.taps[-1] if tap is None else tap
    _check_methods(network, names, tap)
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; valid: {', '.join(ACTIVATIONS)}")
    if mask_chunk is not None and mask_chunk < 1:
        raise ValueError(f"mask_chunk must be at least 1, not {mask_chunk}")
    masking.check_approximation(channels, clusters)
    masked = any(METHODS[name].family == "masking" for name in names)
    if not masked and (channels is not None or clusters is not None):
        raise ValueError(
            "channels and clusters are for masking methods, and there is none among "
            + ", ".join(names)
        )
    explain_fn = _explain_fn(
        network, names, select, activation, tap, mask_chunk, channels, clusters, mesh
    )
    return explain_fn if not isinstance(method, str) else _single_fn(explain_fn, method)


def group_methods(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of methods to be made in one pass each.

    Masking methods stand alone, as their forward passes outnumber everybody else's; the others
    share one pass.

    Raises:
      ValueError: for unknown methods, and if there is none.
    """
    _check_names(methods)
    groups: dict[str, list[str]] = {}
    for name in methods:
        groups.setdefault(name if METHODS[name].family == "masking" else "", []).append(name)
    return [tuple(group) for group in groups.values()]


def make_explain_fns(
    network: Network,
    methods: Sequence[str],
    *,
    channels: int | None = None,
    clusters: int | None = None,
    **options: Any,
) -> dict[tuple[str, ...], Callable[..., tuple[Any, ...]]]:
    """Functions that together make the maps of several methods, by what each makes in one pass.

    Args:
      network, methods: as in `make_explain_fn`.
      channels, clusters: for the masking methods among them, of which there must be one.
      **options: further ones of `make_explain_fn`.

    Raises:
      ValueError: as `make_explain_fn`.
    """
    approximate = {"channels": channels, "clusters": clusters}
    make_explain_fn(network, methods, **approximate, **options)  # raises
    return {
        group: make_explain_fn(
            network,
            group,
            **(approximate if METHODS[group[0]].family == "masking" else {}),
            **options,
        )
        for group in group_methods(methods)
    }


@functools.lru_cache(maxsize=64)
def _explain_fn(network, names, select, activation, tap, mask_chunk, channels, clusters, mesh):
    policy = AllLabels() if select is None else select

    def explain_fn(variables, images, present=None, valid=None):
        check_images(images)
        images = parallel.split(mesh, images, or_whole=True)
        activations, logits, pullback = _forward(network, variables, images, tap)
        selection = policy(logits)
        if present is not None:
            selection = selection._replace(present=_checked_present(present, logits))

        def make_maps(method):
            if method.family == "gradient":
                return _gradient_maps(method, activations, pullback, selection)
            if method.family == "kernel":
                kernel = _at_least_float32(network.head_kernel(variables))
                return _kernel_maps(method, activations, kernel, selection)
            b, *_, k = activations.shape
            per_device = mask_chunk or memory.images_at_once(
                network.apply, variables, _shape_of_one(images), mesh=mesh
            )
            channel_weights = masking.score_cam_weights(
                lambda masked: ACTIVATIONS[activation](network.apply(variables, masked)[0]),
                images,
                activations,
                labels=None if select is None else selection.labels,
                valid=valid,
                channels=channels,
                clusters=clusters,
                chunk_size=_chunk_size(b * min(k, channels or k, clusters or k), per_device, mesh),
                split=functools.partial(parallel.split, mesh),
            )
            return _label_maps(method, activations, jnp.moveaxis(channel_weights, -1, 1))

        maps = {name: make_maps(METHODS[name]) for name in names}
        return (maps, logits) if select is None else (maps, logits, selection)

    return jax.jit(explain_fn)


@functools.lru_cache(maxsize=64)
def _single_fn(explain_fn, name):
    def single_fn(variables, images, present=None, valid=None):
        maps, *rest = explain_fn(variables, images, present, valid)
        return maps[name], *rest

    return jax.jit(single_fn)


def _shape_of_one(images):
    return jax.ShapeDtypeStruct(images.shape[1:], images.dtype)


def _chunk_size(masks, per_device, mesh):
    """Masked images in one forward pass on all devices: as few passes, then as small as can be."""
    devices = 1 if mesh is None else mesh.size
    passes = -(-masks // (per_device * devices))
    return -(-masks // (passes * devices)) * devices


def _forward(network, variables, images, tap):
    """Activations at the tap, logits, and the pullback from logits to the tap's gradients.

    Only what lies behind the tap depends on the perturbation, so only that is differentiated. Maps
    are sums of thousands of terms: what a network computes in fewer bits than float32 is widened.
    """
    shapes = jax.eval_shape(network.apply, variables, images)[1]
    if tap not in shapes:
        raise ValueError(
            f"network.apply returns no activations {tap!r}; it returns: {', '.join(shapes)}"
        )

    def from_tap(perturbation):
        logits, activations = network.apply(variables, images, {tap: perturbation})
        return logits, activations[tap]

    perturbation = jnp.zeros(shapes[tap].shape, shapes[tap].dtype)
    logits, vjp, activations = jax.vjp(from_tap, perturbation, has_aux=True)

    def pullback(cotangent):
        return _at_least_float32(vjp(cotangent.astype(logits.dtype))[0])

    return _at_least_float32(activations), _at_least_float32(logits), pullback


def _at_least_float32(array):
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _kernel_maps(method, activations, kernel, selection):
    """Maps `(b n h w)` from a kernel `(k c)`."""
    rows = jax.vmap(method.score)(selection.present, selection.labels)
    channel_weights = jnp.einsum("kc,b...c->b...k", kernel, rows, precision="highest")
    return _label_maps(method, activations, channel_weights)


def _label_maps(method, activations, channel_weights):
    """Maps `(b n h w)` from weights of the channels `(b n k)`, or `(b n 3 k)`."""
    return jax.vmap(jax.vmap(method.map, in_axes=(None, 0)))(activations, channel_weights)


def _gradient_maps(method, activations, pullback, selection):
    """Maps `(b n h w)`, a chunk of labels at a time."""
    rows = jnp.moveaxis(jax.vmap(method.score)(selection.present, selection.labels), 1, 0)
    if rows.ndim == 4:  # (n b 3 c): three gradients a label
        pullback = jax.vmap(pullback, in_axes=1, out_axes=1)

    def label_maps(label_rows):
        return jax.vmap(method.map)(activations, pullback(label_rows))

    maps = jax.lax.map(label_maps, rows, batch_size=min(_LABEL_CHUNK, len(rows)))
    return jnp.moveaxis(maps, 0, 1)


def _checked_present(present, logits):
    if present.shape != logits.shape:
        raise ValueError(f"present has shape {present.shape}, the logits have {logits.shape}")
    return present.astype(bool)


def _check_methods(network: Network, names: tuple[str, ...], tap: str) -> None:
    _check_names(names)
    if tap not in network.taps:
        raise ValueError(f"unknown tap {tap!r}; taps: {', '.join(network.taps)}")
    for name in names:
        if METHODS[name].family != "kernel":
            continue
        if network.head_kernel is None:
            raise ValueError(
                f"{name} needs a head that is linear after pooling, and the network has no "
                "head_kernel; use a gradient method"
            )
        if tap != network.taps[-1]:
            raise ValueError(f"{name} explains the last tap {network.taps[-1]!r} only, not {tap!r}")


def _check_names(names: Sequence[str]) -> None:
    valid = ", ".join(METHODS)
    if not names:
        raise ValueError(f"no method given; methods: {valid}")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; methods: {valid}")
