"""SIGTERM: exit code 0 within seconds wherever the process is, and training saved."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from minmax_jax import preemption

ROOT = pathlib.Path(__file__).parents[1]
# What the program prints after SIGTERM, case by case.
PRINTED = {
    "waiting": [],
    "computing": [],
    "saving": ["saved", "end"],
    "not_saving": [],
    "ending": [],
}


def _is_ready(path):
    return path.exists() and path.stat().st_size > 0


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Exit code, words on stdout and text on stderr of each case."""
    folder = tmp_path_factory.mktemp("cases")
    outputs = [folder / f"{case}.out" for case in PRINTED]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.preemption_program", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        processes = json.loads(program.stdout.readline())
        while program.poll() is None and not all(map(_is_ready, outputs)):
            time.sleep(0.01)
        time.sleep(0.2)
        for process in processes.values():
            os.kill(process, signal.SIGTERM)
        codes = json.loads(program.communicate(timeout=60)[0])
    return {
        case: (code, (folder / f"{case}.out").read_text(), (folder / f"{case}.err").read_text())
        for case, code in codes.items()
    }


@pytest.mark.parametrize("case", PRINTED)
def test_sigterm_ends_with_zero(case, ended):
    """Before what the process was about can have come to its end."""
    code, out, err = ended[case]
    assert code == 0 and out.split() == ["ready", *PRINTED[case]]
    assert ("goes on" in err) == (not PRINTED[case])


def test_nothing_is_requested_without_a_signal():
    with preemption.deferred():
        assert not preemption.requested()
        preemption.check()
