"""The task `photos`: a config, its checks and its stages."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from minmax_jax import files
from minmax_jax.data import images as images_lib
from minmax_jax.explain import ACTIVATIONS, make_explain_fns
from minmax_jax.methods import group_methods
from minmax_jax.photos import labels as labels_lib
from minmax_jax.photos.listing import find_photos, printable
from minmax_jax.photos.page import write_page
from minmax_jax.photos.stream import explain_photos
from minmax_jax.pretrained import Loaded, load_network
from minmax_jax.select import DetectedLabels, NamedLabels, Policy, TopLabels, check_threshold

STAGES = ("explain", "report")
_SHOWN = 20  # skipped photos printed


def prepare(config: ConfigDict, workdir: pathlib.Path, stages: Sequence[str]) -> Callable[[], None]:
    """Checks a config and loads what it names; what is returned does the work.

    Args:
      config: as `config.photos_config` makes it.
      workdir: folder of the results.
      stages: of `STAGES`.

    Raises:
      ValueError: for whatever the config has wrong, before anything is written.
    """
    explain = _prepare_explain(config, workdir) if "explain" in stages else None
    if explain is None and not (workdir / "skipped.json").exists():
        raise ValueError(f"{workdir} holds no explained photos: run the explain stage first")

    def work() -> None:
        if explain is not None:
            explain()
        if "report" in stages:
            print(f"report: {write_page(workdir, title=config.title)}")

    return work


def _prepare_explain(config: ConfigDict, workdir: pathlib.Path) -> Callable[[], None]:
    group_methods(config.methods)
    images_lib.check_resize(config.resize)
    check_threshold(config.threshold)
    for field, least in (("batch_size", 1), ("top", 1), ("at_most", 1), ("image_size", 0)):
        if config[field] < least:
            raise ValueError(f"{field} must be at least {least}, not {config[field]}")
    if config.activation not in ("auto", *ACTIVATIONS):
        valid = ", ".join(("auto", *ACTIVATIONS))
        raise ValueError(f"unknown activation {config.activation!r}; valid: {valid}")
    paths = find_photos(config.images)
    loaded = _load(config)
    network = loaded.network
    activation = loaded.activation if config.activation == "auto" else config.activation
    shape = (1, network.image_size, network.image_size, 3)
    logits, _ = jax.eval_shape(
        network.apply, loaded.variables, jax.ShapeDtypeStruct(shape, np.float32)
    )
    names = _names(config, loaded, logits.shape[1])
    select = _policy(config, activation, names)
    options = {"select": select, "activation": activation}
    options |= {field: config[field] or None for field in ("mask_chunk", "channels", "clusters")}
    make_explain_fns(network, config.methods, **options)  # raises

    def explain() -> None:
        for note in loaded.notes:
            print(f"{config.network.weights}: {note}")
        skipped = explain_photos(
            network,
            loaded.variables,
            paths,
            workdir / "photos",
            methods=config.methods,
            label_names=names,
            batch_size=config.batch_size,
            image_size=config.image_size or None,
            resize=config.resize,
            **options,
        )
        entries = [
            {"photo": printable(entry.photo), "reason": printable(entry.reason)}
            for entry in skipped
        ]
        files.write_json(workdir / "skipped.json", entries)
        _tell(entries, len(paths))

    return explain


def _load(config: ConfigDict) -> Loaded:
    if not config.network.weights:
        raise ValueError(
            "no weights named: --config.network.weights=FILE; an untrained network explains nothing"
        )
    loaded = load_network(
        config.network.weights,
        name=config.network.name,
        head=config.network.head,
        alpha=config.network.alpha or None,
        style=config.network.style,
        dtype=config.network.dtype,
        key=jax.random.key(0),
    )
    if not loaded.has_head:
        raise ValueError(
            f"{config.network.weights} holds no head for this network: an untrained one explains "
            "nothing"
        )
    return loaded


def _names(config: ConfigDict, loaded: Loaded, number: int) -> tuple[str, ...]:
    if config.names:
        return labels_lib.read_names(config.names, number)
    return loaded.label_names or tuple(map(str, range(number)))


def _policy(config: ConfigDict, activation: str, names: Sequence[str]) -> Policy:
    """Which labels are explained; with a softmax those are the present ones too."""
    if config.labels:
        indices = labels_lib.choose_labels(config.labels, names)
        return NamedLabels(indices, None if activation == "softmax" else config.threshold)
    if activation == "softmax":
        return TopLabels(min(config.top, len(names)))
    return DetectedLabels(min(config.at_most, len(names)), config.threshold)


def _tell(skipped: Sequence[dict[str, str]], number: int) -> None:
    """Lists the photos without results; raises `ValueError` if there is no other."""
    if not skipped:
        return
    if len(skipped) == number:
        first = skipped[0]
        raise ValueError(
            f"none of {number} photos could be explained; {first['photo']}: {first['reason']}"
        )
    print(f"{len(skipped)} of {number} photos could not be explained:")
    for entry in skipped[:_SHOWN]:
        print(f"  {entry['photo']}: {entry['reason']}")
    if len(skipped) > _SHOWN:
        print(f"  and {len(skipped) - _SHOWN} more: skipped.json")
