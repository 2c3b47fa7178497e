"""What a sweep has counted so far, and the file from which a killed one goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from minmax_jax import files
from minmax_jax.metrics.sums import Sums


@dataclasses.dataclass
class State:
    """Counts and sums.

    Attributes:
      batches, images: how many are done.
      total: batches there are, where that is known.
      batch_size: rows of the first batch, of all processes, to which a smaller one is filled up.
      num_pairs: pairs of one method.
      sums: `{metric: Sums}` of float64 `(methods * c,)`; None before the first batch.
      seconds: `{method: seconds}`.
    """

    batches: int = 0
    images: int = 0
    total: int | None = None
    batch_size: int | None = None
    num_pairs: int = 0
    sums: dict[str, Sums] | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def fingerprint(variables: Any, choices: Any) -> str:
    """Tells whether a saved state belongs to a sweep of these weights and choices (JSON values)."""
    digest = hashlib.sha256(json.dumps(choices).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def save(path: pathlib.Path, identity: str, state: State) -> None:
    """Writes a state after its first batch, whole or not at all."""
    header = {field.name: getattr(state, field.name) for field in dataclasses.fields(State)}
    del header["sums"]
    arrays = {
        f"{name}/{field}": getattr(value, field)
        for name, value in state.sums.items()
        for field in Sums._fields
    }
    text = np.array(json.dumps(header | {"identity": identity}))
    files.write_atomically(path, lambda file: np.savez(file, header=text, **arrays))


def load(path: pathlib.Path, identity: str, total: int | None) -> State | None:
    """The saved state; None if there is none, or if it is of another sweep or other batches."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        header = json.loads(str(saved["header"]))
        if header.pop("identity") != identity:
            return None
        if None not in (total, header["total"]) and total != header["total"]:
            return None  # Which of these batches are done cannot be told.
        names = dict.fromkeys(key.split("/")[0] for key in saved.files if "/" in key)
        totals = {
            name: Sums(*(saved[f"{name}/{field}"] for field in Sums._fields)) for name in names
        }
    return State(sums=totals, **header)
