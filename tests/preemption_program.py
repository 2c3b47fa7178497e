"""Processes that SIGTERM finds at different work; tests send it.

    python -m tests.preemption_program DIRECTORY

Prints the process of each case as a JSON dict and, when all have ended, their exit codes. What a
case prints goes to DIRECTORY/CASE.out and DIRECTORY/CASE.err: "ready", and "end" if nothing stops
it. All are forks of one process, as importing takes longer than the rest.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

import numpy as np

from minmax_jax import preemption


def waiting():
    print("ready", flush=True)
    time.sleep(90)


def computing():
    """Numbers that numpy multiplies for a long time without a look at Python."""
    x = np.ones((6000, 6000))
    print("ready", flush=True)
    x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x @ x


def saving():
    with preemption.deferred():
        print("ready", flush=True)
        while not preemption.requested():
            time.sleep(0.01)
        time.sleep(0.5)
        print("saved")


def not_saving():
    preemption._GRACE = 0.5
    with preemption.deferred():
        print("ready", flush=True)
        time.sleep(90)


def ending():
    """Is about to have no more to save when the signal comes, and does not look."""
    preemption._LEAVE = 0.5
    with preemption.deferred():
        print("ready", flush=True)
        time.sleep(1)
    time.sleep(90)


CASES = {case.__name__: case for case in (waiting, computing, saving, not_saving, ending)}


def main(directory: pathlib.Path) -> None:
    started = {}
    for name, case in CASES.items():
        started[name] = os.fork()
        if not started[name]:
            for number, end in ((1, "out"), (2, "err")):
                with open(directory / f"{name}.{end}", "wb") as file:
                    os.dup2(file.fileno(), number)
            preemption.install()
            case()
            print("end")
            return
    print(json.dumps(started), flush=True)
    codes = {name: os.waitpid(process, 0)[1] for name, process in started.items()}
    print(json.dumps({name: os.waitstatus_to_exitcode(code) for name, code in codes.items()}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
