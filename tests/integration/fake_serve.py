"""A router whose workers have the fake core: `python fake_serve.py CONFIG [--takeover]`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from router import app, supervisor  # noqa: E402
from router.config import load_config  # noqa: E402

if __name__ == "__main__":
    supervisor.build_tables = lambda config, slots: (config, slots)
    path = Path(sys.argv[1])
    sys.exit(
        app.serve(
            load_config(path),
            config_path=path,
            takeover="--takeover" in sys.argv,
            command=[sys.executable, str(Path(__file__).with_name("fake_worker.py"))],
        )
    )
