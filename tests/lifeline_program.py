"""One of several processes that compute together; tests start it and end it in many ways.

    python -m tests.lifeline_program ADDRESS PROCESSES PROCESS CASE

Prints "ready", and "done" if the case lets it come that far. "compute" and "sleep" last until a
signal comes, and process 0 is slow to save in "sleep". "errors" are those of process 1 and, a
moment later, 2, which is slow to end; all have computed together just before. In "early", process
1 has done its work first, after a stranger came in its name, 2 cannot be heard, 0 is slow to end
when all have parted, and threads that hear others come to it late.
"""

from __future__ import annotations

import socket
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from minmax_jax import lifeline, preemption

connect = lifeline._Lifeline._connect
lifeline._GRACE, preemption._LEAVE, SLOW = 1.0, 0.1, 1.8
lifeline._NEWS = 60.0  # on a machine that is busy with other work, news take long


def main(address: str, processes: str, process: str, case: str) -> None:
    options = {"num_processes": int(processes), "process_id": int(process)}
    jax.config.update("jax_enable_preemption_service", False)
    if case == "early":
        lifeline._Lifeline._connect = {"1": after_a_stranger, "2": to_nobody}.get(process)
        for name in ("_admit", "_follow"):
            setattr(lifeline._Lifeline, name, late(getattr(lifeline._Lifeline, name)))
    lifeline.join(coordinator_address=address, **options)
    preemption.install()
    print("ready", flush=True)
    try:
        {"compute": compute, "sleep": sleep, "errors": errors, "early": early}[case](process)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        lifeline.settle(error)
        print(f"error: {error}", file=sys.stderr)
        time.sleep(SLOW if process == "2" else 0)
        sys.exit(1)
    print("done", flush=True)
    lifeline.leave()
    if case == "early" and process == "0":
        jax.distributed.shutdown()  # waits for the others
        time.sleep(SLOW)


def compute(process: str) -> None:
    while True:
        multihost_utils.process_allgather(np.array(1))


def sleep(process: str) -> None:
    if process == "0":
        with preemption.deferred():
            while not preemption.requested():
                time.sleep(0.01)
            time.sleep(SLOW)
    time.sleep(600)


def errors(process: str) -> None:
    if process == "0":
        compute(process)
    multihost_utils.process_allgather(np.array(1))
    time.sleep(0.3 * int(process))
    raise ValueError(f"a photo of process {process} cannot be read")


def early(process: str) -> None:
    if process != "1":
        time.sleep(0.5)


def late(listen):
    def listen_late(*arguments):
        time.sleep(0.3)
        listen(*arguments)

    return listen_late


def after_a_stranger(self, host: str, port: int, token: bytes) -> None:
    with socket.create_connection((host, port), timeout=5) as stranger:
        stranger.sendall(bytes(len(token)) + (1).to_bytes(4, "big"))
        assert stranger.recv(1) == b""
    connect(self, host, port, token)


def to_nobody(self, host: str, port: int, token: bytes) -> None:
    connect(self, host, 1, token)


if __name__ == "__main__":
    main(*sys.argv[1:])
