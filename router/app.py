"""The composition root: puts a router together from its parts, and carries out the commands that talk to a
running one.

The only place that picks concrete classes. Each function is what one subcommand of cli.py does and returns
its exit status. Neighbours: supervisor.py (the router's life), admin.py (its admin port), takeover.py (the
control socket).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

import uvloop

from router import wire
from router.admin import AdminServer
from router.listeners import ListenError
from router.received_policy import Policy, ReceivedPolicies, SnapshotRefusedError, state_path
from router.schema.config import Config
from router.supervisor import StartError, Supervisor
from router.takeover import (
    NobodyThereError,
    TakeoverError,
    ask_takeover,
    connect,
    control_path,
    control_path_of,
)
from router.worker import raise_file_limit, set_up_logging

UPGRADE_TIMEOUT_S = 60.0  # twice what the takeover itself may take
# Of the old process: they say who it was, not how it was started.
VARIABLES_NOT_PASSED_ON = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

logger = logging.getLogger("fairlead")


def serve(
    config: Config,
    *,
    config_path: Path | None = None,
    takeover: bool = False,
    command: Sequence[str] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a router until it is told to stop.

    `command` starts a worker (its channel's descriptor is appended); `arguments` are those of this process,
    for an upgrade.
    """
    set_up_logging()
    raise_file_limit()
    given = list(sys.argv[1:] if arguments is None else arguments)
    return uvloop.run(_serve(config, config_path, takeover, command, given))


def request_reload(*, admin_address: str, runtime_dir: str | None = None) -> int:
    """Has the running router load its configuration again; says how that went."""
    return _run_command(_request_reload(control_path_of(runtime_dir, admin_address)))


def request_upgrade(
    *,
    admin_address: str,
    runtime_dir: str | None = None,
    command: Sequence[str] = (sys.executable, "-m", "router"),
) -> int:
    """Starts this version as the running router was started, and waits until it has taken over."""
    return _run_command(_request_upgrade(control_path_of(runtime_dir, admin_address), command))


async def _serve(
    config: Config,
    config_path: Path | None,
    takeover: bool,
    command: Sequence[str] | None,
    arguments: list[str],
) -> int:
    received, policy = _policies(config)
    supervisor = Supervisor(
        config, policy=policy, config_path=config_path, command=command, arguments=arguments
    )
    if config.control is not None and received is not None:
        supervisor.subscribe(received, config.control, _router_name(config))
    admin = AdminServer(supervisor)
    supervisor.handle_signals()
    predecessor = None
    try:
        if takeover:
            try:
                predecessor = await ask_takeover(control_path(config, config.admin.address))
            except NobodyThereError as exc:
                logger.warning("--takeover: %s; starting afresh", exc)
        admin_sockets = supervisor.open_sockets(predecessor).sockets
        if predecessor is None:
            await admin.start(admin_sockets)  # /livez answers while the workers start
        await supervisor.start()
        if predecessor is not None:
            await supervisor.take_over(predecessor)
            predecessor.close()
            await admin.start(admin_sockets)
        await supervisor.open_control(replaces=predecessor is not None)
    except (ListenError, StartError, TakeoverError) as exc:
        logger.error("cannot start: %s", exc)
        await supervisor.abandon()
        await admin.close()
        return 1
    supervisor.announce()
    await supervisor.stopped()
    await supervisor.drain(admin.close)
    return 0


def _policies(config: Config) -> tuple[ReceivedPolicies | None, Policy | None]:
    """What control has sent before, as far as it is on disk, and the policy to start with."""
    if config.control is None:
        return None, None
    received = ReceivedPolicies(config.control.public_key, state_path(config.control, _router_name(config)))
    try:
        policy = received.restore(config)
    except SnapshotRefusedError as exc:
        logger.error("the last policy cannot be used, starting with what the file says: %s", exc)
        return received, None
    if policy is not None:
        logger.info("starting with the last policy: version %d", policy.stable.version)
    return received, policy


def _router_name(config: Config) -> str:
    named = None if config.control is None else config.control.name
    return named or f"{socket.gethostname()}:{config.admin.address}"


async def _request_reload(path: Path) -> int:
    channel = await connect(path)
    try:
        channel.post(wire.ReloadRequest())
        answer, _ = await channel.receive()
    finally:
        channel.close()
    if isinstance(answer, wire.ReloadAnswer) and answer.ok:
        print(f"reloaded: {answer.message}")  # noqa: T201 - the command's answer
        return 0
    reason = answer.message if isinstance(answer, wire.ReloadAnswer) else "unexpected answer"
    print(f"reload refused, the old configuration stays in force:\n{reason}", file=sys.stderr)  # noqa: T201
    return 1


async def _request_upgrade(path: Path, command: Sequence[str]) -> int:
    channel = await connect(path)
    fds: list[int] = []
    try:
        channel.post(wire.UpgradeRequest())
        plan, fds = await channel.receive()
        if not isinstance(plan, wire.UpgradePlan):
            raise TakeoverError("unexpected answer")
        process = _start_successor(command, plan, fds)
        fds.append(os.pidfd_open(process.pid))
        end_seen = asyncio.Event()
        asyncio.get_running_loop().add_reader(fds[-1], end_seen.set)
        answered = asyncio.ensure_future(channel.receive())
        ended = asyncio.ensure_future(end_seen.wait())
        await asyncio.wait([answered, ended], timeout=UPGRADE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        asyncio.get_running_loop().remove_reader(fds[-1])
        taken_over = answered.done() and not answered.exception()
        if not taken_over:
            process.kill()
            process.wait()
        answered.cancel()
        ended.cancel()
    finally:
        channel.close()
        for fd in fds:
            os.close(fd)
    if taken_over:
        print(f"upgraded: process {process.pid} serves, process {plan.pid} drains")  # noqa: T201
        return 0
    print(  # noqa: T201
        f"upgrade failed, process {plan.pid} goes on serving; the new process wrote why to its log",
        file=sys.stderr,
    )
    return 1


def _start_successor(
    command: Sequence[str], plan: wire.UpgradePlan, fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    """The new version as the running one was started. Not by asyncio, which from Python 3.13 on kills what it
    started when its loop ends: this process must outlive ours.
    """
    arguments = [*plan.arguments, *([] if "--takeover" in plan.arguments else ["--takeover"])]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=plan.working_directory,
        env=_environment_of(plan.pid),
        stdin=subprocess.DEVNULL,
        stdout=fds[0],
        stderr=fds[1],
        start_new_session=True,
    )


def _environment_of(pid: int) -> dict[str, str]:
    """The environment the running router was started with, but our own way to find the code."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        environment = dict(os.environ)
    else:
        environment = dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    for name in VARIABLES_NOT_PASSED_ON:
        environment.pop(name, None)
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return environment


def _run_command(command: Coroutine[None, None, int]) -> int:
    try:
        return asyncio.run(command)
    except (TakeoverError, wire.ChannelClosedError) as exc:
        print(f"fairlead: {exc}", file=sys.stderr)  # noqa: T201
        return 1
