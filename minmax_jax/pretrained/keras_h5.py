"""Weights of the Keras applications, in Keras' legacy HDF5 layout, to our variables.

The file has one group per layer, found by the layer's name; our layers bear the same names. The
foreign head is the layer "predictions", ours is "head".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

# Keras' name of an array: (our collection, our name).
_NAMES = {
    "kernel": ("params", "kernel"),
    "depthwise_kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
_FOREIGN_HEAD, _HEAD = "predictions", "head"
_SHOWN = 10


def load_keras_h5(
    path: str | os.PathLike, variables: Mapping[str, Any], *, head: str = "dense"
) -> tuple[dict[str, Any], list[str]]:
    """Fills the variables of a network from a Keras weights file, by layer name.

    Every array of the file and every array of ours is accounted for. Only the head may stay as it
    is in `variables`: when it has another number of labels than the file's, when the file has
    none, or when it is not "dense" (the file's kernel is not one to be regularised).

    Args:
      path: the HDF5 file.
      variables: `{"params": {layer: {...}}, "batch_stats": {layer: {...}}}`, as `network.init` or
        `jax.eval_shape(network.init, key)` gives them; arrays if the head may stay as it is.
      head: the kind of the network's head.

    Returns:
      The variables, float32, and notes: a line for everything that was not taken from the file.

    Raises:
      ValueError: the file is missing or is not a legacy Keras weights file, or arrays are missing,
        unknown or misshapen; the line says which.
    """
    foreign = _read(path)
    ours = {
        (collection, layer, name): value
        for collection, layers in variables.items()
        for layer, arrays in layers.items()
        for name, value in arrays.items()
    }
    notes = _drop_head(foreign, ours, head)
    filled, unknown, misshapen = {}, [], []
    for (layer, name), value in foreign.items():
        collection, our_name = _NAMES.get(name, (None, name))
        key = (collection, _HEAD if layer == _FOREIGN_HEAD else layer, our_name)
        if key not in ours:
            unknown.append(f"{layer}/{name}")
            continue
        shape = ours[key].shape
        if len(shape) == 4 and value.shape == (*shape[:2], shape[3], shape[2]) and shape[2] == 1:
            value = np.swapaxes(value, 2, 3)  # Keras keeps depthwise kernels as (kh kw c 1).
        if value.shape != shape:
            misshapen.append(f"{layer}/{name} {value.shape} for {shape}")
        filled[key] = value
    left = _HEAD if notes else None
    missing = ["/".join(key[1:]) for key in ours if key not in filled and key[1] != left]
    faults = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    lines = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if lines:
        raise ValueError(f"weights file {os.fspath(path)} does not fit: {'; '.join(lines)}.")
    loaded: dict[str, Any] = {}
    for (collection, layer, name), value in ours.items():
        value = jnp.asarray(filled.get((collection, layer, name), value), jnp.float32)
        loaded.setdefault(collection, {}).setdefault(layer, {})[name] = value
    return loaded, notes


def _read(path: str | os.PathLike) -> dict[tuple[str, str], np.ndarray]:
    """All arrays of a legacy Keras file: `{(layer, array): value}`."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"weights file {path} does not exist.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"weights file {path} is not an HDF5 file.")
    arrays = {}
    with h5py.File(path, "r") as file:
        if "layer_names" not in file.attrs:
            raise ValueError(f"weights file {path} is not in Keras' legacy layout: no layer_names.")
        for layer in map(_text, file.attrs["layer_names"]):
            for name in map(_text, file[layer].attrs["weight_names"]):
                # "Conv1/kernel" or, from older versions, "Conv1/kernel:0".
                arrays[layer, name.split("/")[-1].split(":")[0]] = np.asarray(file[layer][name])
    return arrays


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _drop_head(foreign: dict, ours: Mapping, head: str) -> list[str]:
    """Takes the file's head out unless it fits ours; a note says why."""
    kernel = foreign.get((_FOREIGN_HEAD, "kernel"))
    if kernel is None:
        why = "the file has no head"
    elif head != "dense":
        why = f"the file's head is plain, this one is {head!r}"
    elif kernel.shape != ours["params", _HEAD, "kernel"].shape:
        why = f"the file's head has {kernel.shape[-1]} labels"
    else:
        return []
    for key in [key for key in foreign if key[0] == _FOREIGN_HEAD]:
        del foreign[key]
    return [f"head left as initialised: {why}."]


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
