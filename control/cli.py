"""The commands that talk to a running control: options in, one call, what came back, exit code.

Data goes to standard output, as tables for people or with `--json` as the API has it; errors to standard
error. Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 somebody else was first (a conflict).
Neighbours: client.py (the call), api/ (the other end), run_cli.py (the process itself).
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from control.audit import ChainCheck
from control.client import ControlClient, ControlClientError
from control.settings import default_api_address
from router.runtime_folder import RuntimeFolderError

EXIT_CONFLICT = 3
WAIT_MS = 5_000  # for routers: many times what one needs

Command = TypeVar("Command", bound=Callable[..., Any])


def _asked(command: Command) -> Command:
    """The options of every command that asks control."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The API's answer as it is."),
        click.option("--ca-file", envvar="FAIRLEAD_CONTROL_CA_FILE", help="Authorities of its certificate."),
        click.option(
            "--token", envvar="FAIRLEAD_CONTROL_TOKEN", default="", help="Needed over TCP.", metavar="TOKEN"
        ),
        click.option(
            "--control",
            "address",
            envvar="FAIRLEAD_CONTROL",
            metavar="ADDRESS",
            help="unix:/path, host:port or https://host:port.  [default: the control of this machine]",
        ),
    ):
        command = option(command)
    return command


def _message(command: Command) -> Command:
    return click.option("-m", "--message", default="", help="Why; kept in the audit record.")(command)


