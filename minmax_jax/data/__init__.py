"""Data sets by name, preprocessing and batches.

A source is random access to examples: `len(source)`, and `source[i]` is a dict with "image" uint8
(H W 3), "labels" bool (c,) and, if `source.has_masks`, "mask" uint8 (H W): 0 background, 1 + label
index, 255 void. `source.label_names` are the c names, `source.skipped` the paths left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from minmax_jax.data import coco, folder, planet, scenes, tfds, voc
from minmax_jax.data.augment import Augment
from minmax_jax.data.pipeline import Batches, Source, batches
from minmax_jax.data.store import Store, make_store

SOURCES = {
    "scenes": scenes.Scenes,
    "csv": folder.CsvFolder,
    "voc": voc.Voc,
    "coco": coco.Coco,
    "planet": planet.Planet,
    "tfds": tfds.Tfds,
}

__all__ = [
    "SOURCES",
    "Augment",
    "Batches",
    "Source",
    "Store",
    "batches",
    "create_source",
    "make_store",
]


def create_source(name: str, split: str, /, **options: Any) -> Source:
    """The source `name` for a split ("train", "validation" or "test").

    Options are those of the source's class: see `SOURCES`.

    Raises:
      ValueError: for an unknown name, split or option (naming the valid ones), and for whatever
        the source finds wrong in its files.
    """
    source = _choose("data set", name, SOURCES)
    _choose(f"split of {name!r}", split, dict.fromkeys(source.splits))
    parameters = inspect.signature(source).parameters
    valid = {key: p for key, p in parameters.items() if p.kind == p.KEYWORD_ONLY}
    for option in options:
        _choose(f"option of {name!r}", option, valid)
    return source(split, **options)


def _choose(what: str, name: str, valid: Mapping[str, Any]) -> Any:
    if name not in valid:
        raise ValueError(f"unknown {what}: {name!r}, valid: {', '.join(valid)}")
    return valid[name]
