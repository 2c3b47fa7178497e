"""Processes that compute together, of which one is lost: the others say so and end."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.ports import reserve_address

ROOT = pathlib.Path(__file__).parents[1]
LOST = (
    "error: process {} of {} was lost; start all of them again, and they go on from what is saved"
)


class Group:
    """Processes of one command, each told the address, their number and its own number."""

    def __init__(self, processes, make_command, **environment):
        address, self.held = reserve_address()
        self.processes = [
            subprocess.Popen(
                [sys.executable, *make_command(address, str(processes), str(process))],
                cwd=ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(processes)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.held.close()

    def wait_for(self, line):
        for process in self.processes:
            while (printed := process.stdout.readline().strip()) != line:
                assert printed or process.poll() is None, process.stderr.read()

    def ends(self, timeout=60):
        """The exit code of each, and its lines on stdout and stderr.

        Who has not ended by itself after `timeout` seconds is killed; JAX alone takes 100.
        """
        timer = threading.Timer(timeout, lambda: [process.kill() for process in self.processes])
        timer.start()
        results = []
        for process in self.processes:
            out, err = process.stdout.read().splitlines(), process.stderr.read().splitlines()
            results.append((process.wait(), out, [line for line in err if line]))
        timer.cancel()
        return results


def program(case):
    return lambda *numbers: ["-m", "tests.lifeline_program", *numbers, case]


@pytest.mark.parametrize(("processes", "victim", "case"), [(3, 2, "compute"), (2, 0, "sleep")])
def test_a_killed_process_ends_the_others_with_one_line(processes, victim, case):
    """Whether they wait for it or not; process 0 is the one whose end JAX would not survive."""
    with Group(processes, program(case)) as group:
        group.wait_for("ready")
        group.processes[victim].kill()
        ends = group.ends()
    assert ends.pop(victim)[0] == -signal.SIGKILL
    assert ends == [(1, [], [LOST.format(victim, processes)])] * (processes - 1)


def test_errors_of_their_own_are_told_where_they_happen():
    with Group(3, program("errors")) as group:
        group.wait_for("ready")
        ends = group.ends()
    own = "error: a photo of process {} cannot be read"
    assert [code for code, _, _ in ends] == [1, 1, 1]
    assert [err for _, _, err in ends] == [[LOST.format(1, 3)], [own.format(1)], [own.format(2)]]


def test_work_done_early_is_no_loss():
    """Nor is a stranger who goes again, nor a process that cannot connect, nor a slow end."""
    with Group(3, program("early")) as group:
        group.wait_for("ready")
        ends = group.ends()
    assert [(code, out) for code, out, _ in ends] == [(0, ["done"])] * 3
    errors = [err for _, _, err in ends]
    assert errors[:2] == [[], []]
    assert len(errors[2]) == 1 and "process 2 cannot connect to localhost port 1" in errors[2][0]


def test_sigterm_to_all_ends_all_with_zero():
    """Though one is gone while the other saves."""
    with Group(2, program("sleep")) as group:
        group.wait_for("ready")
        for process in group.processes:
            process.terminate()
            time.sleep(0.3)
        ends = group.ends()
    assert ends == [(0, [], ["stopped by SIGTERM; the same command goes on"])] * 2


@pytest.mark.slow
def test_a_run_goes_on_after_the_loss_of_either_process(tmp_path):
    """Of two that train and evaluate: one is killed as it trains, the other as it evaluates."""
    fields = (
        "data.train.size=64",
        "data.validation.size=32",
        "data.image_size=32",
        "train.batch_size=8",
        "train.stages[0].epochs=3",
        "evaluate.batch_size=4",
        "evaluate.methods=('cam',)",
    )
    workdir, programs = tmp_path / "run", str(tmp_path / "programs")  # compiled once
    config = ["launch.py", "--config=experiments/scenes.py:plain", f"--workdir={workdir}"]
    config += ["--stages=train,evaluate", *(f"--config.{field}" for field in fields)]

    def command(address, processes, process):
        by_hand = [f"--coordinator={address}", f"--processes={processes}", f"--process={process}"]
        return ["-u", *config, *by_hand]

    folder = workdir / "plain"
    for victim, line, file in (
        (1, "plain: training", "metrics.csv"),
        (0, "plain: evaluating", "classification.json"),
    ):
        with Group(2, command, JAX_COMPILATION_CACHE_DIR=programs) as group:
            group.wait_for(line)
            while not (folder / file).exists() and group.processes[0].poll() is None:
                time.sleep(0.01)
            group.processes[victim].kill()
            ends = group.ends()
        assert ends[victim][0] == -signal.SIGKILL
        code, _, err = ends[1 - victim]
        assert (code, err[-1]) == (1, LOST.format(victim, 2))
        assert not any(word in line for line in err for word in ("Traceback", "***"))
    assert not (folder / "evaluation.json").exists()
    with Group(2, command, JAX_COMPILATION_CACHE_DIR=programs) as group:
        ends = group.ends(timeout=240)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "plain: trained already" in ends[0][1]
    assert (folder / "evaluation.json").exists()
