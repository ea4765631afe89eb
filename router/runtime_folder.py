"""The folder of Unix sockets: private to the user whose processes meet there.

Invariant: nobody else can write it, so that whoever answers at a socket in it is ours. Neighbours:
takeover.py, control/settings.py.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class RuntimeFolderError(Exception):
    """The folder cannot be used; the message says why and what to do."""


def runtime_folder(configured: str | None) -> Path:
    """The configured folder, else `$XDG_RUNTIME_DIR/fairlead`, else this user's below the temporary one.

    Raises: RuntimeFolderError when it cannot be private to this user.
    """
    if configured:
        folder = Path(configured)
    elif os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "fairlead"
    else:
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"fairlead-{os.getuid()}"  # noqa: S108 - checked below
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
    except OSError as exc:
        raise RuntimeFolderError(
            f"cannot use the runtime folder {folder}: {exc.strerror}; set runtime_dir"
        ) from exc
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise RuntimeFolderError(
            f"the runtime folder {folder} must be a folder that only this user can write; "
            "set runtime_dir to another one, or correct its owner and mode"
        )
    return folder
