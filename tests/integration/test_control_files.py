"""Files as real file systems and people change them: links swapped over and over, and nothing ever lost."""

import asyncio
import os
from pathlib import Path

from control.discovery.file import FileSource
from control.discovery.sets import Board, EndpointSet, fold
from control.discovery.settings import DiscoverySettings
from control.discovery.watch import Discovery
from control.supervision import Supervision


def publish_as_config_map(folder: Path, generation: int, text: str) -> None:
    """As the kubelet does: a new folder, `..data` swapped to it by a rename, the old one removed."""
    new = folder / f"..{generation}"
    new.mkdir()
    (new / "endpoints.yaml").write_text(text)
    swap = folder / "..data_tmp"
    swap.symlink_to(new.name)
    os.rename(swap, folder / "..data")
    old = folder / f"..{generation - 1}"
    if old.exists():
        (old / "endpoints.yaml").unlink()
        old.rmdir()
    link = folder / "endpoints.yaml"
    if not link.is_symlink():
        link.symlink_to("..data/endpoints.yaml")


def text_of(generation: int) -> str:
    hosts = ["stays", "also", f"n{generation}"]
    return "endpoints:\n" + "".join(f"- url: http://{host}:1\n" for host in hosts)


def test_links_may_be_swapped_at_any_moment_and_no_set_is_half_or_missing(tmp_path: Path) -> None:
    """Whoever swaps runs in a thread, as fast as it can, while the file is looked at."""
    publish_as_config_map(tmp_path, 0, text_of(0))

    async def scenario() -> list[EndpointSet]:
        sets: list[EndpointSet] = []
        swaps_are_done = asyncio.Event()

        async def pause(_seconds: float) -> None:
            await asyncio.sleep(0)

        def swap_on() -> None:
            for generation in range(1, 300):
                publish_as_config_map(tmp_path, generation, text_of(generation))

        async def swap() -> None:
            await asyncio.to_thread(swap_on)
            swaps_are_done.set()

        last = asyncio.Event()

        def take(told: EndpointSet) -> None:
            sets.append(told)
            if any(endpoint.name == "n299:1" for endpoint in told.endpoints):
                last.set()

        path = str(tmp_path / "endpoints.yaml")
        source = FileSource("file", "p", path, now=lambda: 0.0, sleep=pause)
        task = asyncio.create_task(source.run(take))
        await swap()
        await last.wait()
        task.cancel()
        return sets

    sets = asyncio.run(scenario())
    board = Board()
    for told in sets:
        board = fold(board, told)
        if not told.is_stale:
            assert [endpoint.name for endpoint in told.endpoints][:2] == ["stays:1", "also:1"]
            assert len(told.endpoints) == 3
        assert {"stays:1", "also:1"} <= {endpoint.name for endpoint in board.sources["file"].endpoints}
    assert not board.sources["file"].is_stale


def test_a_change_of_a_file_is_published(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(text_of(0))

    async def scenario() -> None:
        published: asyncio.Queue[list[str]] = asyncio.Queue()

        def publish(board: Board) -> None:
            published.put_nowait([endpoint.name for endpoint in board.sources["file"].endpoints])

        supervision = Supervision()
        source = FileSource("file", "p", str(path), interval_s=0.02, now=lambda: 0.0, sleep=asyncio.sleep)
        discovery = Discovery(DiscoverySettings(), [source], publish=publish, supervision=supervision)
        discovery.start()
        assert await published.get() == ["also:1", "n0:1", "stays:1"]
        path.write_text("endpoints: [")
        while not discovery.board.sources["file"].is_stale:
            await asyncio.sleep(0.01)
        path.write_text(text_of(1))
        assert await published.get() == ["also:1", "n1:1", "stays:1"]
        assert published.empty()
        await supervision.close()

    asyncio.run(scenario())
