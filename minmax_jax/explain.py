"""Activation maps of all or chosen labels of every image, by any method, in one pass.

A method is a score (rows of cotangents over the labels) and a way to make a map. Three families
differ in what the map is made of: the kernel of a linear head, gradients at a tap, or forward
passes over masked images. Methods that are asked for together share one forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax import memory, parallel
from minmax_jax.cams import gradients, masking, scores, weights
from minmax_jax.cams.method import Method
from minmax_jax.models.heads import ACOL
from minmax_jax.models.network import Network, check_images
from minmax_jax.pullback import (
    at_least_float32,
    forward,
    gradient_maps,
    kernel_maps,
    label_maps,
)
from minmax_jax.select import AllLabels, Policy

# What makes probabilities of logits `(b c)`.
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}

METHODS: dict[str, Method] = {
    "cam": Method("kernel", scores.one_label, weights.cam),
    "grad_cam": Method("gradient", scores.one_label, gradients.grad_cam),
    "grad_cam_plus_plus": Method("gradient", scores.one_label, gradients.grad_cam_plus_plus),
    "score_cam": Method("masking", None, weights.cam),
    "minmax_cam": Method("kernel", scores.minmax, weights.cam),
    "d_minmax_cam": Method("kernel", scores.decomposed, weights.d_minmax_cam),
    "minmax_grad_cam": Method("gradient", scores.minmax, gradients.grad_cam),
    "d_minmax_grad_cam": Method("gradient", scores.decomposed, gradients.d_minmax_grad_cam),
    "acol_cam": Method("kernel", scores.one_label, weights.acol_cam),
}


def explain(
    network: Network,
    variables: Any,
    images: jax.Array,
    *,
    method: str | Method = "minmax_cam",
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
      method: a name in `METHODS`, or a `Method`.
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
    method: str | Method | Sequence[str],
    *,
    select: Policy | None = None,
    activation: str = "sigmoid",
    tap: str | Sequence[str] | None = None,
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., tuple[Any, ...]]:
    """Builds the jitted function behind `explain`; the same arguments give the same function.

    Args:
      network, select, activation, mask_chunk, channels, clusters: see `explain`.
      method: a name in `METHODS`, or a `Method`; or several names, which then share one forward
        pass.
      tap: as in `explain`; or several, of which a gradient method needs one pullback a label.
      mesh: devices (`parallel.make_mesh`) over which images and Score-CAM's masked images are
        split. A batch that cannot be split evenly lies whole on every device; its masked images
        are split all the same.

    Returns:
      `(variables, images, present=None, valid=None) -> (maps, logits)`, and the selection with
      `select`, as in `explain`. For several methods `maps` is a dict by name, for several taps one
      by tap, for both `{name: {tap: (b n h w)}}`. `valid (b,)` bool is False for images that only
      fill up a batch: Score-CAM leaves them out, and their maps mean nothing.

    Raises:
      ValueError: as `explain`.
    """
    methods = _methods_by_name(method)
    tap = network.taps[-1] if tap is None else tap
    taps = (tap,) if isinstance(tap, str) else tuple(tap)
    _check_methods(network, methods, taps)
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; valid: {', '.join(ACTIVATIONS)}")
    if mask_chunk is not None and mask_chunk < 1:
        raise ValueError(f"mask_chunk must be at least 1, not {mask_chunk}")
    masking.check_approximation(channels, clusters)
    masked = any(method.family == "masking" for method in methods.values())
    if not masked and (channels is not None or clusters is not None):
        raise ValueError(
            "channels and clusters are for masking methods, and there is none among "
            + ", ".join(methods)
        )
    explain_fn = _explain_fn(
        network,
        tuple(methods.items()),
        select,
        activation,
        taps,
        mask_chunk,
        channels,
        clusters,
        mesh,
    )
    one_method, one_tap = isinstance(method, str | Method), isinstance(tap, str)
    return _simple_fn(
        explain_fn, next(iter(methods)) if one_method else None, tap if one_tap else None
    )


def supported_methods(network: Network) -> tuple[str, ...]:
    """Names of the methods that a network's head allows, in the order of `METHODS`."""
    return tuple(name for name, method in METHODS.items() if not _why_not(network, name, method))


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
def _explain_fn(network, methods, select, activation, taps, mask_chunk, channels, clusters, mesh):
    """The function whose maps are `{name: {tap: (b n h w)}}`."""
    policy = AllLabels() if select is None else select

    def explain_fn(variables, images, present=None, valid=None):
        check_images(images)
        images = parallel.split(mesh, images, or_whole=True)
        activations, logits, pullback = forward(network, variables, images, taps)
        selection = policy(logits)
        if present is not None:
            selection = selection._replace(present=_checked_present(present, logits))

        def make_maps(method):
            if method.family == "gradient":
                return gradient_maps(method, activations, pullback, selection)
            if method.family == "kernel":
                kernel = at_least_float32(network.head_kernel(variables))
                last = taps[-1]
                return {last: kernel_maps(method, activations[last], kernel, selection)}
            return {tap: masking_maps(method, activations[tap]) for tap in taps}

        def masking_maps(method, activations):
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
            return label_maps(method, activations, jnp.moveaxis(channel_weights, -1, 1))

        maps = {name: make_maps(method) for name, method in methods}
        return (maps, logits) if select is None else (maps, logits, selection)

    return jax.jit(explain_fn)


