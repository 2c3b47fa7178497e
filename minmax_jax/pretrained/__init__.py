"""Weights from elsewhere: files of PyTorch, Keras and safetensors, the Hub, runs of our own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax

from minmax_jax.models import Network, create_network
from minmax_jax.pretrained.convert import fill_variables, head_labels, load_weights, match_names
from minmax_jax.pretrained.description import Description, write_network_json
from minmax_jax.pretrained.files import Weights, open_weights

__all__ = [
    "Description",
    "Loaded",
    "Weights",
    "load_network",
    "load_weights",
    "open_weights",
    "write_network_json",
]


# By which heads multiply their kernels. (What was learned is among the weights.)
_FACTORS = {"kur": ("alpha",), "kur_scheduled": ("alpha", "alpha_end", "alpha_steps")}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A network with weights.

    Attributes:
      network: in the style that the weights were trained in.
      variables: float32.
      notes: a line for each thing that was not taken from the file.
      label_names: of the head's labels, if something says them.
      activation: what makes probabilities of the logits: that by which a run of our own was
        trained, "softmax" for others' weights.
      has_head: whether the head is the file's.
    """

    network: Network
    variables: dict[str, Any]
    notes: tuple[str, ...]
    label_names: tuple[str, ...] | None
    activation: str
    has_head: bool


def load_network(
    address: str | os.PathLike,
    *,
    name: str = "",
    head: str = "",
    alpha: float | None = None,
    num_labels: int | None = None,
    dropout: float | None = None,
    attention: str = "",
    style: str = "",
    dtype: str = "",
    alpha_end: float | None = None,
    alpha_steps: int | None = None,
    regularized: Sequence[str] | None = None,
    key: jax.Array,
) -> Loaded:
    """Makes the network that weights belong to, and fills it.

    What is left "" or None is as the content says it (a run's `network.json`, a file's
    `config.json`, the names of its layers), else as `create_network` has it by default.

    Args:
      address: see `open_weights`.
      name, head, alpha, dropout, attention, style, dtype, alpha_end, alpha_steps, regularized: see
        `create_network`.
      num_labels: `c`; None for that of the file's head.
      key: for a head that is not the file's, and attention that the file does not have.

    Raises:
      ValueError: see `open_weights`, `create_network` and `load_weights`; the content says neither
        name nor number of labels and they are not given; it says another name than is given.
    """
    weights = open_weights(address)
    said = weights.description
    if name and said.name and name != said.name:
        raise ValueError(f"weights {weights.address} are of {said.name}, not of {name}.")
    name = name or said.name
    if not name:
        raise ValueError(f"weights {weights.address} do not say of which network: give its name.")
    # Names of layers are the same whatever the style; the file's own head may read more features.
    probe = create_network(name, num_labels=1, head=said.head or "dense")
    match = match_names(weights, probe)
    if num_labels is None:
        features = jax.eval_shape(probe.init, key)["params"]["head"]["kernel"].shape[0]
        num_labels = head_labels(weights, match, features)
        if num_labels is None:
            raise ValueError(
                f"weights {weights.address} have no head for {name}: give the number of labels."
            )
    given = Description(
        name=name,
        num_labels=num_labels,
        head=head,
        alpha=alpha,
        dropout=dropout,
        attention=attention,
        style=style or match.style,
        dtype=dtype,
        alpha_end=alpha_end,
        alpha_steps=alpha_steps,
        regularized=None if regularized is None else tuple(regularized),
    )
    arguments = said.arguments | given.arguments
    network = create_network(**arguments)
    variables, notes, has_head = fill_variables(weights, network, key=key)
    changed = set(arguments.get("regularized", ())) ^ set(said.regularized or ())
    if changed:
        notes.append(f"regularised otherwise than in the file: {', '.join(sorted(changed))}.")
    for field in _FACTORS.get(said.head, ()) if has_head else ():
        there = said.arguments.get(field)
        if there != arguments.get(field):
            notes.append(f"{field} is {arguments[field]}, and {there} in the file.")
    label_names = said.label_names if has_head else None
    if label_names is not None and len(label_names) != num_labels:
        notes.append(f"label names left out: {len(label_names)} names for {num_labels} labels.")
        label_names = None
    return Loaded(
        network=network,
        variables=variables,
        notes=tuple(notes),
        label_names=label_names,
        activation=said.activation or ("sigmoid" if weights.format == "ours" else "softmax"),
        has_head=has_head,
    )
