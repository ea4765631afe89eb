"""Access-log lines on their way out: bytes from the native core to a file or stdout, off the event loop.

The loop hands finished lines over and never waits; one thread writes. Invariant: at most `buffer_bytes_max`
wait; what does not fit, or what a full disk refuses, is dropped and counted, and a line is written whole or
not at all (as far as the kernel lets us). Neighbours: worker.py feeds it from `core.take_log()`; the
supervisor asks for `reopen` after log rotation (SIGUSR1).
"""

import contextlib
import logging
import os
import stat
import threading
from collections import deque

from router import limits
from router.schema.config import STDOUT_NAMES

# POSIX: a write of at most PIPE_BUF bytes to a pipe is never interleaved with another process's.
PIPE_WRITE_BYTES_MAX = 4096
FLUSH_TIMEOUT_S = (
    1.0  # at exit: a healthy disk needs milliseconds for the whole buffer, a stalled pipe never ends
)

logger = logging.getLogger(__name__)


class AccessLog:
    """A bounded queue of whole lines and the thread that writes them to `path`, a file or of STDOUT_NAMES."""

    def __init__(self, path: str, buffer_bytes_max: int = limits.ACCESS_LOG_BUFFER_BYTES_DEFAULT) -> None:
        self._path = "" if path in STDOUT_NAMES else path
        self._buffer_bytes_max = buffer_bytes_max
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped_count = 0
        self._reopen = False
        self._closing = False
        self._torn = False  # the last thing written was part of a line
        self._broken = False  # already said in the log
        self._changed = threading.Condition()
        self._fd = self._open()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Takes complete lines; never blocks. What does not fit is dropped and counted."""
        if not lines:
            return
        with self._changed:
            if self._closing or self._waiting_bytes + len(lines) > self._buffer_bytes_max:
                self._dropped_count += lines.count(b"\n")
                return
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            self._changed.notify()

    def take_dropped(self) -> int:
        """Lines dropped since the last call."""
        with self._changed:
            count, self._dropped_count = self._dropped_count, 0
            return count

    def reopen(self) -> None:
        """Opens the file by its name again before the next line is written."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Writes what waits, for `timeout_s` at most; whether everything got out."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _open(self) -> int:
        if not self._path:
            return 1
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(os.stat(self._path).st_mode):
                    # To open a named pipe for writing waits for its reader (fifo(7)): be that for a moment.
                    held.callback(os.close, os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._reopen or self._closing):
                    self._changed.wait()
                if self._closing and not self._waiting:
                    break
                batch = b"".join(self._waiting)
                self._waiting.clear()
                reopen, self._reopen = self._reopen, False
            if reopen:
                self._reopen_now()
            dropped_count = self._write_out(batch)
            with self._changed:
                # Only now: what the thread still holds counts against the bound.
                self._waiting_bytes -= len(batch)
                self._dropped_count += dropped_count
        if self._path:
            os.close(self._fd)

    def _reopen_now(self) -> None:
        if not self._path:
            return
        try:
            fd = self._open()
        except OSError as exc:
            logger.error(
                "access log %s: cannot reopen (%s); the old file stays in use", self._path, exc.strerror
            )
            return
        os.close(self._fd)
        self._fd = fd
        self._torn = False

    def _write_out(self, batch: bytes) -> int:
        """Writes whole lines; returns how many were lost."""
        dropped_count = 0
        for piece in self._pieces(batch):
            data = memoryview(b"\n" + piece if self._torn else piece)
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._fd, data[written:])
            except OSError as exc:
                self._torn = self._torn or (written > 0 and data[written - 1] != 0x0A)
                dropped_count += bytes(data[written:]).count(b"\n")
                self._report(exc)
                continue
            self._torn = False
            self._broken = False
        return dropped_count

    def _pieces(self, batch: bytes) -> list[bytes]:
        """One write each: the whole batch for a file, at most a pipe's atomic size otherwise."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            return [batch] if batch else []
        pieces: list[bytes] = []
        start = 0
        while start < len(batch):
            end = start + PIPE_WRITE_BYTES_MAX
            if end < len(batch):
                # No line end inside the bound: an overlong line goes out alone.
                end = batch.rfind(b"\n", start, end) + 1 or (batch.find(b"\n", start) + 1) or len(batch)
            pieces.append(batch[start:end])
            start = end
        return pieces

    def _report(self, exc: OSError) -> None:
        if not self._broken:
            self._broken = True
            logger.error(
                "access log %s: cannot write (%s); lines are dropped and counted until it works again",
                self._path or "stdout",
                exc.strerror,
            )
