"""The store under real processes: a writer that is killed, a file that is locked, damaged, or made anew."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control import audit
from control.client import ControlClientError
from control.sqlite_store import SqliteStore
from tests.integration.processes import BOUND_S, ROOT
from tests.integration.test_control_process import ControlProcess

KILLS = 12
POLICY = 'pools: [{name: p, endpoints: [{url: "http://127.0.0.1:9"}]}]\n'


def write_until_killed(path: Path, change_count: int) -> int:
    """The last change that a writer said was done; it is killed in the midst of those that follow."""
    command = (sys.executable, "-m", "tests.support.store_writer", str(path))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _change in range(change_count):
            assert writer.stdout.readline()
        writer.kill()
        said = writer.stdout.read().split()
        writer.wait(BOUND_S)
    return int(said[-1]) if said else 0


async def found_in(path: Path) -> tuple[int, int, int, dict[str, bytes], list[str]]:
    store = SqliteStore(path)
    await store.open()
    check = await audit.check_chain(store)
    state, versions, items = await store.state(), await store.versions(1), await store.items("count")
    await store.close()
    return state.revision, versions[0].number, check.count, items, check.faults


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_changes_and_none_that_it_said_is_lost(
    tmp_path: Path,
) -> None:
    path, before = tmp_path / "s", 0
    for kill in range(KILLS):
        said = write_until_killed(path, 1 + kill % 4)
        revision, newest, record_count, items, faults = asyncio.run(found_in(path))
        assert faults == []
        assert revision >= max(said, before + 1 + kill % 4)
        assert (newest, record_count, items) == (revision, revision, {"last": str(revision).encode()})
        before = revision


def test_control_serves_what_it_has_while_its_store_is_locked_says_so_and_recovers(tmp_path: Path) -> None:
    control = ControlProcess(tmp_path)
    control.start()
    try:
        pushed = {"source": POLICY, "file": "f.yaml", "message": "first"}
        control.ask("POST", "/v1/versions", body=pushed)
        control.ask("POST", "/v1/policy/activate", body={"version": 1, "message": ""})
        holder = sqlite3.connect(tmp_path / "state" / "control.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for path, body in (("/v1/versions", pushed), ("/v1/policy/freeze", {"message": ""})):
            with pytest.raises(ControlClientError) as caught:
                control.ask("POST", path, body=body)
            assert caught.value.status == 503
            assert "another program has the file locked" in str(caught.value)
        assert control.ask("GET", "/v1/policy")["stable"] == 1
        assert [row["version"] for row in control.ask("GET", "/v1/versions")["versions"]] == [1]
        assert control.ask("GET", "/v1/versions/1")["source"] == POLICY
        assert control.ask("GET", "/v1/audit/verify")["is_whole"]
        assert "another program has the file locked" in control.ask("GET", "/v1/status")["store"]
        holder.close()
        assert control.ask("GET", "/v1/status")["store"] == "ok"
        control.ask("POST", "/v1/policy/freeze", body={"message": ""})
    finally:
        control.kill()


def test_control_does_not_start_on_a_damaged_store_and_says_which_and_what_to_do(tmp_path: Path) -> None:
    control = ControlProcess(tmp_path)
    store = tmp_path / "state" / "control.sqlite"
    store.parent.mkdir()
    store.write_bytes(b"pools: []\n" * 1000)
    process = control.start(wait=False)
    assert process.wait(BOUND_S) == 1
    assert f"{store}: the file is no store: restore a copy" in control.log()
    assert store.read_bytes() == b"pools: []\n" * 1000


def test_an_export_shows_that_the_chain_was_made_anew(tmp_path: Path) -> None:
    policy, exported = tmp_path / "p.yaml", tmp_path / "audit.jsonl"
    policy.write_text(POLICY)
    folders = [tmp_path / name for name in ("one", "two")]
    controls = []
    for folder in folders:
        folder.mkdir()
        control = ControlProcess(folder)
        control.start()
        controls.append(control)
        control.command("policy", "push", str(policy), "-m", folder.name)
        control.command("policy", "activate", "1")
    try:
        first, second = controls
        exported.write_text(first.command("audit", "export"))
        first.command("policy", "freeze")
        assert "is whole" in first.command("audit", "verify", "--export", str(exported))
        assert "was made anew" in second.command("audit", "verify", "--export", str(exported), status=1)
        exported.write_text(exported.read_text().replace('"push"', '"pull"'))
        told: Any = first.command("audit", "verify", "--export", str(exported), status=1)
        assert "in the export: record 1 was altered" in told
    finally:
        for control in controls:
            control.kill()
