"""A file of endpoints: read once it keeps still, kept when it is wrong, and its links may be swapped."""

import asyncio
import os
from pathlib import Path

from control.discovery.file import FileSource
from control.discovery.sets import EndpointSet


def source(path: Path) -> FileSource:
    return FileSource("file", "p", str(path), now=lambda: 7.0, sleep=asyncio.sleep)


def write(path: Path, *hosts: str) -> None:
    path.write_text("endpoints:\n" + "".join(f"- url: http://{host}:1\n" for host in hosts))


def hosts(told: EndpointSet | None) -> list[str] | None:
    return None if told is None else [endpoint.name.removesuffix(":1") for endpoint in told.endpoints]


def until_told(watched: FileSource) -> EndpointSet | None:
    """What it tells within two looks: one sees that there is another file, one that it keeps still."""
    return watched.look() or watched.look()


def test_it_is_read_at_once_and_again_only_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    write(path, "a", "b")
    watched = source(path)
    told = watched.look()
    assert told is not None
    assert (hosts(told), told.source, told.pool, told.at_s, told.is_stale) == (
        ["a", "b"],
        "file",
        "p",
        7.0,
        False,
    )
    assert until_told(watched) is None
    write(path, "a", "b", "c")
    assert watched.look() is None  # it may still be written
    assert hosts(watched.look()) == ["a", "b", "c"]


def test_while_it_keeps_changing_it_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    write(path, "a")
    watched = source(path)
    watched.look()
    for count in range(2, 6):
        write(path, *"abcdef"[:count])
        assert watched.look() is None
    assert hosts(watched.look()) == list("abcde")


def test_an_editors_rename_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    write(path, "a")
    watched = source(path)
    watched.look()
    write(tmp_path / ".swap", "b")
    os.utime(tmp_path / ".swap", ns=(0, path.stat().st_mtime_ns))
    os.rename(tmp_path / ".swap", path)
    assert hosts(until_told(watched)) == ["b"]


def test_half_a_file_is_stale_with_its_place_until_the_rest_is_there(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    write(path, "a")
    watched = source(path)
    watched.look()
    path.write_text("endpoints:\n- url: http://a:1\n- {url: 'http")
    told = until_told(watched)
    assert told is not None
    assert (told.is_stale, told.endpoints) == (True, ())
    assert told.reason.startswith(f"{path}:3:")
    assert until_told(watched) is None  # said once
    write(path, "a", "b")
    told = until_told(watched)
    assert (hosts(told), told and told.is_stale) == (["a", "b"], False)


def test_a_file_that_is_missing_is_stale_and_read_as_soon_as_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    watched = source(path)
    told = watched.look()
    assert told is not None
    assert (told.is_stale, told.reason) == (True, f"{path}: No such file or directory")
    write(path, "a")
    assert hosts(watched.look()) == ["a"]
    path.unlink()
    assert watched.look() is not None
    write(path, "a")
    assert hosts(watched.look()) == ["a"]


def test_an_empty_list_is_a_set_and_an_empty_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text("endpoints: []\n")
    watched = source(path)
    told = watched.look()
    assert (hosts(told), told and told.is_stale) == ([], False)
    for text in (
        "",
        "# only a remark\n",
        "endpoints:\n",
        "other: 1\n",
        "- url: http://a:1\n",
        "\0\0\0",
        "{}",
    ):
        path.write_text(text)
        told = until_told(watched)
        assert told is not None and told.is_stale, text
        path.write_text("endpoints: []\n# again\n")
        assert until_told(watched) is not None


def test_json_is_read_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text('{"endpoints": [{"url": "http://a:1", "models": ["m"]}]}')
    assert hosts(source(path).look()) == ["a"]


def test_a_secret_is_passed_on_as_a_reference_and_refused_when_written_out(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text("endpoints:\n- {url: 'http://a:1', auth: {bearer: '${NOT_SET_HERE}'}}\n")
    watched = source(path)
    told = watched.look()
    assert told is not None
    bearer = told.endpoints[0].auth.bearer
    assert bearer is not None
    assert (bearer.source, bearer.is_known) == ("${NOT_SET_HERE}", False)
    path.write_text("endpoints:\n- {url: 'http://a:1', auth: {bearer: sk-very-secret}}\n")
    told = until_told(watched)
    assert told is not None and told.is_stale
    assert "endpoints[0].auth.bearer: a secret that is written out" in told.reason
    assert "sk-very" not in told.reason


def test_begun_again_it_tells_its_set_again(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    write(path, "a")

    async def first_told(watched: FileSource) -> EndpointSet:
        found: asyncio.Future[EndpointSet] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(watched.run(found.set_result))
        try:
            return await found
        finally:
            task.cancel()

    watched = source(path)
    assert [hosts(asyncio.run(first_told(watched))) for _ in range(2)] == [["a"], ["a"]]
