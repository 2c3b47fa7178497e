"""Several processes: when one is lost, the others end with one line instead of waiting for it.

Process 0 listens on a port of the system's choice, and each of the others holds a connection to it.
A connection that ends without a "bye" means that the process at its other end is gone; process 0
then tells the rest which. A machine that vanishes without a word is noticed by TCP keepalive.

JAX's coordination service, in process 0, would end the others with a stack trace: after 100
seconds, or at once when process 0 itself goes. So each process reaches it through a relay of its
own, as through an HTTP proxy, which keeps the connection open when process 0 is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import hmac
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from minmax_jax import preemption

# Seconds: to end by itself, which a process with the same error as another should; to hear of a
# loss whose consequences are felt already; to connect; that JAX lets the early wait for the late.
_GRACE, _NEWS, _CONNECT, _SHUTDOWN = 2.0, 3.0, 10.0, 7 * 86400
# Seconds of silence before a probe, between probes, and how many may fail: 25 seconds in all.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_TOKEN, _BYE = 16, b"bye\n"

_lifeline: _Lifeline | None = None


def join(**options: Any) -> None:
    """`jax.distributed.initialize(**options)`, and from then on a watch over the other processes.

    When one is lost, a line on stderr says so and this process ends with exit code 1. With that
    code, and without waiting for others, it also ends if it comes to its end without `leave`. To
    be called once, in all processes.
    """
    global _lifeline
    jax.config.update("jax_check_proxy_envs", False)  # The proxy is ours.
    with _relayed() as hosts:
        jax.distributed.initialize(**options, shutdown_timeout_seconds=_SHUTDOWN)
    if jax.process_count() > 1:
        _lifeline = _Lifeline(hosts)


def leave() -> None:
    """Tells the others that this process has done its work; without others, does nothing."""
    if _lifeline is not None:
        _lifeline.leave()


def settle(error: Exception) -> None:
    """To be called before an error is told, which this process then does before it ends.

    Does not return if the error only follows from the loss of a process, which is told instead.
    """
    if _lifeline is not None:
        _lifeline.settle(error)


class _Lifeline:
    """What this process knows of the others, and its connections to them.

    Args:
      hosts: where JAX has looked for process 0.
    """

    def __init__(self, hosts: list[str]):
        self._processes = jax.process_count()
        self._connections = {}
        self._told = b""
        self._lock = threading.Lock()
        self._lost = threading.Event()
        self._failed = False
        atexit.register(_end)
        message = np.zeros(2 + _TOKEN, np.uint8)
        if first := jax.process_index() == 0:
            server = _listen()
            port = server.getsockname()[1].to_bytes(2, "big")
            message[:] = np.frombuffer(port + secrets.token_bytes(_TOKEN), np.uint8)
        message = np.asarray(multihost_utils.broadcast_one_to_all(message), np.uint8).tobytes()
        port, token = int.from_bytes(message[:2], "big"), message[2:]
        if first:
            _start(self._wait_for_others, server, token)
        else:
            self._connect(hosts[0] if hosts else "localhost", port, token)

    def leave(self) -> None:
        atexit.unregister(_end)
        self._tell(_BYE)

    def settle(self, error: Exception) -> None:
        # XLA's errors begin with a status; all others are this process's own.
        while error is not None:
            if re.match("[A-Z_]+: ", str(error)) and self._lost.wait(_NEWS):
                threading.Event().wait()  # until the process ends
            error = error.__cause__
        self._failed = True

    def _connect(self, host: str, port: int, token: bytes) -> None:
        try:
            connection = socket.create_connection((host, port), timeout=_CONNECT)
            connection.sendall(token + jax.process_index().to_bytes(4, "big"))
            self._add(connection, 0)
        except OSError as error:
            print(
                f"process {jax.process_index()} cannot connect to {host} port {port} ({error}): "
                "should a process be lost, this is noticed late",
                file=sys.stderr,
                flush=True,
            )
        else:
            _start(self._follow, connection, 0)

    def _wait_for_others(self, server: socket.socket, token: bytes) -> None:
        end = time.monotonic() + 2 * _CONNECT
        for connection in _accepted(server, lambda: time.monotonic() > end):
            _start(self._admit, connection, token)

    def _admit(self, connection: socket.socket, token: bytes) -> None:
        """Follows a process that knows the token, and drops whoever does not."""
        connection.settimeout(_CONNECT)
        with contextlib.suppress(OSError), connection:
            hello = connection.recv(_TOKEN + 4)  # sent at once, so it comes in one piece
            if hmac.compare_digest(hello[:_TOKEN], token):
                process = int.from_bytes(hello[_TOKEN:], "big")
                self._add(connection, process)
                self._follow(connection, process)

    def _add(self, connection: socket.socket, process: int) -> None:
        """From now on, the process is told all; what the others know already, at once."""
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with self._lock:
            self._connections[process] = connection
            with contextlib.suppress(OSError):
                connection.sendall(self._told)

    def _follow(self, connection: socket.socket, process: int) -> None:
        """Hears what a process has to say, until it is gone."""
        left = False
        with contextlib.suppress(OSError), connection.makefile("rb") as file:
            for line in file:
                if line == _BYE:
                    left = True
                else:
                    self._lose(int(line))
        if not left:
            self._lose(process)

    def _lose(self, process: int) -> None:
        with self._lock:
            if self._lost.is_set():
                return
            self._lost.set()
        self._tell(b"%d\n" % process)
        time.sleep(_GRACE)
        if preemption.requested():
            return  # SIGTERM has ended the other, and is about to end this one.
        if not self._failed:
            print(
                f"\nerror: process {process} of {self._processes} was lost; start all of them "
                "again, and they go on from what is saved",
                file=sys.stderr,
            )
        _end()

    def _tell(self, line: bytes) -> None:
        with self._lock:
            self._told += line
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.sendall(line)


def _end() -> None:
    """Ends the process without JAX's shutdown, which waits for the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(1)


