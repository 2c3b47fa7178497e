"""Foreign arrays to our variables: one converter for all formats, by the tables of `names`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax.models import Network
from minmax_jax.models.attention import is_attention
from minmax_jax.models.heads import ALPHA_ARRAYS
from minmax_jax.pretrained.files import Weights
from minmax_jax.pretrained.names import HEAD, Table, tables

_SHOWN = 10
# What PyTorch calls our arrays; the other formats' readers give them our names.
_TORCH_ARRAYS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_TORCH_COUNTER = "num_batches_tracked"
Key = tuple[str, str, str]  # collection, layer, array


@dataclasses.dataclass(frozen=True)
class Match:
    """How a file's names belong to a network's layers.

    Attributes:
      style: of the network that these weights want.
      table: `{our layer: prefix in the file}`.
    """

    style: str
    table: Table


def match_names(weights: Weights, network: Network) -> Match:
    """Finds the naming of a file: that with the most of the network's layers.

    Raises:
      ValueError: no layer of the network is in the file.
    """
    prefixes = _prefixes(weights)
    candidates = tables(network.name, network.layers, weights.namings)
    found = {
        naming: {layer for layer, prefix in table.items() if prefix in prefixes}
        for naming, table in candidates.items()
    }
    naming = max(found, key=lambda naming: len(found[naming]), default="")
    if not found.get(naming, set()) - {HEAD}:
        raise ValueError(
            f"weights file {weights.address} does not fit: it has no layer of {network.name}; "
            f"its first arrays are {_listed(list(weights.shapes), 3)}."
        )
    table = dict(candidates[naming])
    if naming == "keras" and table[HEAD] not in prefixes:
        # A head of the user's own: the only other dense layer, whatever its name.
        known = set(table.values())
        dense = [
            name.rpartition("/")[0]
            for name, shape in weights.shapes.items()
            if name.endswith("/kernel") and len(shape) == 2
        ]
        others = [layer for layer in dense if layer not in known]
        if len(others) == 1:
            table[HEAD] = others[0]
    style = weights.description.style or ("" if naming == "ours" else naming)
    return Match(style, table)


def head_labels(weights: Weights, match: Match, features: int) -> int | None:
    """Number of labels of the file's head; None if it has none on that number of features."""
    name = _foreign_name(weights, match.table, HEAD, "kernel")
    shape = weights.shapes.get(name, ())
    labels = shape[:1] if weights.torch_layout else shape[-1:]
    return labels[0] if labels and _fits(weights, name, (features, labels[0])) else None


def load_weights(
    weights: Weights, network: Network, *, key: jax.Array
) -> tuple[dict[str, Any], list[str]]:
    """Fills the variables of a network from opened weights.

    Every array of the file is used or noted, and every array of the network is filled. Only the
    head may stay as `network.init(key)` has it, when the file has none, or one of another shape or
    kind, and attention, when the file has none. A regularised head takes its kernel from a run of
    ours that had one; not from others.

    Args:
      weights: as `open_weights` gives them.
      network: of `create_network`, or any whose layers bear such names.
      key: for a head that is not the file's, and attention that the file does not have.

    Returns:
      The variables, float32, `{"params": {layer: {...}}, "batch_stats": {layer: {...}}}`, and
      notes: a line for each thing that was not taken from the file.

    Raises:
      ValueError: arrays are missing, misshapen, or unknown in a layer of the network; the line says
        which.
    """
    variables, notes, _ = fill_variables(weights, network, key=key)
    return variables, notes


def fill_variables(
    weights: Weights, network: Network, *, key: jax.Array
) -> tuple[dict[str, Any], list[str], bool]:
    """`load_weights`, and whether the head is the file's."""
    shapes = jax.eval_shape(network.init, key)
    ours: dict[Key, jax.ShapeDtypeStruct] = {
        (collection, layer, array): value
        for layer in network.layers
        for collection, layers in shapes.items()
        for array, value in layers.get(layer, {}).items()
    }
    match = match_names(weights, network)
    why_not = _why_not_the_head(weights, network, match, shapes)
    attention = _missing_attention(weights, network, match)
    fresh = {*attention, *([HEAD] if why_not else [])}
    wanted = [key for key in ours if key[1] not in fresh]
    names = {key: _foreign_name(weights, match.table, *key[1:]) for key in wanted}
    notes = _check(weights, match, {key: ours[key].shape for key in wanted}, names, bool(why_not))
    if match.style and network.style and _other_style(weights, network, match):
        notes.append(
            f"the weights are of style {match.style!r}, the network computes as {network.style!r}."
        )
    loaded: dict[str, Any] = {collection: {} for collection in shapes}
    for collection, layer, array in wanted:
        place = collection, layer, array
        value = _laid_out(weights, weights.read(names[place]), ours[place].shape)
        # A copy: memory that belongs to a file must not outlive it.
        value = jnp.array(value, ours[place].dtype)
        loaded[collection].setdefault(layer, {})[array] = value
    if attention:
        notes.insert(0, "attention left as initialised: the file has none.")
    if why_not:
        notes.insert(0, f"head left as initialised: {why_not}.")
    if fresh:
        # Only these layers are asked for, so XLA leaves the rest of the initialisation out.
        initial = jax.jit(lambda key: _only(network.init(key), fresh))(key)
        for collection, layers in initial.items():
            loaded[collection] |= layers
    return loaded, notes, not why_not


def _only(variables: Mapping[str, Any], layers: set[str]) -> dict[str, Any]:
    return {
        collection: {layer: value for layer, value in arrays.items() if layer in layers}
        for collection, arrays in variables.items()
    }


