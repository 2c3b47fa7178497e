"""A sweep of the toy network by several processes, to be started as a program.

    python -m tests.sweeping COORDINATOR PROCESSES PROCESS STATE STOP_AFTER

Prints the results as JSON. With STOP_AFTER above 0 a process dies when it has saved so many chunks.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel, sweep
from tests import toys

METHODS = ("score_cam", "gradients", "d_minmax_cam", "grad_cam")
BATCH, IMAGES = 4, 11


def examples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    masks = rng.integers(0, toys.NUM_LABELS + 1, (IMAGES, *toys.SIZE)).astype(np.uint8)
    labels = rng.uniform(size=(IMAGES, toys.NUM_LABELS)) < 0.5
    return {"image": toys.toy_images(IMAGES), "labels": labels, "mask": masks}


def batches(part: int = 0, parts: int = 1) -> list[dict[str, np.ndarray]]:
    """This part of the rows of each batch; of the last one some have fewer than others."""
    arrays, rows = examples(), BATCH // parts
    starts = range(0, IMAGES, BATCH)
    cuts = [slice(start + part * rows, min(start + (part + 1) * rows, IMAGES)) for start in starts]
    return [{name: array[cut] for name, array in arrays.items()} for cut in cuts]


def evaluate(**options):
    """So that the few pairs take several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_MASKED", 4)
        return mj.evaluate(
            toys.toy_network(),
            toys.toy_variables(),
            batches(*parallel.shard()),
            methods=METHODS,
            present="annotated",
            mask_chunk=2,
            save_seconds=0.0,
            progress=False,
            **options,
        )


def _die_after(saves: int, state: pathlib.Path, processes: int) -> None:
    """All at once: who is left alone is stopped before it has saved."""
    saved = importlib.import_module("minmax_jax.evaluate")._Saved
    save = saved.save

    def counting(self, state):
        nonlocal saves
        save(self, state)
        saves -= 1
        if not saves:
            state.with_suffix(f".{jax.process_index()}").touch()
            while not all(state.with_suffix(f".{other}").exists() for other in range(processes)):
                time.sleep(0.01)
            os._exit(9)

    saved.save = counting


def main() -> None:
    coordinator, processes, process, state, stop_after = sys.argv[1:]
    if int(stop_after):
        _die_after(int(stop_after), pathlib.Path(state), int(processes))
    jax.distributed.initialize(coordinator, int(processes), int(process))
    found = evaluate(mesh=parallel.local_mesh(), state_path=state)
    print("RESULT", json.dumps({"devices": jax.local_device_count()} | found))


if __name__ == "__main__":
    main()
