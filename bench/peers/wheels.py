"""Proxies that come as Python wheels, each in a virtual environment of its own below the user's cache folder.

They never enter the project's environment: their pins would fight with ours, and what is measured must not
depend on them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

INSTALL_SECONDS_MAX = 900  # LiteLLM's proxy pulls about a hundred packages


def wheel_folder(name: str) -> Path:
    """Where a wheel's environment is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fairlead" / "peers" / name


def missing_wheel(name: str, requirement: str, probe: str, installs: bool) -> str | None:
    """None when `probe`, a path in the environment, is there (installed now, if asked); else what to do."""
    folder = wheel_folder(name)
    done = folder / "installed"  # written last: an installation cut short is done again
    if done.exists() and done.read_text() == requirement and list(folder.glob(probe)):
        return None
    if not installs:
        return f"pip install {requirement!r} is allowed with --install"
    print(f"bench: installing {requirement} into {folder} (once)", file=sys.stderr, flush=True)
    try:
        venv.create(folder, symlinks=True, with_pip=False)
        subprocess.run(
            [
                sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"),
                "install", "--quiet", "--disable-pip-version-check", requirement,
            ],
            check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as exc:
        words = str(getattr(exc, "stderr", "") or exc).strip().splitlines()
        return f"pip cannot install {requirement}: {words[-1] if words else exc}"
    if not list(folder.glob(probe)):
        return f"{requirement} has no {probe}"
    done.write_text(requirement)
    return None


def wheel_version(name: str, distribution: str) -> str:
    """The installed version of a distribution in a wheel's environment."""
    for path in wheel_folder(name).glob(
        f"lib/python*/site-packages/{distribution.replace('-', '_')}-*.dist-info"
    ):
        return path.name.removesuffix(".dist-info").rpartition("-")[2]
    return "?"