def _ask(
    where: dict[str, Any], method: str, path: str, *, body: Any = None, query: dict[str, str] | None = None
) -> Any:
    try:
        address = where["address"] or default_api_address()
        client = ControlClient(address, token=where["token"], ca_file=where["ca_file"])
        return client.call(method, path, body=body, query=query)
    except ControlClientError as exc:
        click.echo(f"fairlead: {exc}", err=True)
        for line in _detail_lines(exc.detail):
            click.echo(f"  {line}", err=True)
        sys.exit(EXIT_CONFLICT if exc.status == 409 else 1)
    except (RuntimeFolderError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


def _detail_lines(detail: Any) -> Iterable[str]:
    if isinstance(detail, list):
        return [item if isinstance(item, str) else json.dumps(item) for item in detail]
    return [] if detail is None else [json.dumps(detail)]


def _show(answer: Any, as_json: bool, lines: Callable[[Any], Iterable[str]]) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for line in lines(answer):
            click.echo(line)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Columns as wide as they need to be, two blanks apart."""
    texts = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


# ---- policy


@click.group()
def policy() -> None:
    """Versions of the policy: keep, compare, put in force, take back.

    \b
    fairlead policy push policy.yaml -m "two more endpoints"
    fairlead policy canary 4 --ratio 0.1
    fairlead policy promote
    fairlead policy rollback -m "TTFT doubled"
    """


@policy.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_asked
def validate(file: Path, as_json: bool, **where: Any) -> None:
    """Check FILE against the fleet as it is now; changes nothing."""
    answer = _ask(where, "POST", "/v1/validate", body={"source": file.read_text(), "file": str(file)})

    def lines(found: Any) -> Iterable[str]:
        for finding in found["findings"]:
            yield f"{finding['severity']}: {finding['path']}: {finding['message']}".replace(": : ", ": ")
        if found["left_out"]:
            yield f"note: each router's own, left out of versions: {', '.join(found['left_out'])}"
        if not found["findings"]:
            yield "no problem found"

    _show(answer, as_json, lines)
    if any(finding["severity"] == "error" for finding in answer["findings"]):
        sys.exit(1)


@policy.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--parent", type=int, help="The newest version you have seen; a newer one is a conflict.")
@click.option("--activate", is_flag=True, help="And put it in force at once.")
@_message
@_asked
def push(file: Path, parent: int | None, activate: bool, message: str, as_json: bool, **where: Any) -> None:
    """Keep FILE as the next version. It is not in force before it is activated."""
    body = {"source": file.read_text(), "file": str(file), "message": message or _who()}
    if parent is not None:
        body |= {"parent": parent}  # type: ignore[dict-item]
    answer = _ask(where, "POST", "/v1/versions", body=body)
    _show(answer, as_json, lambda row: [f"version {row['version']}, {row['hash'][:12]}"])
    if activate:
        _change(where, as_json, "activate", {"version": answer["version"], "message": message})


def _who() -> str:
    return f"pushed by {getpass.getuser()}"


@policy.command()
@click.argument("old", type=int, default=0)
@click.argument("new", type=int, default=0)
@_asked
def diff(old: int, new: int, as_json: bool, **where: Any) -> None:
    """What version NEW (the newest) changes of version OLD (what is in force)."""
    answer = _ask(where, "GET", "/v1/diff", query={"old": str(old), "new": str(new)})
    _show(
        answer,
        as_json,
        lambda found: found["lines"] or [f"versions {found['old']} and {found['new']} are equal"],
    )


@policy.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@_asked
def list_versions(limit: int, as_json: bool, **where: Any) -> None:
    """Versions, the newest first."""
    answer = _ask(where, "GET", "/v1/versions", query={"limit": str(limit)})
    _show(
        answer,
        as_json,
        lambda page: _table(
            ("version", "state", "hash", "when", "author", "message"),
            (
                (
                    row["version"],
                    row["state"],
                    row["hash"][:12],
                    row["created_at"],
                    row["author"],
                    row["message"],
                )
                for row in page["versions"]
            ),
        ),
    )


@policy.command()
@click.argument("version", type=int, required=False)
@_asked
def show(version: int | None, as_json: bool, **where: Any) -> None:
    """VERSION as it was pushed; without one, what is in force and how far it has come."""
    if version is None:
        _show(_ask(where, "GET", "/v1/policy"), as_json, _policy_lines)
        return
    answer = _ask(where, "GET", f"/v1/versions/{version}")
    head = "# version {version}, {hash:.12}, {created_at}, {author}: {message}"
    _show(answer, as_json, lambda row: [head.format(**row), row["source"].rstrip("\n")])


@policy.command()
@click.argument("version", type=int)
@_message
@_asked
def activate(version: int, message: str, as_json: bool, **where: Any) -> None:
    """Put VERSION in force on every router, and wait until the connected ones have it."""
    _change(where, as_json, "activate", {"version": version, "message": message})


@policy.command()
@click.argument("version", type=int)
@click.option(
    "--ratio", type=click.FloatRange(0, 1, min_open=True), required=True, help="Share of the sessions."
)
@_message
@_asked
def canary(version: int, ratio: float, message: str, as_json: bool, **where: Any) -> None:
    """Give VERSION to a share of the sessions; the guard takes it back when it does worse."""
    _change(where, as_json, "canary", {"version": version, "ratio": ratio, "message": message})


@policy.command()
@_message
@_asked
def promote(message: str, as_json: bool, **where: Any) -> None:
    """Put the canary in force for everybody."""
    _change(where, as_json, "promote", {"message": message})


@policy.command()
@click.argument("version", type=int, required=False)
@_message
@_asked
def rollback(version: int | None, message: str, as_json: bool, **where: Any) -> None:
    """Go back to what was in force before, or to VERSION."""
    body = {"message": message} if version is None else {"message": message, "version": version}
    _change(where, as_json, "rollback", body)


@policy.command()
@_message
@_asked
def freeze(message: str, as_json: bool, **where: Any) -> None:
    """Refuse changes until `unfreeze`; a rollback stays possible."""
    _change(where, as_json, "freeze", {"message": message})


@policy.command()
@_message
@_asked
def unfreeze(message: str, as_json: bool, **where: Any) -> None:
    """Allow changes again."""
    _change(where, as_json, "unfreeze", {"message": message})


def _change(where: dict[str, Any], as_json: bool, what: str, body: dict[str, Any]) -> None:
    answer = _ask(where, "POST", f"/v1/policy/{what}", body=body | {"wait_ms": WAIT_MS})
    _show(answer, as_json, _policy_lines)
    if answer["waited_ms"] and answer["routers_applied"] < answer["routers_connected"]:
        click.echo("fairlead: not every router has it: `fairlead routers` says why", err=True)
        sys.exit(1)


def _policy_lines(state: Any) -> Iterable[str]:
    stable = f"version {state['stable']}" if state["stable"] else "nothing"
    yield f"in force: {stable}, sequence {state['sequence']}" + (", frozen" if state["is_frozen"] else "")
    if state["canary"] is not None:
        yield f"canary: version {state['canary']} for {state['canary_ratio']:.1%} of the sessions"
    if state["guard"]:
        yield f"guard: {state['guard']}"
    waited = f", {state['waited_ms']:.0f} ms" if state["waited_ms"] else ""
    yield f"routers: {state['routers_applied']} of {state['routers_connected']} have it{waited}"


# ---- routers, status, audit


@click.command()
@_asked
def routers(as_json: bool, **where: Any) -> None:
    """The connected routers, and what is in force there."""
    answer = _ask(where, "GET", "/v1/routers")
    _show(
        answer,
        as_json,
        lambda found: _table(
            ("router", "region", "sequence", "current", "applied in", "lag", "refusal"),
            (
                (
                    row["router"],
                    row["region"] or "-",
                    row["sequence"],
                    "yes" if row["is_current"] else "no",
                    f"{row['apply_ms']:.1f} ms",
                    f"{row['loop_lag_ms']:.1f} ms",
                    row["refusal"] or "-",
                )
                for row in found["routers"]
            ),
        ),
    )


@click.command()
@_asked
def status(as_json: bool, **where: Any) -> None:
    """Control at a glance."""

    def lines(found: Any) -> Iterable[str]:
        yield f"{found['name']}, release {found['release']}, up {found['uptime_s']} s, store {found['store']}"
        yield from _policy_lines(found["policy"])
        if found["public_key"]:
            yield f"signs with {found['public_key']}"
        yield from (f"task {name} failed {count} times" for name, count in found["tasks"].items() if count)

    _show(_ask(where, "GET", "/v1/status"), as_json, lines)


@click.group()
def audit() -> None:
    """Who changed what, when and why: a chain of records that shows when one is altered."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@_asked
def list_audit(limit: int, as_json: bool, **where: Any) -> None:
    """Records, the newest first."""
    answer = _ask(where, "GET", "/v1/audit", query={"limit": str(limit)})
    _show(
        answer,
        as_json,
        lambda page: _table(
            ("number", "when", "who", "what", "from", "to", "why"),
            (
                (
                    row["number"],
                    row["at"][:19],
                    row["actor"],
                    row["action"],
                    row["old"],
                    row["new"],
                    row["why"],
                )
                for row in page["records"]
            ),
        ),
    )


@audit.command()
@click.option(
    "--export", "exported", type=click.File("rb"), help="An export: the chain must still begin with it."
)
@_asked
def verify(exported: BinaryIO | None, as_json: bool, **where: Any) -> None:
    """Whether no record was altered, removed or moved. Exit code 1 if one was."""
    answer = _ask(where, "GET", "/v1/audit/verify")
    if exported is not None:
        faults = [f"in the export: {fault}" for fault in _export_faults(exported, where)]
        answer["faults"] += faults
        answer["is_whole"] = answer["is_whole"] and not faults
    whole = "the chain of {records} records is whole"
    _show(answer, as_json, lambda found: [whole.format(**found)] if found["is_whole"] else found["faults"])
    if not answer["is_whole"]:
        sys.exit(1)


def _export_faults(exported: BinaryIO, where: dict[str, Any]) -> Iterable[str]:
    """What is wrong with an export by itself, and beside the chain of the control that is asked."""
    check = ChainCheck()
    check.take_lines(exported)
    yield from check.faults
    if check.last is None:
        return
    number = check.last.number
    page = _ask(where, "GET", "/v1/audit", query={"limit": "1", "before": str(number + 1)})
    if [(record["number"], record["hash"]) for record in page["records"]] != [(number, check.last.hash)]:
        yield f"record {number} is not the one that control has: one of them was made anew"


@audit.command()
@_asked
def export(as_json: bool, **where: Any) -> None:
    """Every record as a line of JSON, the oldest first."""
    del as_json  # it is JSON either way
    records: list[Any] = []
    before: int | None = None
    while True:
        query = {"limit": "500"} | ({} if before is None else {"before": str(before)})
        page = _ask(where, "GET", "/v1/audit", query=query)
        records += page["records"]
        before = page["next"]
        if before is None:
            break
    for record in reversed(records):
        click.echo(json.dumps(record, ensure_ascii=False))
