"""A Unix socket that only this user can connect to.

Invariant: its file never has another mode, not even for a moment. Neighbours: link.py and api/server.py
listen on such sockets.
"""

from __future__ import annotations

import contextlib
import os
import socket


def unix_listener(path: str) -> socket.socket:
    """Bound and not yet listening; the file of a control that is gone gives way. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), 0o600)  # Linux gives the file the socket's mode
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock
