"""Which build this is: one line for `fairlead --version`, bug reports and the `build_info` metric."""

from __future__ import annotations

import platform
import ssl
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def package_version() -> str:
    """The distribution's version, or "unknown" when it runs from a tree that was never installed."""
    try:
        return version("fairlead")
    except PackageNotFoundError:
        return "unknown"


def build_info() -> str:
    """Version, interpreter, native part and the libraries whose version matters to a bug report."""
    native = find_spec("router._fastpath")
    parts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"native {platform.machine()}" if native else "native part not built",
        f"uvloop {version('uvloop')}",
        f"aiohttp {version('aiohttp')}",
        ssl.OPENSSL_VERSION,
    ]
    return f"fairlead {package_version()} ({', '.join(parts)})"
