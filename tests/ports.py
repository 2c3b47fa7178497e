"""Addresses for processes that compute together."""

from __future__ import annotations

import socket


def reserve_address():
    """`HOST:PORT`, and a socket: until it is closed, only JAX's coordinator can have the port."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("localhost", 0))
    return f"localhost:{held.getsockname()[1]}", held
