"""Activation maps of all or chosen labels of every image, by any method, in one pass.

A method is a score (rows of cotangents over the labels) and a way to make a map, of what its family
says (`cams.method`). Methods that are asked for together share one forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import parallel
from minmax_jax.cams import masking
from minmax_jax.cams.method import Method
from minmax_jax.families import MAKERS, Request, needed_taps
from minmax_jax.methods import METHODS, check_methods, check_names, group_methods
from minmax_jax.models.network import Network, check_images
from minmax_jax.pullback import IMAGE, forward
from minmax_jax.select import AllLabels, Policy, Selection

# What makes probabilities of logits `(b c)`.
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}


def explain(
    network: Network,
    variables: Any,
    images: jax.Array,
    *,
    method: str | Method = "minmax_cam",
    select: Policy | None = None,
    present: jax.Array | None = None,
    labels: jax.Array | None = None,
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
      labels: `(b n)` int, the labels to explain of each image, in place of `select`.
      tap: the activations to explain; by default the last of `network.taps`, which is the only one
        for kernel methods. Saliency methods explain the image itself, whatever the tap.
      mask_chunk: masked images in one forward pass of Score-CAM on each device, at most; by
        default as many as suit the device (`memory.images_at_once`).
      channels: Score-CAM from only so many channels of each image, those with the highest standard
        deviation; by default all, exactly.
      clusters: Score-CAM with one forward pass for each of so many clusters of an image's channels;
        by default one for each channel, exactly. `approximation.approximation_error` tells what
        either costs.

    Returns:
      Maps `(b n h w)` float32 after ReLU, before normalisation, and logits `(b c)`; with `select`
      a `Selection` as well, whose `labels (b n)` are those of the maps. Maps of saliency methods
      have the size of the images.

    Raises:
      ValueError: for an unknown method, activation or tap, a method that the network does not
        support, numbers below 1, `channels` or `clusters` together or without Score-CAM, `select`
        and `labels` together, arrays of another rank, shape or dtype, and (but for arrays that are
        traced) labels that the network does not have and `present` that is more than 0 and 1.
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
    explained = explain_fn(
        variables,
        images,
        None if present is None else jnp.asarray(present),
        labels=None if labels is None else jnp.asarray(labels),
    )
    # Numbers can be seen only of arrays that are not traced.
    if labels is not None and not isinstance(labels, jax.core.Tracer):
        _check_range(np.asarray(labels), explained[1].shape[1])
    if present is not None and not isinstance(present, jax.core.Tracer):
        _check_flags(np.asarray(present))
    return explained


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
      `(variables, images, present=None, valid=None, labels=None) -> (maps, logits)`, and the
      selection with `select`, as in `explain`. For several methods `maps` is a dict by name, for
      several taps one by tap, for both `{name: {tap: (b n h w)}}`, where saliency methods have the
      one tap "image". `valid (b,)` bool is False for images that only fill up a batch: methods of
      many passes leave them out, and their maps mean nothing.

    Raises:
      ValueError: as `explain`.
    """
    methods = _methods_by_name(method)
    tap = network.taps[-1] if tap is None else tap
    taps = (tap,) if isinstance(tap, str) else tuple(tap)
    check_methods(network, methods, taps)
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
    needed = needed_taps([method for _, method in methods], taps)

    def explain_fn(variables, images, present=None, valid=None, labels=None):
        check_images(images)
        images = parallel.split(mesh, images, or_whole=True)

        @functools.cache
        def passes(rule):
            return forward(network, variables, images, needed[rule], rule=rule)

        _, logits, _ = passes("gradient")
        selection = policy(logits)
        if labels is not None:
            if select is not None:
                raise ValueError("give select or labels, not both")
            selection = _given(labels, logits)
        if present is not None:
            selection = selection._replace(present=_checked_present(present, logits))
        request = Request(
            network=network,
            variables=variables,
            images=images,
            taps=taps,
            passes=passes,
            selection=selection,
            all_labels=select is None and labels is None,
            probabilities=ACTIVATIONS[activation],
            valid=valid,
            mask_chunk=mask_chunk,
            channels=channels,
            clusters=clusters,
            mesh=mesh,
        )
        maps = {name: MAKERS[method.family](request, method) for name, method in methods}
        return (maps, logits) if select is None else (maps, logits, selection)

    return jax.jit(explain_fn)


@functools.lru_cache(maxsize=64)
def _simple_fn(explain_fn, name, tap):
    """The same without the dicts of what there is only one of."""

    def simple_fn(variables, images, present=None, valid=None, labels=None):
        maps, *rest = explain_fn(variables, images, present, valid, labels)
        if tap is not None:
            maps = {name: at_taps.get(tap, at_taps.get(IMAGE)) for name, at_taps in maps.items()}
        return (maps if name is None else maps[name]), *rest

    return jax.jit(simple_fn)


def _given(labels, logits):
    """The selection of labels that were given, `(b n)`."""
    if labels.ndim != 2 or len(labels) != len(logits):
        raise ValueError(f"labels have shape {labels.shape}, needed is ({len(logits)}, n)")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    return Selection(labels, jnp.ones(labels.shape, bool), logits > 0)


def _check_range(labels, number):
    outside = labels[(labels < 0) | (labels >= number)]
    if outside.size:
        raise ValueError(f"labels must lie in 0 to {number - 1}; there is {outside[0]}")


def _check_flags(present):
    other = present[(present != 0) & (present != 1)]
    if other.size:
        raise ValueError(f"present must be true or false for each label; there is {other[0]}")


def _checked_present(present, logits):
    if present.shape != logits.shape:
        raise ValueError(f"present has shape {present.shape}, the logits have {logits.shape}")
    return present.astype(bool)


def _methods_by_name(method: str | Method | Sequence[str]) -> dict[str, Method]:
    if isinstance(method, Method):
        return {"the method given": method}
    names = (method,) if isinstance(method, str) else tuple(method)
    check_names(names)
    return {name: METHODS[name] for name in names}
