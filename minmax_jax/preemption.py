"""SIGTERM, by which clusters take a machine back: save what there is, exit 0 within seconds.

Results are files that appear whole and that a repeated command goes on from, so a process may end
anywhere. Only training has more to lose: it asks to be `deferred`, looks at `requested()` at each
step, saves, and raises `Preempted`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax

# Seconds that training has to save, and then to end the process by itself; together less than what
# clusters grant (30 s and more).
_GRACE, _LEAVE = 20.0, 5.0

_requested = threading.Event()
_ended = threading.Event()  # set while nobody asks for deferral
_ended.set()


class Preempted(Exception):
    """Training has saved its state because SIGTERM came."""


def install() -> None:
    """Makes SIGTERM end this process with exit code 0, after training has saved.

    To be called once, in the main thread.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    # The wakeup descriptor is written when the signal comes, also while Python waits for a device.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), daemon=True, name="preemption").start()


def requested() -> bool:
    """Whether SIGTERM has come."""
    return _requested.is_set()


def check() -> None:
    """Raises `Preempted` if SIGTERM has come to a lone process; several must agree on a step."""
    if requested() and jax.process_count() == 1:
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """While it lasts, SIGTERM leaves the process some seconds to look at `requested` and save."""
    _ended.clear()
    try:
        yield
    finally:
        _ended.set()


def _watch(read: int) -> None:
    while os.read(read, 1)[0] != signal.SIGTERM:
        pass
    _requested.set()
    if not _ended.is_set() and _ended.wait(_GRACE):
        time.sleep(_LEAVE)  # Longer than it takes, unless training was at its end and did not look.
    print("\nstopped by SIGTERM; the same command goes on", file=sys.stderr, flush=True)
    os._exit(0)
