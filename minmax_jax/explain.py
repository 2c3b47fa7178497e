"""Activation maps of every label of every image, by any method, in one pass.

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

from minmax_jax import parallel
from minmax_jax.cams import gradients, masking, scores, weights
from minmax_jax.models.network import Network, check_images

# Labels whose gradients are held at once: memory does not grow with the number of labels, and
# what a few of them need stays in a CPU's cache.
_LABEL_CHUNK = 4


@dataclasses.dataclass(frozen=True)
class Method:
    """A score and a way to make a map of it.

    Attributes:
      family: "kernel", "gradient" or "masking".
      score: `present (c,)` to cotangents `(c c)`, or `(c 3 c)` for decomposed scores.
      map: activations `(h w k)` and what the cotangents of one label were pulled back to (channel
        weights `(k,)` or gradients `(h w k)`; three of them for decomposed scores) to a raw map
        `(h w)`.
    """

    family: str
    score: Callable[[jax.Array], jax.Array]
    map: Callable[[jax.Array, jax.Array], jax.Array]


METHODS: dict[str, Method] = {
    "cam": Method("kernel", scores.one_label, weights.cam),
    "grad_cam": Method("gradient", scores.one_label, gradients.grad_cam),
    "grad_cam_plus_plus": Method("gradient", scores.one_label, gradients.grad_cam_plus_plus),
    "score_cam": Method("masking", scores.one_label, weights.cam),
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
    present: jax.Array | None = None,
    tap: str | None = None,
    mask_chunk: int = 64,
) -> tuple[jax.Array, jax.Array]:
    """Raw activation maps of all labels of a batch of images.

    Compiled once for each network, method and shape. `normalize_maps` and `resize_maps` turn raw
    maps into masks.

    Args:
      network: one of `create_network`, or `Network(apply=..., taps=..., head_kernel=...)`.
      variables: what `network.apply` takes.
      images: `(b H W 3)` floating point, preprocessed.
      method: a name in `METHODS`.
      present: `(b c)` bool, labels taken to be in each image; by default those detected, with a
        probability above 0.5.
      tap: the activations to explain; by default the last of `network.taps`, which is the only one
        for kernel methods.
      mask_chunk: masked images in one forward pass of Score-CAM.

    Returns:
      Maps `(b c h w)` after ReLU, before normalisation, and logits `(b c)`.

    Raises:
      ValueError: for an unknown method or tap, a method that the network does not support, and
        arrays of another rank, shape or dtype.
    """
    explain_fn = make_explain_fn(network, method, tap=tap, mask_chunk=mask_chunk)
    return explain_fn(variables, images, None if present is None else jnp.asarray(present))


def make_explain_fn(
    network: Network,
    method: str | Sequence[str],
    *,
    tap: str | None = None,
    mask_chunk: int = 64,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., tuple[Any, jax.Array]]:
    """Builds the jitted function behind `explain`; the same arguments give the same function.

    Args:
      network, tap, mask_chunk: see `explain`.
      method: a name in `METHODS`; or several, which then share one forward pass.
      mesh: devices (`parallel.make_mesh`) over which images and Score-CAM's masked images are
        split; batch size and `mask_chunk` must then be multiples of their number.

    Returns:
      `(variables, images, present=None, valid=None) -> (maps, logits)`, as in `explain`; for
      several methods `maps` is a dict by name. `valid (b,)` bool is False for images that only fill
      up a batch: Score-CAM leaves them out, and their maps mean nothing.

    Raises:
      ValueError: as `explain`.
    """
    names = (method,) if isinstance(method, str) else tuple(method)
    tap = network.taps[-1] if tap is None else tap
    _check_methods(network, names, tap)
    if mask_chunk < 1:
        raise ValueError(f"mask_chunk must be at least 1, not {mask_chunk}")
    explain_fn = _explain_fn(network, names, tap, mask_chunk, mesh)
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


@functools.lru_cache(maxsize=64)
def _explain_fn(network, names, tap, mask_chunk, mesh):
    split = functools.partial(parallel.split, mesh)

    def explain_fn(variables, images, present=None, valid=None):
        check_images(images)
        images = split(images)
        activations, logits, pullback = _forward(network, variables, images, tap)
        present = _present_labels(logits, present)

        def make_maps(method):
            if method.family == "gradient":
                return _gradient_maps(method, activations, pullback, present)
            if method.family == "kernel":
                return _kernel_maps(method, activations, network.head_kernel(variables), present)
            channel_weights = masking.score_cam_weights(
                lambda masked: jax.nn.sigmoid(network.apply(variables, masked)[0]),
                images,
                activations,
                valid=valid,
                chunk_size=mask_chunk,
                split=split,
            )
            return _kernel_maps(method, activations, channel_weights, present)

        return {name: make_maps(METHODS[name]) for name in names}, logits

    return jax.jit(explain_fn)


@functools.lru_cache(maxsize=64)
def _single_fn(explain_fn, name):
    def single_fn(variables, images, present=None, valid=None):
        maps, logits = explain_fn(variables, images, present, valid)
        return maps[name], logits

    return jax.jit(single_fn)


def _forward(network, variables, images, tap):
    """Activations at the tap, logits, and the pullback from logits to the tap's gradients.

    Only what lies behind the tap depends on the perturbation, so only that is differentiated.
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
    logits, pullback, activations = jax.vjp(from_tap, perturbation, has_aux=True)
    return activations, logits, lambda cotangent: pullback(cotangent.astype(logits.dtype))[0]


def _kernel_maps(method, activations, kernel, present):
    """Maps `(b c h w)` from a kernel `(k c)`, or one per image `(b k c)`."""
    rows = jax.vmap(method.score)(present)
    if kernel.ndim == 2:
        kernel = jnp.broadcast_to(kernel[None], (len(rows), *kernel.shape))
    channel_weights = jnp.einsum("bkn,b...n->b...k", kernel, rows, precision="highest")
    return jax.vmap(jax.vmap(method.map, in_axes=(None, 0)))(activations, channel_weights)


def _gradient_maps(method, activations, pullback, present):
    """Maps `(b c h w)`, a chunk of labels at a time."""
    rows = jnp.moveaxis(jax.vmap(method.score)(present), 1, 0)
    if rows.ndim == 4:  # (c b 3 c): three gradients a label
        pullback = jax.vmap(pullback, in_axes=1, out_axes=1)

    def label_maps(label_rows):
        return jax.vmap(method.map)(activations, pullback(label_rows))

    maps = jax.lax.map(label_maps, rows, batch_size=min(_LABEL_CHUNK, len(rows)))
    return jnp.moveaxis(maps, 0, 1)


def _present_labels(logits, present):
    if present is None:
        return logits > 0  # sigmoid(0) = 0.5
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
