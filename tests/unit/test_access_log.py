"""Access-log lines get out whole and in order, and nothing that is wrong with their reader reaches the
caller.
"""

import fcntl
import os
import select
from pathlib import Path

import pytest

from router.access_log import PIPE_WRITE_BYTES_MAX, AccessLog

BOUND_S = 30.0
PIPE_BYTES = 4096  # the smallest a pipe can be made


def test_lines_reach_the_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path))
    for index in range(100):
        log.write(b"line %d\n" % index)
    assert log.close(BOUND_S)
    assert path.read_bytes() == b"".join(b"line %d\n" % index for index in range(100))
    assert log.take_dropped() == 0


def test_an_existing_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    log = AccessLog(str(path))
    log.write(b"after\n")
    assert log.close(BOUND_S)
    assert path.read_bytes() == b"before\nafter\n"


def test_a_stalled_pipe_drops_and_counts_and_never_blocks(tmp_path: Path) -> None:
    path, reader = _stalled_pipe(tmp_path)
    log = AccessLog(str(path), buffer_bytes_max=10_000)
    line = b"x" * 99 + b"\n"
    for _ in range(1000):  # 100 kB into a pipe of 4 KiB that nobody reads: this returns all the same
        log.write(line)
    dropped_count = log.take_dropped()
    assert 1000 - (PIPE_BYTES + 10_000) // 100 - 1 <= dropped_count < 1000
    received = _read_all(reader, (1000 - dropped_count) * 100)
    assert received == line * (1000 - dropped_count)
    assert log.close(BOUND_S)
    assert log.take_dropped() == 0
    os.close(reader)


def test_closing_with_a_stalled_reader_ends_within_its_bound(tmp_path: Path) -> None:
    path, reader = _stalled_pipe(tmp_path)
    log = AccessLog(str(path), buffer_bytes_max=100_000)
    for _ in range(100):
        log.write(b"x" * 99 + b"\n")
    assert not log.close(timeout_s=0.01)
    os.close(reader)  # The writer's thread ends with EPIPE.
    assert log.close(BOUND_S)
    assert log.take_dropped() > 0


def test_a_full_disk_drops_and_counts() -> None:
    log = AccessLog("/dev/full")
    log.write(b"one\ntwo\n")
    log.write(b"three\n")
    assert log.close(BOUND_S)
    assert log.take_dropped() == 3


def test_lines_after_close_are_dropped_and_counted(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    assert log.close(BOUND_S)
    log.write(b"late\n")
    assert log.take_dropped() == 1


def test_after_rotation_lines_go_to_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path))
    log.write(b"old\n")
    _wait_for_content(path, b"old\n")
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.write(b"new\n")
    assert log.close(BOUND_S)
    assert (tmp_path / "log.1").read_bytes() == b"old\n"
    assert path.read_bytes() == b"new\n"


def test_a_file_that_cannot_be_reopened_stays_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    log = AccessLog(str(folder / "log"))
    moved = tmp_path / "moved"
    folder.rename(moved)
    log.reopen()
    log.write(b"line\n")
    assert log.close(BOUND_S)
    assert (moved / "log").read_bytes() == b"line\n"


def test_a_path_that_cannot_be_opened_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        AccessLog(str(tmp_path / "none" / "log"))


def test_a_pipe_without_a_reader_is_opened_at_once_and_written_once_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = AccessLog(str(path))  # returns
    log.write(b"nobody hears this\n")
    log.reopen()
    for _ in range(3000):
        if log._dropped_count:
            break
        select.select([], [], [], 0.01)
    assert log.take_dropped() == 1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.write(b"heard\n")
    assert _read_all(reader, 6) == b"heard\n"
    assert log.close(BOUND_S)
    os.close(reader)


def test_a_pipe_is_written_in_atomic_pieces_of_whole_lines(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    piped = AccessLog(str(fifo))
    batch = b"".join(b"%04d " % index + b"x" * (index % 300) + b"\n" for index in range(200))
    pieces = piped._pieces(batch)
    assert b"".join(pieces) == batch
    assert all(len(piece) <= PIPE_WRITE_BYTES_MAX and piece.endswith(b"\n") for piece in pieces)
    long_line = b"y" * 10_000 + b"\n"
    assert piped._pieces(b"short\n" + long_line + b"short\n") == [b"short\n", long_line, b"short\n"]
    assert log._pieces(batch) == [batch]
    assert piped.close(BOUND_S)
    assert log.close(BOUND_S)
    os.close(reader)


def _stalled_pipe(tmp_path: Path) -> tuple[Path, int]:
    """A small fifo with a reader that reads only when told."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return path, reader


def _read_all(fd: int, size: int) -> bytes:
    received = b""
    while len(received) < size:
        assert select.select([fd], [], [], BOUND_S)[0]
        received += os.read(fd, 65536)
    return received


def _wait_for_content(path: Path, content: bytes) -> None:
    for _ in range(3000):
        if path.read_bytes() == content:
            return
        select.select([], [], [], 0.01)
    raise AssertionError(f"{path} never held {content!r}")
