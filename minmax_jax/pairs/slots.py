"""Pairs in training: the batches of each, and the slots that they go through.

The host cuts batches, the devices decide when a pair is done; see `step.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from minmax_jax import parallel
from minmax_jax.pairs.files import PairClassifier
from minmax_jax.pairs.step import Report, idle_slots_fn, read_slot_fn


class Run:
    """A pair in training: its batches, one after the other.

    Args:
      pair: class indices.
      examples: indices `(n,)` of its examples.
      units: bool `(n,)`, which of the two classes each is of.
      number: of the pair, different from that of all others.
      batch_size, seed: see `fit_pairs`.

    Attributes:
      steps: an epoch.
    """

    def __init__(
        self,
        pair: tuple[int, int],
        examples: np.ndarray,
        units: np.ndarray,
        *,
        number: int,
        batch_size: int,
        seed: int,
    ):
        self.pair, self.number, self.batch_size = pair, number, batch_size
        self.steps = -(-len(examples) // batch_size)
        self._examples, self._units, self._seed = examples, units, seed
        self._step, self._order = 0, None

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices `(b,)` of the next batch's examples, and their units."""
        epoch, step = divmod(self._step, self.steps)
        if step == 0:
            rng = np.random.default_rng((self._seed, *self.pair, epoch))
            order = rng.permutation(len(self._examples))
            self._order = np.resize(order, self.steps * self.batch_size)  # repeats it
        self._step += 1
        rows = self._order[step * self.batch_size :][: self.batch_size]
        return self._examples[rows], self._units[rows]


class Group:
    """Slots, and the pairs that are trained in them, one after the other in each.

    Args:
      step_fn, shared: see `step.py`.
      number: of the slots.
      mesh, take: see `fit_pairs`.
      runs: the pairs.
    """

    def __init__(
        self,
        *,
        step_fn: Callable[..., Any],
        shared: Any,
        number: int,
        mesh: jax.sharding.Mesh | None,
        take: Callable[[np.ndarray], np.ndarray],
        runs: Iterator[Run],
    ):
        self._step_fn, self._shared, self._mesh = step_fn, shared, mesh
        self._take, self._runs = take, runs
        self._state = idle_slots_fn(number, mesh)(shared["start"])
        self._slots: list[Run | None] = [None] * number

    def finished(self) -> Iterator[list[tuple[Run, PairClassifier | None]]]:
        """What each step has finished, its arrays still on the devices; None for diverged pairs.

        While a step's report is looked at the next one runs.
        """
        for runs, report in parallel.ahead(self._steps()):
            ended = []
            report = Report(*map(np.asarray, report))
            for slot in np.flatnonzero(report.done):
                run = runs[slot]
                # None, or a pair whose end the report of the step before has told.
                if run is None or run is not self._slots[slot]:
                    continue
                self._slots[slot] = None
                ended.append((run, self._classifier(slot, run, report)))
            yield ended

    def _steps(self) -> Iterator[tuple[list[Run | None], Any]]:
        """Queues steps as long as there are pairs; which pairs each was of, and its report."""
        while True:
            fresh = np.zeros(len(self._slots), bool)
            for slot, run in enumerate(self._slots):
                if run is None:
                    self._slots[slot] = next(self._runs, None)
                    fresh[slot] = self._slots[slot] is not None
            if not any(self._slots):
                return
            batch = parallel.put(self._mesh, self._batch(fresh))
            self._state, report = self._step_fn(self._shared, self._state, batch)
            yield list(self._slots), report

    def _batch(self, fresh: np.ndarray) -> dict[str, np.ndarray]:
        """The next batch of every slot; one without a pair is done, and gets anything."""
        [size] = {run.batch_size for run in self._slots if run}
        anything = np.zeros(size, int), np.zeros(size, bool)
        cut = [run.cut() if run else anything for run in self._slots]
        indices, units = (np.stack(parts) for parts in zip(*cut, strict=True))
        rows = self._take(indices.reshape(-1))
        return {
            "rows": rows.reshape(*indices.shape, *rows.shape[1:]),
            "units": units.astype(np.int32),
            "fresh": fresh,
            "number": np.array([run.number if run else 0 for run in self._slots], np.int32),
            "steps": np.array([run.steps if run else 1 for run in self._slots], np.int32),
        }

    def _classifier(self, slot: int, run: Run, report: Report) -> PairClassifier | None:
        if not report.finite[slot]:
            return None
        return PairClassifier(
            read_slot_fn(self._mesh)(self._state["layers"], slot),
            accuracy=report.correct[slot] / (run.steps * run.batch_size),
            epochs=report.step[slot] // run.steps,
            converged=bool(report.converged[slot]),
        )
