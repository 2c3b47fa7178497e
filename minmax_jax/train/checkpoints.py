"""Where a training run is kept, by Orbax: the newest checkpoints and the best one.

A checkpoint is a number, counted up from save to save, the arrays `VARIABLES` and `OPT_STATE`, and
counters (JSON), which name the checkpoint of the best weights. It is written while the run goes on,
and is there when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from minmax_jax import parallel
from minmax_jax.models.network import Network, Variables

VARIABLES, OPT_STATE = "variables", "opt_state"


class Checkpoints:
    """The checkpoints of a run, in `directory/checkpoints`; a context manager.

    Args:
      directory: the run's folder.
      keep: how many of the newest are kept, beside the best.

    Raises:
      OSError: if the folder cannot be made.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
        self._policy = _NewestAndBest(keep)
        self._checkpointer = ocp.training.Checkpointer(
            pathlib.Path(directory).absolute() / "checkpoints",
            preservation_policy=self._policy,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        self._hook, threading.excepthook = threading.excepthook, _without_orbax
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        try:
            with self._writing() if kind is None else contextlib.suppress(Exception):
                self._checkpointer.close()  # waits for what is being written
        finally:
            threading.excepthook = self._hook

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what was wrong with the checkpoint that is being written."""
        try:
            yield
        except Exception as error:  # Orbax passes on whatever its file systems raise.
            reason = str(error).strip().splitlines()[-1]
            raise OSError(
                f"cannot write a checkpoint ({reason}); those that are whole in "
                f"{self._checkpointer.directory} are kept"
            ) from error

    @property
    def latest(self) -> int | None:
        """Number of the newest checkpoint, None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def next(self) -> int:
        """Number of the checkpoint to come."""
        return (self.latest or 0) + 1

    def save(self, arrays: Mapping[str, Any], counters: Mapping[str, Any]) -> None:
        """Starts to write checkpoint `next`, after waiting for the one before.

        Args:
          arrays: by name.
          counters: what JSON can hold; `counters["best"]` is the number of the best checkpoint.

        Raises:
          OSError: if this one or the one before cannot be written.
        """
        self._policy.best = counters["best"]
        with self._writing():
            self._checkpointer.save_checkpointables_async(
                self.next, dict(arrays), custom_metadata=dict(counters)
            )

    def counters(self) -> dict[str, Any]:
        """The counters of the newest checkpoint."""
        return dict(self._checkpointer.metadata(self._checkpointer.latest).custom_metadata)

    def shapes(self, number: int) -> Mapping[str, Any]:
        """Shapes and dtypes of the arrays of a checkpoint, by name."""
        return self._checkpointer.checkpointables_metadata(number).metadata

    def load(self, number: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Some arrays of a checkpoint.

        Args:
          like: by name, trees of arrays (or of their shapes) with the wanted shardings, which may
            be others than those that were saved.
        """
        return self._checkpointer.load_checkpointables(number, dict(like))


def _without_orbax(args: threading.ExceptHookArgs) -> None:
    """Prints a thread's error, but not Orbax's: that is raised again where it is waited for."""
    if not type(args.thread).__module__.startswith("orbax."):
        threading.__excepthook__(args)


class _NewestAndBest:
    """What Orbax asks about which checkpoints stay."""

    def __init__(self, newest: int):
        self._newest = newest
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        newest = {info.step for info in checkpoints[-self._newest :]}
        return [info.step in newest or info.step == self.best for info in checkpoints]


def restore_best(
    directory: str | os.PathLike, network: Network, *, mesh: jax.sharding.Mesh | None = None
) -> Variables:
    """The weights of the lowest validation loss of the run in `directory`.

    Args:
      mesh: devices on which they are to lie; without, the default one.

    Raises:
      ValueError: if there is no checkpoint of a whole epoch.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    like = parallel.replicate(mesh, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    with Checkpoints(directory) as checkpoints:
        best = None if checkpoints.latest is None else checkpoints.counters()["best"]
        if best is None:
            raise ValueError(f"{directory} holds no checkpoint of a whole epoch")
        return checkpoints.load(best, {VARIABLES: like})[VARIABLES]
