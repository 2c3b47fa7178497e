"""Multi-layer maps: one method at several taps, combined into a map as fine as the image.

Gradients at all taps come from one forward pass and one pullback for each label.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax.cams import fusion
from minmax_jax.cams.maps import normalize_maps, resize_maps
from minmax_jax.cams.method import Method
from minmax_jax.explain import make_explain_fn
from minmax_jax.methods import METHODS
from minmax_jax.models.network import Network
from minmax_jax.pullback import map_labels
from minmax_jax.select import Policy


def multi_layer_cam(
    network: Network,
    variables: Any,
    images: jax.Array,
    *,
    method: str | Method = "grad_cam",
    taps: Sequence[str] | None = None,
    select: Policy | None = None,
    present: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Multi-layer activation maps of the labels of a batch of images.

    The map of each tap is rectified, normalised to 0..1 and resized to the image; their sum is
    multiplied by the last one and normalised again.

    Args:
      network, variables, images, select, present: as in `explain`.
      method: a name in `METHODS`, or a `Method`. Kernel methods explain the last tap alone; use
        their gradient forms, as "minmax_grad_cam" for "minmax_cam". Saliency methods explain no
        tap.
      taps: the layers; the last of them is the one that multiplies. By default `network.taps`.
      **options: `layers` of `make_multi_layer_fn`; for Score-CAM those of `explain`.

    Returns:
      Maps `(b n H W)` float32 in 0..1, a flat one 0, and logits `(b c)`; with `select` a
      `Selection` as well.

    Raises:
      ValueError: as `explain`; for a saliency method, no tap, or one named twice.
    """
    multi_layer_fn = make_multi_layer_fn(network, method, taps=taps, select=select, **options)
    return multi_layer_fn(variables, images, None if present is None else jnp.asarray(present))


def make_multi_layer_fn(
    network: Network,
    method: str | Method = "grad_cam",
    *,
    taps: Sequence[str] | None = None,
    select: Policy | None = None,
    mesh: jax.sharding.Mesh | None = None,
    layers: bool = False,
    **options: Any,
) -> Callable[..., tuple[Any, ...]]:
    """Builds the jitted function behind `multi_layer_cam`; the same arguments give the same one.

    Args:
      network, method, taps, select: as in `multi_layer_cam`.
      mesh: devices over which images are split, as in `make_explain_fn`.
      layers: whether to return the maps of which each is made, too.
      **options: `activation`, `mask_chunk`, `channels` and `clusters` of `explain`.

    Returns:
      `(variables, images, present=None, valid=None) -> (maps (b n H W), logits)`, and the selection
      with `select`; with `layers` the maps of the taps `(b n t H W)` come second. `present` and
      `valid` as in `make_explain_fn`.

    Raises:
      ValueError: as `multi_layer_cam`.
    """
    if not isinstance(method, str | Method):
        raise ValueError(f"method must be one name or one Method, not {method!r}")
    if taps is None:
        taps = network.taps
    taps = (taps,) if isinstance(taps, str) else tuple(taps)
    explain_fn = make_explain_fn(network, method, tap=taps, select=select, mesh=mesh, **options)
    if (METHODS[method] if isinstance(method, str) else method).family == "saliency":
        name = method if isinstance(method, str) else "the method given"
        raise ValueError(f"{name} explains the image itself, which has no layers; use `explain`")
    return _multi_layer_fn(explain_fn, taps, layers)


@functools.lru_cache(maxsize=64)
def _multi_layer_fn(explain_fn, taps, layers):
    def multi_layer_fn(variables, images, present=None, valid=None):
        raw, *rest = explain_fn(variables, images, present, valid)
        size = images.shape[1:3]

        def combine(raw):
            maps = jnp.stack([resize_maps(normalize_maps(raw[tap]), size) for tap in taps], axis=-3)
            return (fusion.multi_layer(maps), maps) if layers else (fusion.multi_layer(maps),)

        # By labels, as the resized maps of all taps of all labels would be the most that there is.
        raw = jax.tree.map(lambda at_tap: jnp.moveaxis(at_tap, 1, 0), raw)
        maps = map_labels(combine, raw)
        return *(jnp.moveaxis(array, 0, 1) for array in maps), *rest

    return jax.jit(multi_layer_fn)
