"""Tells systemd (Type=notify) where the service is: READY, RELOADING, STOPPING, MAINPID, WATCHDOG.

One datagram to the socket named by NOTIFY_SOCKET; without that variable nothing happens. Never fails a
caller: a service manager that does not listen must not stop traffic.
"""

import contextlib
import os
import socket


def notify(*assignments: str) -> None:
    """Sends assignments such as `READY=1` or `STATUS=...` in one message."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Abstract namespace, as sd_notify(3) spells it.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.sendto("\n".join(assignments).encode(), address)


def watchdog_interval_s() -> float | None:
    """How often to send WATCHDOG=1 (half of what systemd allows), or None when it does not ask for it."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(allowed_us) / 2_000_000 if allowed_us.isdigit() and for_us else None
