"""Curves of a training run: TensorBoard scalars, `metrics.csv`, one line an epoch.

`metrics.csv` has one row an epoch and is written anew after each, from the run's history; so it is
whole after any kill, and no row stands there twice.
"""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from tqdm.auto import tqdm

from minmax_jax import files


class Logs:
    """Where the rows of a run's history go; only process 0 writes. A context manager.

    Args:
      directory: the run's folder.
      history: rows of the epochs so far. The last of them may not have been written before a kill,
        so it is written again.
    """

    def __init__(self, directory: str | os.PathLike, history: Sequence[Mapping[str, Any]]):
        self._csv = pathlib.Path(directory) / "metrics.csv"
        self._writer = None
        if jax.process_index() == 0:
            # It imports torch where there is one, which takes seconds.
            from tensorboardX import SummaryWriter

            # What TensorBoard has from this step on is hidden.
            self._writer = SummaryWriter(
                str(pathlib.Path(directory) / "tensorboard"), purge_step=len(history)
            )
            if history:
                self._record(history)

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes the last row of the history, which names its epoch."""
        if self._writer is None:
            return
        self._record(history)
        row = history[-1]
        tqdm.write(
            f"epoch {row['epoch']:3d}  stage {row['stage'] + 1}  lr {row['learning_rate']:.4g}  "
            f"loss {row['train_loss']:.4f}  validation {row['validation_loss']:.4f}  "
            f"F1 {row['f1_macro']:.3f}  mAP {row['map_macro']:.3f}  "
            f"{row['examples_per_second']:.0f} examples/s"
            + ("  best weights restored" if row["restored"] else "")
        )

    def _record(self, history: Sequence[Mapping[str, Any]]) -> None:
        row = history[-1]
        for name, value in row.items():
            self._writer.add_scalar(name, value, row["epoch"])
        text = io.StringIO()
        table = csv.DictWriter(text, list(row), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        files.write_atomically(self._csv, lambda file: file.write(text.getvalue().encode()))
