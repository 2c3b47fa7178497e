"""Runs that are killed, told to stop, or run out of disk, and end bit-identical all the same."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from minmax_jax.train.checkpoints import OPT_STATE, VARIABLES, Checkpoints

ROOT = pathlib.Path(__file__).parents[1]
METHODS = ("cam", "score_cam", "d_minmax_grad_cam")
KILLS = int(os.environ.get("MINMAX_JAX_KILLS", "20"))
ENVIRONMENT = {}

pytestmark = pytest.mark.slow


def launch(workdir, *arguments):
    """A small run through the command line, as a process that can be killed."""
    config = [
        f"--config.{field}"
        for field in (
            "data.train.size=128",
            "data.validation.size=32",
            "data.image_size=32",
            "train.batch_size=8",
            "train.stages[0].epochs=5",
            "train.plateau_patience=1",
            "train.save_seconds=0.7",
            "evaluate.batch_size=4",
            "evaluate.mask_chunk=16",
            f"evaluate.methods={METHODS}",
            "evaluate.present=annotated",
            "evaluate.save_seconds=0.0",
            "report.photos=1",
        )
    ]
    command = [sys.executable, "-u", "launch.py", "--config", "experiments/scenes.py:regularised"]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), *config, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workdir, *arguments):
    """Runs to the end; seconds from the first word of training on."""
    process = launch(workdir, *arguments)
    process.stdout.readline()
    began = time.monotonic()
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return time.monotonic() - began


def end_when(process, ready, number=signal.SIGKILL):
    """Sends a signal once `ready()` holds; whether the process was still running."""
    while process.poll() is None and not ready():
        time.sleep(0.01)
    alive = process.poll() is None
    process.send_signal(number)
    return alive, process.communicate()[0]


def trained(workdir):
    """All that training leaves: curves, scores, the best weights and the last state."""
    folder = workdir / "regularised"
    history = json.loads((folder / "history.json").read_text())["epochs"]
    for row in history:
        del row["examples_per_second"], row["data_wait"]
    with open(folder / "metrics.csv", newline="") as file:
        curves = [list(row.values())[:-2] for row in csv.DictReader(file)]
    assert curves == [[str(value) for value in row.values()] for row in history]
    with Checkpoints(folder) as checkpoints:
        counters = checkpoints.counters()
        arrays = [
            checkpoints.load(
                number,
                jax.tree.map(
                    lambda array: np.zeros(array.shape, array.dtype),
                    {name: checkpoints.shapes(number)[name] for name in (VARIABLES, OPT_STATE)},
                ),
            )
            for number in (counters["best"], checkpoints.latest)
        ]
    counted = [counters[name] for name in ("stage", "epoch", "step", "plateau")]
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays)]
    return history, (folder / "classification.json").read_text(), counted, leaves


def evaluated(workdir):
    folder = workdir / "regularised"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    del evaluation["seconds"]
    for result in evaluation["methods"].values():
        del result["seconds"]
    with np.load(folder / "gallery.npz") as gallery:
        return evaluation, {name: gallery[name].tobytes() for name in gallery.files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs, and the seconds of its training with programs at hand."""
    # Programs are compiled once for all runs of this file.
    ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("programs"))
    ENVIRONMENT["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    workdir = tmp_path_factory.mktemp("whole")
    finish(workdir)
    return workdir, finish(tmp_path_factory.mktemp("again"), "--stages=train")


def test_training_killed_at_random_ends_bit_identical(tmp_path, whole):
    moments = random.Random(0)
    expected, seconds = trained(whole[0]), whole[1]
    kills = runs = 0
    while kills < KILLS:
        workdir = tmp_path / str(runs)
        process = launch(workdir, "--stages=train")
        process.stdout.readline()
        end = time.monotonic() + moments.uniform(0, seconds)
        alive, printed = end_when(process, lambda end=end: time.monotonic() >= end)
        kills += alive
        if not alive:
            assert process.returncode == 0, printed
            assert trained(workdir) == expected
            runs += 1
    finish(workdir, "--stages=train")
    assert trained(workdir) == expected


def test_stopped_and_killed_in_every_stage(tmp_path, whole):
    """SIGTERM saves and ends with 0; a kill loses nothing, either."""
    folder = tmp_path / "regularised"
    for file, number in (
        ("metrics.csv", signal.SIGTERM),
        ("evaluation_state.npz", signal.SIGTERM),
        ("evaluation_state.npz", signal.SIGKILL),
    ):
        process = launch(tmp_path)
        alive, printed = end_when(process, (folder / file).exists, number)
        assert alive and not (folder / "evaluation.json").exists()
        if number == signal.SIGTERM:
            assert process.returncode == 0, printed
            assert "SIGTERM; the same command goes on" in printed
    finish(tmp_path)
    assert trained(tmp_path) == trained(whole[0]) and evaluated(tmp_path) == evaluated(whole[0])


def test_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, whole):
    """A limit on the size of files stands for the disk."""
    process = launch(tmp_path, "--stages=train")
    curves = tmp_path / "regularised" / "metrics.csv"
    while not curves.exists() and process.poll() is None:
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    assert printed.splitlines()[-1].startswith("error: "), printed
    assert "Traceback" not in printed and "cannot write a checkpoint" in printed
    finish(tmp_path, "--stages=train")
    assert trained(tmp_path) == trained(whole[0])
