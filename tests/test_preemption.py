"""SIGTERM: exit code 0 within seconds wherever the process is, and training saved."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from minmax_jax import preemption

ROOT = pathlib.Path(__file__).parents[1]
# What a program does between `install` and the end, and what it prints when it got so far.
PROGRAM = """
import time
from minmax_jax import preemption

preemption.install()
{body}
print("end")
"""
WAITING = "print('ready', flush=True)\ntime.sleep(60)"
SAVING = """
with preemption.deferred():
    print("ready", flush=True)
    while not preemption.requested():
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved")
"""
ENDING = """
preemption._LEAVE = 0.5
with preemption.deferred():
    print("ready", flush=True)
    time.sleep(1)
time.sleep(60)
"""
# Numbers that numpy multiplies for a long time without a look at Python.
COMPUTING = """
import numpy as np

print("ready", flush=True)
x = np.ones((6000, 6000))
x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x
"""
NOT_SAVING = """
preemption._GRACE = 0.5
with preemption.deferred():
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("body", "printed"),
    [(WAITING, []), (COMPUTING, []), (SAVING, ["saved", "end"]), (NOT_SAVING, []), (ENDING, [])],
)
def test_sigterm_ends_with_zero(body, printed):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        out, err = process.communicate(timeout=50)
    assert process.returncode == 0 and out.split() == printed
    assert ("goes on" in err) == (not printed)
    assert time.monotonic() - began < 10


def test_nothing_is_requested_without_a_signal():
    with preemption.deferred():
        assert not preemption.requested()
        preemption.check()
