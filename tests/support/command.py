"""`fairlead` in this process, from the top.

click keeps a command's help option as it was first asked for: a command called past `main` would change what
the reference page says of it.
"""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from router.cli import main


def run_command(*words: str | Path, **environ: str) -> Result:
    """`fairlead WORDS`, with `environ` added to the environment."""
    return CliRunner().invoke(main, [str(word) for word in words], env=environ, prog_name="fairlead")