def _missing_attention(weights: Weights, network: Network, match: Match) -> list[str]:
    """The network's layers of attention, if the file has none of them."""
    layers = [layer for layer in network.layers if is_attention(layer)]
    prefixes = _prefixes(weights)
    return [] if any(match.table.get(layer) in prefixes for layer in layers) else layers


def _check(
    weights: Weights,
    match: Match,
    wanted: Mapping[Key, tuple[int, ...]],
    names: Mapping[Key, str],
    fresh_head: bool,
) -> list[str]:
    """Raises unless the arrays wanted are there in their shapes; notes those that are left over."""
    faults: dict[str, list[str]] = {"missing": [], "unknown": [], "misshapen": []}
    for key, shape in wanted.items():
        found = weights.shapes.get(names[key])
        if found is None:
            faults["missing"].append("/".join(key[1:]))
        elif not _fits(weights, names[key], shape):
            faults["misshapen"].append(f"{names[key]} {found} for {shape}")
    used = {names[key] for key in wanted}
    layers = set(match.table.values())
    unused: dict[str, int] = {}
    counters = 0
    for name in weights.shapes:
        last = _last(weights, name)
        layer = name[: -len(last) - 1]
        if name in used or (fresh_head and layer == match.table[HEAD]):
            continue
        if last == _TORCH_COUNTER:
            counters += 1
        elif layer in layers:
            # A part of a layer that ours does not have: the file's network computes otherwise.
            faults["unknown"].append(name)
        else:
            unused[layer] = unused.get(layer, 0) + 1
    lines = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if lines:
        raise ValueError(f"weights file {weights.address} does not fit: {'; '.join(lines)}.")
    notes = []
    if unused:
        total = sum(unused.values())
        notes.append(f"arrays not used: {total} in layers {_listed(list(unused))}.")
    if counters:
        notes.append(f"arrays not used: {counters} {_TORCH_COUNTER}.")
    return notes


def _why_not_the_head(
    weights: Weights, network: Network, match: Match, shapes: Mapping[str, Any]
) -> str:
    """Why the file's head is not taken; "" if it is."""
    name = _foreign_name(weights, match.table, HEAD, "kernel")
    found = weights.shapes.get(name)
    if found is None:
        return "the file has no head"
    features, labels = shapes["params"][HEAD]["kernel"].shape
    theirs = weights.description.head or ("dense" if weights.format != "ours" else "")
    arrays = {array for layers in shapes.values() for array in layers.get(HEAD, {})}
    alphas = {array for array in ALPHA_ARRAYS if f"{HEAD}/{array}" in weights.shapes}
    same = theirs.startswith("kur") != _plain_head(network, shapes)
    if theirs and not (same and alphas == arrays & set(ALPHA_ARRAYS)):
        return f"the file's head is {theirs!r}, this one is of another kind"
    if head_labels(weights, match, features) is None:
        return f"the file's head {found} does not read {features} features"
    if head_labels(weights, match, features) != labels:
        return f"the file's head has {head_labels(weights, match, features)} labels"
    return ""


def _plain_head(network: Network, shapes: Mapping[str, Any]) -> bool:
    """Whether the network's head multiplies by its kernel as it is."""
    heads = {collection: {HEAD: layers.get(HEAD, {})} for collection, layers in shapes.items()}
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), heads)
    kernel = np.float32([[1, 2]])  # no factor makes up for the softmax of both
    variables["params"][HEAD]["kernel"] = kernel
    return bool(np.array_equal(network.head_kernel(variables), kernel))


def _other_style(weights: Weights, network: Network, match: Match) -> bool:
    """Whether the network's style has other names or arithmetic than the file's."""
    if weights.description.style:
        return network.style != weights.description.style
    table = tables(network.name, network.layers, (network.style,)).get(network.style, {})
    return any(table.get(layer) != match.table[layer] for layer in match.table if layer != HEAD)


def _foreign_name(weights: Weights, table: Table, layer: str, array: str) -> str:
    if weights.torch_layout:
        return f"{table[layer]}.{_TORCH_ARRAYS[array]}"
    return f"{table[layer]}/{array}"


def _prefixes(weights: Weights) -> set[str]:
    """Names of the file's layers."""
    return {name[: -len(_last(weights, name)) - 1] for name in weights.shapes}


def _last(weights: Weights, name: str) -> str:
    """The array's own name, without the layer's."""
    return name.rpartition("." if weights.torch_layout else "/")[2]


def _axes(weights: Weights, found: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The file's axes in the order of ours."""
    if weights.torch_layout:
        # (o i kh kw) to (kh kw i o), and (o i) to (i o).
        return {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(found), tuple(range(len(found))))
    if len(found) == len(shape) == 4 and tuple(found) != tuple(shape) and found[3] == 1:
        return (0, 1, 3, 2)  # Keras keeps depthwise kernels as (kh kw c 1).
    return tuple(range(len(found)))


def _fits(weights: Weights, name: str, shape: tuple[int, ...]) -> bool:
    found = weights.shapes[name]
    turned = tuple(found[axis] for axis in _axes(weights, found, shape))
    # A 1x1 convolution and a linear layer are the same array.
    pointwise = {len(turned), len(shape)} == {2, 4} and turned[-2:] == shape[-2:]
    return turned == shape or (pointwise and math.prod(turned) == math.prod(shape))


def _laid_out(weights: Weights, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return value.transpose(_axes(weights, value.shape, shape)).reshape(shape)


def _listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
