"""How far Score-CAM's approximations are from its exact maps."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from minmax_jax.cams.maps import normalize_maps
from minmax_jax.explain import make_explain_fn
from minmax_jax.models.network import Network, Variables


def approximation_error(
    network: Network,
    variables: Variables,
    images: jax.Array,
    *,
    channels: int | None = None,
    clusters: int | None = None,
    present: jax.Array | None = None,
    valid: jax.Array | None = None,
    tap: str | None = None,
    activation: str = "sigmoid",
    mask_chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
    """Compares approximate with exact maps of Score-CAM, both normalised, on a few images.

    Args:
      network, variables, images, channels, clusters, tap, activation, mask_chunk: as in `explain`;
        one of `channels` and `clusters` is needed.
      present: `(b c)` bool, labels whose maps are compared; by default those with a sigmoid above
        0.5.
      valid: `(b,)` bool, images that count; by default all.
      mesh: as in `make_explain_fn`; devices of this process.

    Returns:
      `{"images": int, "maps": int, "mean": float, "max": float, "correlation": float}`: images and
      maps compared, mean and largest absolute difference over all their pixels, and the maps' mean
      Pearson correlation: 1 where both maps are constant, 0 where one is. None in place of the
      three floats if there is no map to compare.

    Raises:
      ValueError: as `explain`, if neither `channels` nor `clusters` is given, and for maps that are
        not finite.
    """
    if channels is None and clusters is None:
        raise ValueError("give channels or clusters: without them Score-CAM is exact")
    if valid is not None and np.shape(valid) != (len(images),):
        raise ValueError(f"valid has shape {np.shape(valid)}, not ({len(images)},)")
    options = {"tap": tap, "activation": activation, "mask_chunk": mask_chunk, "mesh": mesh}
    approximate_fn = make_explain_fn(
        network, "score_cam", channels=channels, clusters=clusters, **options
    )
    approximate, _ = approximate_fn(variables, images, None, valid)
    exact, logits = make_explain_fn(network, "score_cam", **options)(
        variables, images, present, valid
    )
    approximate, exact, logits, present, valid = jax.device_get(
        (approximate, exact, logits, present, valid)
    )
    compared = logits > 0 if present is None else np.asarray(present, bool)
    valid = np.ones(len(logits), bool) if valid is None else np.asarray(valid, bool)
    compared = compared & valid[:, None]
    found = {"images": int(valid.sum()), "maps": int(compared.sum())}
    if not found["maps"]:
        return found | dict.fromkeys(("mean", "max", "correlation"))
    approximate, exact = (_normalized(maps[compared]) for maps in (approximate, exact))
    difference = np.abs(approximate - exact)
    return found | {
        "mean": float(difference.mean()),
        "max": float(difference.max()),
        "correlation": float(_correlations(approximate, exact).mean()),
    }


def _normalized(maps):
    """Maps `(n h w)` as float64 `(n pixels)`."""
    if not np.isfinite(maps).all():
        raise ValueError("Score-CAM's maps are not finite")
    return np.asarray(normalize_maps(maps), np.float64).reshape(len(maps), -1)


def _correlations(first, second):
    first, second = (rows - rows.mean(axis=1, keepdims=True) for rows in (first, second))
    scale = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
    both_constant = (first == 0).all(axis=1) & (second == 0).all(axis=1)
    products = (first * second).sum(axis=1)
    return np.where(scale > 0, products / np.where(scale > 0, scale, 1), both_constant)