@contextlib.contextmanager
def _relayed() -> Iterator[list[str]]:
    """While it lasts, gRPC's new connections lead through this process; hosts they lead to."""
    hosts, ended = [], threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    proxy = {"grpc_proxy": f"http://127.0.0.1:{server.getsockname()[1]}", "no_grpc_proxy": ""}
    before = {name: os.environ.get(name) for name in proxy}

    def accept():
        for client in _accepted(server, ended.is_set):
            _start(_relay, client, hosts, ended.is_set)

    _start(accept)
    os.environ.update(proxy)
    try:
        yield hosts
    finally:
        ended.set()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _relay(client: socket.socket, hosts: list[str], ended: Callable[[], bool]) -> None:
    """Connects a client to where its HTTP request CONNECT wants to."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        if not (part := client.recv(4096)):
            return
        request += part
    host, _, port = request.split()[1].decode().rpartition(":")
    hosts.append(host.strip("[]"))
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not ended():  # Process 0 may start later than others.
        with contextlib.suppress(OSError):
            server = socket.create_connection((hosts[-1], port), timeout=_CONNECT)
            break
        time.sleep(0.2)
    else:
        return
    server.settimeout(None)
    for connection in (client, server):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _start(_pass_on, server, client)
    with client, server:
        _pass_on(client, server)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Until the source ends, even when the sink has."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            with contextlib.suppress(OSError):
                sink.sendall(data)


def _listen() -> socket.socket:
    """A server on all interfaces, for IPv6 and IPv4 where there are both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accepted(server: socket.socket, ended: Callable[[], bool]) -> Iterator[socket.socket]:
    """The connections to a server, until it has ended; then it is closed."""
    server.settimeout(0.2)
    with server:
        while not ended():
            with contextlib.suppress(TimeoutError):
                yield server.accept()[0]


def _start(work: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True, name="lifeline").start()
