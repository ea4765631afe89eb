"""A process that changes a store without a pause and says the number of each change once it is done; to be
killed.
"""

import asyncio
import sys
from pathlib import Path

from control.sqlite_store import SqliteStore
from control.store import Entry, Version


async def main(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    while True:
        state = await store.state()
        number = state.revision + 1
        version = Version(
            number=number,
            hash=str(number),
            parent=number - 1,
            author="a",
            message="",
            created_at=0.0,
            file="f",
            source="s" * 20_000,
            document=b"d" * 20_000,
        )
        entry = Entry(actor="a", action="push", old="", new=str(number), why="")
        await store.change(state, entry, version, {("count", "last"): str(number).encode()})
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
