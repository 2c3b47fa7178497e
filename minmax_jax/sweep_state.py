"""What a sweep has counted so far, and where it goes on after a kill.

The pairs (image, label, method) of a data set stand in one order, and their scores are counted in
that order, a chunk at a time. So a state is the sums over the first `counted` pairs, and the place
in the data behind which the next one is found: what is made again after a kill are a few maps, and
chunks hold the same pairs as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from minmax_jax import files
from minmax_jax.metrics import sums as sums_lib
from minmax_jax.metrics.sums import Score, Sums


class Place(NamedTuple):
    """A place in the data: a batch, a row of it, and how many images and pairs come before."""

    batch: int = 0
    row: int = 0
    images: int = 0
    pairs: int = 0


@dataclasses.dataclass
class State:
    """Counts and sums.

    Attributes:
      total: batches there are, where that is known.
      rows: images in the pieces into which batches are cut; None before the first batch.
      counted: pairs, of all methods, whose scores are in the sums.
      places: where the first piece begins that holds pairs not counted yet, which is where a run
        goes on, and where it and all pieces read after it end.
      sums: `{metric: Sums}` of float64 `(methods * c,)`; None before the first batch.
      seconds: `{method: seconds}`.
      padding: masked passes that only filled up a chunk.
      approximation: error of approximated Score-CAM on a sample, None where it is exact.
    """

    total: int | None = None
    rows: int | None = None
    counted: int = 0
    places: list[Place] = dataclasses.field(default_factory=lambda: [Place()])
    sums: dict[str, Sums] | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    padding: int = 0
    approximation: dict[str, Any] | None = None

    def read_to(self, place: Place) -> None:
        """Notes where a piece ends, all of whose pairs will be counted in turn."""
        self.places.append(place)
        self._forget()

    def count(self, scores: dict[str, Score], rows: np.ndarray) -> None:
        """Adds the next pairs' scores `(n,)` to their rows of the sums."""
        self.sums = sums_lib.add(self.sums, scores, rows)
        self.counted += len(rows)
        self._forget()

    def spend(self, methods: tuple[str, ...], seconds: float) -> None:
        """Adds time to methods, an equal share to each."""
        for name in methods:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds / len(methods)

    def _forget(self) -> None:
        while len(self.places) > 1 and self.places[1].pairs <= self.counted:
            del self.places[0]


def fingerprint(variables: Any, choices: Any) -> str:
    """Tells whether a saved state belongs to a sweep of these weights and choices (JSON values)."""
    digest = hashlib.sha256(json.dumps(choices).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def to_bytes(state: State, identity: str) -> bytes:
    """An `.npz` file of a state."""
    fields = {field.name for field in dataclasses.fields(State)} - {"sums"}
    header = {name: getattr(state, name) for name in sorted(fields)}
    arrays = {
        f"{name}/{field}": getattr(value, field)
        for name, value in (state.sums or {}).items()
        for field in Sums._fields
    }
    file = io.BytesIO()
    np.savez(file, header=np.array(json.dumps(header | {"identity": identity})), **arrays)
    return file.getvalue()


def from_bytes(data: bytes, identity: str) -> State | None:
    """A state; None if it was made with another identity."""
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        header = json.loads(str(saved["header"]))
        if header.pop("identity") != identity:
            return None
        names = dict.fromkeys(key.split("/")[0] for key in saved.files if "/" in key)
        sums = {name: Sums(*(saved[f"{name}/{part}"] for part in Sums._fields)) for name in names}
    header["places"] = [Place(*place) for place in header["places"]]
    return State(sums=sums or None, **header)


def save(path: pathlib.Path, identity: str, state: State) -> None:
    """Writes a state, whole or not at all; of several processes each writes its own."""
    data = to_bytes(state, identity)
    files.write_atomically(path, lambda file: file.write(data), everyone=True)


def load(path: pathlib.Path, identity: str, total: int | None) -> State | None:
    """The saved state; None if there is none, or if it is of another sweep or other batches."""
    if not path.exists():
        return None
    state = from_bytes(path.read_bytes(), identity)
    if state and None not in (total, state.total) and total != state.total:
        return None  # Which of these batches are done cannot be told.
    return state


def merge(states: list[State]) -> State:
    """What several processes have counted, as one state; they worked at the same time."""
    last = [state.places[-1] for state in states]
    some = [state.sums for state in states if state.sums is not None]
    if len({frozenset(sums) for sums in some}) > 1:
        raise ValueError("some processes have batches with masks and some have none")
    names = dict.fromkeys(name for state in states for name in state.seconds)
    return State(
        counted=sum(state.counted for state in states),
        places=[Place(images=sum(place.images for place in last))],
        sums=jax.tree.map(lambda *arrays: sum(arrays), *some) if some else None,
        seconds={name: max(state.seconds.get(name, 0.0) for state in states) for name in names},
        padding=sum(state.padding for state in states),
        approximation=next((s.approximation for s in states if s.approximation), None),
    )