@functools.lru_cache(maxsize=64)
def _simple_fn(explain_fn, name, tap):
    """The same without the dicts of what there is only one of."""

    def simple_fn(variables, images, present=None, valid=None):
        maps, *rest = explain_fn(variables, images, present, valid)
        if tap is not None:
            maps = {name: at_taps[tap] for name, at_taps in maps.items()}
        return (maps if name is None else maps[name]), *rest

    return jax.jit(simple_fn)


def _shape_of_one(images):
    return jax.ShapeDtypeStruct(images.shape[1:], images.dtype)


def _chunk_size(masks, per_device, mesh):
    """Masked images in one forward pass on all devices: as few passes, then as small as can be."""
    devices = 1 if mesh is None else mesh.size
    passes = -(-masks // (per_device * devices))
    return -(-masks // (passes * devices)) * devices


def _checked_present(present, logits):
    if present.shape != logits.shape:
        raise ValueError(f"present has shape {present.shape}, the logits have {logits.shape}")
    return present.astype(bool)


def _methods_by_name(method: str | Method | Sequence[str]) -> dict[str, Method]:
    if isinstance(method, Method):
        return {"the method given": method}
    names = (method,) if isinstance(method, str) else tuple(method)
    _check_names(names)
    return {name: METHODS[name] for name in names}


def _check_methods(network: Network, methods: dict[str, Method], taps: tuple[str, ...]) -> None:
    valid = ", ".join(network.taps)
    if not taps or len(set(taps)) < len(taps):
        raise ValueError(f"taps must be named, each once, not {taps}; taps: {valid}")
    for tap in taps:
        if tap not in network.taps:
            raise ValueError(f"unknown tap {tap!r}; taps: {valid}")
    last = network.taps[-1]
    for name, method in methods.items():
        if why_not := _why_not(network, name, method):
            raise ValueError(why_not)
        if method.family == "kernel" and taps != (last,):
            other = next(tap for tap in taps if tap != last)
            form = name.replace("cam", "grad_cam")
            raise ValueError(
                f"{name} explains the last tap {last!r} only, not {other!r}; use "
                + (form if form in METHODS else "a gradient method")
            )


def _why_not(network: Network, name: str, method: Method) -> str:
    """Why a network does not support a method; "" if it does."""
    if method.family == "kernel" and network.head_kernel is None:
        return (
            f"{name} needs a head that is linear after pooling, and the network has no "
            "head_kernel; use a gradient method"
        )
    if name == "acol_cam" and network.taps[-1] != ACOL:
        return f"acol_cam needs the head {ACOL!r}, and the network has another"
    return ""


def _check_names(names: Sequence[str]) -> None:
    valid = ", ".join(METHODS)
    if not names:
        raise ValueError(f"no method given; methods: {valid}")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; methods: {valid}")
