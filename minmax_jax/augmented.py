"""Test-time augmentation: the mean of the maps of an image seen at several sizes and mirrored.

A network finds small objects in a large view and large ones in a small view, and its maps of a
larger view have more cells. All views explain the same labels against the same present ones, those
of the image as it is.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax import parallel
from minmax_jax.cams.maps import normalize_maps
from minmax_jax.cams.method import Method
from minmax_jax.explain import make_explain_fn
from minmax_jax.models.network import Network, check_images
from minmax_jax.pullback import at_least_float32, map_labels
from minmax_jax.select import AllLabels, Policy

# The axis of images `(b H W 3)` that a flip turns round; that of maps `(b n H W)` is the next.
FLIPS = {"horizontal": 2, "vertical": 1}


def augmented_cam(
    network: Network,
    variables: Any,
    images: jax.Array,
    *,
    method: str | Method = "minmax_cam",
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flips: Sequence[str] = ("horizontal",),
    tap: str | None = None,
    select: Policy | None = None,
    present: jax.Array | None = None,
    labels: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Activation maps of the labels of a batch of images, each the mean over views of the image.

    The map of each view is turned back, normalised to 0..1 and resized to the image; the mean of
    them is normalised again. The cost is that of `explain` times the number of views of a scale
    and the sum of the squared scales: 15 with the defaults.

    Args:
      network, variables, images, tap, select, present, labels: as in `explain`.
      method: a name in `METHODS`, or a `Method`.
      scales: side of each view, in sides of the image.
      flips: "horizontal", "vertical" or both, which are seen beside the image as it is: alone and,
        if both are named, together. () for none.
      **options: further ones of `explain`.

    Returns:
      Maps `(b n H W)` float32 in 0..1, a flat one 0, and logits `(b c)` of the images as they are;
      with `select` a `Selection` as well.

    Raises:
      ValueError: as `explain`; and for scales that are none, not positive or not finite, and an
        unknown flip.
    """
    augmented_fn = make_augmented_fn(
        network, method, scales=scales, flips=flips, tap=tap, select=select, **options
    )
    present, labels = (None if x is None else jnp.asarray(x) for x in (present, labels))
    return augmented_fn(variables, images, present, labels=labels)


def make_augmented_fn(
    network: Network,
    method: str | Method = "minmax_cam",
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flips: Sequence[str] = ("horizontal",),
    tap: str | None = None,
    select: Policy | None = None,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> Callable[..., tuple[Any, ...]]:
    """Builds the jitted function behind `augmented_cam`; the same arguments give the same one.

    Args:
      network, method, scales, flips, tap, select: as in `augmented_cam`.
      mesh: devices over which images are split, as in `make_explain_fn`.
      **options: `activation`, `mask_chunk`, `channels` and `clusters` of `explain`.

    Returns:
      `(variables, images, present=None, valid=None, labels=None) -> (maps (b n H W), logits)`, and
      the selection with `select`, as in `make_explain_fn`.

    Raises:
      ValueError: as `augmented_cam`.
    """
    if not isinstance(method, str | Method):
        raise ValueError(f"method must be one name or one Method, not {method!r}")
    if not isinstance(tap, str | None):
        raise ValueError(f"tap must be one name, not {tap!r}")
    scales = _checked_scales(scales)
    flips = tuple(dict.fromkeys((flips,) if isinstance(flips, str) else flips))
    for flip in flips:
        if flip not in FLIPS:
            raise ValueError(f"unknown flip {flip!r}; flips: {', '.join(FLIPS)}")
    explain_fn = make_explain_fn(network, method, tap=tap, mesh=mesh, **options)
    return _augmented_fn(network, explain_fn, scales, flips, select, mesh)


@functools.lru_cache(maxsize=64)
def _augmented_fn(network, explain_fn, scales, flips, select, mesh):
    policy = AllLabels() if select is None else select
    axes = [FLIPS[flip] for flip in flips]
    # Every set of axes: none, each alone, all together.
    mirrored = [c for n in range(1 + len(axes)) for c in itertools.combinations(axes, n)]

    def augmented_fn(variables, images, present=None, valid=None, labels=None):
        check_images(images)
        if select is not None and labels is not None:
            raise ValueError("give select or labels, not both")
        images = parallel.split(mesh, images, or_whole=True)
        logits = at_least_float32(network.apply(variables, images)[0])
        selection = policy(logits)
        if present is not None:
            selection = selection._replace(present=present.astype(bool))
        if select is not None:
            labels = selection.labels
        size = images.shape[1:3]

        def sum_of_views(scale):
            b, channels = images.shape[0], images.shape[-1]
            side = [max(1, round(scale * pixels)) for pixels in size]
            view, total = _resize(images, (b, *side, channels)), 0
            for axes in mirrored:
                seen = jnp.flip(view, axes)
                raw = explain_fn(variables, seen, selection.present, valid, labels)[0]
                total += normalize_maps(jnp.flip(raw, [axis + 1 for axis in axes]))
            return jnp.moveaxis(total, 1, 0)

        def combine(sums):
            # Normalised, the sum is the mean.
            return normalize_maps(sum(_resize(maps, (len(maps), *size)) for maps in sums))

        # Resizing is linear: once for all views of a scale. And by labels, as the resized maps of
        # all scales of all labels would be the most that there is.
        maps = map_labels(combine, [sum_of_views(scale) for scale in scales])
        maps = jnp.moveaxis(maps, 0, 1)
        return (maps, logits) if select is None else (maps, logits, selection)

    return jax.jit(augmented_fn)


def _checked_scales(scales):
    try:
        numbers = tuple(map(float, scales))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"scales must be numbers above 0, at least one, not {scales!r}")
    return numbers


def _resize(array, shape):
    """Bilinear, of what shrinks with antialiasing."""
    return jax.image.resize(array, shape, method="linear", antialias=True)
