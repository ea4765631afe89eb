"""A router whose workers have the fake core: `python fake_serve.py CONFIG [--takeover]
[--stuck-after=SECONDS]`.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from router import app, worker_process
from router.config import load_config


def activate_sockets(fds: list[int]) -> None:
    """What systemd does between fork and exec."""
    for target, fd in enumerate(fds, start=3):
        os.dup2(fd, target)
    os.environ |= {"LISTEN_FDS": str(len(fds)), "LISTEN_PID": str(os.getpid())}


if __name__ == "__main__":
    if os.environ.get("FAKE_SERVE_LISTEN_FDS"):
        activate_sockets([int(fd) for fd in os.environ["FAKE_SERVE_LISTEN_FDS"].split(",")])
    for argument in sys.argv:
        if argument.startswith("--stuck-after="):
            worker_process.HEARTBEATS_MISSED_S = float(argument.partition("=")[2])
    path = Path(sys.argv[1])
    sys.exit(
        app.serve(
            load_config(path),
            config_path=path,
            takeover="--takeover" in sys.argv,
            command=[sys.executable, str(Path(__file__).with_name("fake_worker.py"))],
        )
    )
