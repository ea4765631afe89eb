"""The control process: commands change policy on real routers, and its end, however it comes, costs no
request.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bench.mock.fleet import EngineSpec, Fleet
from control import cli
from control.client import ControlClient, ControlClientError
from control.tokens import new_token
from tests.integration.processes import BOUND_S, ROOT, wait_until
from tests.support.raw_peer import chat, dial, request
from tests.support.router_process import RouterProcess, running_router

COMMAND = (sys.executable, "-c", "from control.run_cli import control; control()", "--config")


class ControlProcess:
    """A control with its files in `folder`; started and ended by the test."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = {"state_dir": str(folder / "state"), "runtime_dir": str(folder / "run"), **settings}
        (folder / "run").mkdir(mode=0o700)
        self.path = folder / "control.yaml"
        self.path.write_text(yaml.safe_dump(self.settings))
        self.log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.api = f"unix:{folder}/run/control-api.sock"
        self.link = f"unix:{folder}/run/control.sock"

    def start(self, *, wait: bool = True) -> subprocess.Popen[bytes]:
        """Starts a process; it is the one that `end` and `kill` are about."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, str(self.path)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        if wait:
            wait_until(self.is_ready, "control answers")
        return self.process

    def is_ready(self) -> bool:
        try:
            self.ask("GET", "/v1/status")
        except ControlClientError:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return False
        return True

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(BOUND_S)

    def end(self) -> None:
        """As a service manager does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(BOUND_S) == 0, self.log()

    def log(self) -> str:
        return self.log_path.read_text()

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        return ControlClient(self.api).call(method, path, body=body, query=query or None)

    def router_names(self) -> list[str]:
        """Of those connected."""
        return [row["router"] for row in self.ask("GET", "/v1/routers")["routers"]]

    def command(self, *arguments: str, status: int = 0) -> str:
        """What a command says; on standard error when it fails."""
        group = {"policy": cli.policy, "routers": cli.routers, "status": cli.status, "audit": cli.audit}
        result = CliRunner().invoke(group[arguments[0]], [*arguments[1:], "--control", self.api])
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.output


@contextmanager
def running_control(folder: Path, **settings: Any) -> Iterator[ControlProcess]:
    control = ControlProcess(folder, **settings)
    control.start()
    try:
        yield control
        control.end()
    finally:
        if control.process is not None and control.process.poll() is None:
            control.kill()


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with Fleet([EngineSpec(engine_class="instant", models=("tiny",))]) as fleet:
        yield fleet


def policy_file(folder: Path, engines: Fleet, name: str, weight: int = 1) -> str:
    path = folder / f"{name}.yaml"
    endpoint = {"name": name, "url": engines.urls[0], "models": ["tiny"], "weight": weight}
    path.write_text(yaml.safe_dump({"pools": [{"name": "main", "endpoints": [endpoint]}]}))
    return str(path)


def router_config(control: ControlProcess, name: str = "r") -> dict[str, Any]:
    return {
        "workers": 2,
        "control": {"address": control.link, "name": name, "state_dir": str(control.folder / "last")},
    }


def ask(router: RouterProcess) -> int:
    with dial(router.address) as client:
        client.send(request(chat(), path="/v1/chat/completions"))
        return client.take_response()[0]


def endpoint_names(router: RouterProcess) -> list[str]:
    return [row["name"] for row in router.debug_endpoints()]


def test_from_a_push_to_a_rollback_by_commands(tmp_path: Path, engines: Fleet) -> None:
    with running_control(tmp_path) as control, running_router(router_config(control)) as router:
        wait_until(lambda: control.router_names() == ["r"], "the router is connected")
        one, two = (policy_file(tmp_path, engines, name) for name in ("one", "two"))
        assert "no problem" in control.command("policy", "validate", one)
        assert "version 1" in control.command("policy", "push", one, "-m", "first")
        assert endpoint_names(router) == []
        assert "1 of 1 have it" in control.command("policy", "activate", "1", "-m", "go")
        assert (endpoint_names(router), ask(router)) == (["one"], 200)
        control.command("policy", "push", two, "--parent", "1")
        assert "endpoints[two]: added" in control.command("policy", "diff")
        assert "newest version is 2" in control.command("policy", "push", one, "--parent", "1", status=3)
        control.command("policy", "activate", "2")
        assert endpoint_names(router) == ["two"]
        assert "in force: version 1" in control.command("policy", "rollback", "-m", "worse")
        assert (endpoint_names(router), ask(router)) == (["one"], 200)
        control.command("policy", "freeze")
        assert "frozen" in control.command("policy", "activate", "2", status=3)
        assert "there is no version 9" in control.command("policy", "rollback", "9", status=1)
        assert "is whole" in control.command("audit", "verify")
        exported = [json.loads(line) for line in control.command("audit", "export").splitlines()]
        actions = ["push", "activate", "push", "activate", "rollback", "freeze"]
        assert [record["action"] for record in exported] == actions
        assert "store ok" in control.command("status")


def test_control_that_ends_at_any_moment_under_load_costs_no_request(tmp_path: Path, engines: Fleet) -> None:
    with running_control(tmp_path) as control, running_router(router_config(control)) as router:
        for number, name in enumerate(("one", "two"), 1):
            control.command("policy", "push", policy_file(tmp_path, engines, name))
            control.command("policy", "activate", str(number))
        wait_until(lambda: endpoint_names(router) == ["two"], "the router has the policy")
        statuses: list[int] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                statuses.append(ask(router))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for number in (1, 2, 1):
                control.kill()
                wanted = len(statuses) + 10
                wait_until(lambda wanted=wanted: len(statuses) > wanted, "requests without control")  # type: ignore[misc]
                control.start()
                wait_until(lambda: control.router_names() == ["r"], "the router is back")
                control.command("policy", "activate", str(number))
                assert endpoint_names(router) == [["one"], ["two"]][number - 1]
        finally:
            stop.set()
            thread.join()
        assert set(statuses) == {200}
        assert "is whole" in control.command("audit", "verify")


def test_a_second_control_on_the_store_waits_and_takes_over(tmp_path: Path) -> None:
    with running_control(tmp_path) as control:
        first = control.process
        assert first is not None
        second = control.start(wait=False)
        wait_until(lambda: "another control has" in control.log(), "the second says that it waits")
        first.kill()
        first.wait(BOUND_S)
        wait_until(control.is_ready, "the second answers")
        assert second.poll() is None


def test_a_store_that_was_restored_from_before_still_reaches_routers(tmp_path: Path, engines: Fleet) -> None:
    with running_control(tmp_path) as control, running_router(router_config(control)) as router:
        store = tmp_path / "state" / "control.sqlite"
        one = policy_file(tmp_path, engines, "one")
        control.command("policy", "push", one, "--activate")
        control.end()
        copy = store.read_bytes()
        control.start()
        for number, name in enumerate(("two", "three"), 2):
            control.command("policy", "push", policy_file(tmp_path, engines, name))
            control.command("policy", "activate", str(number))
        wait_until(lambda: endpoint_names(router) == ["three"], "the newest policy is in force")
        control.end()
        store.write_bytes(copy)
        control.start()
        wait_until(lambda: endpoint_names(router) == ["one"], "what the restored store says is in force")
        assert ask(router) == 200


def test_what_probes_and_scrapes_find_reaches_routers_and_validation(tmp_path: Path) -> None:
    spec = EngineSpec(engine_class="instant", models=("tiny",))
    with Fleet([spec]) as engines:
        up = {"name": "up", "url": engines.urls[0], "engine": "vllm", "models": ["tiny"]}
        gone = {"name": "gone", "url": "http://127.0.0.1:9", "engine": "vllm", "models": ["other"]}
        pools = [{"name": "a", "endpoints": [up]}, {"name": "b", "endpoints": [gone]}]
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump({"pools": pools}))
        health = {"interval_ms": 200, "timeout_ms": 1000, "fall": 2}
        with (
            running_control(tmp_path, health=health) as control,
            running_router(router_config(control)) as router,
        ):
            control.command("policy", "push", str(path), "--activate")

            def told() -> dict[str, dict[str, Any]]:
                return {row["name"]: row["signals"] for row in router.debug_endpoints()}

            def is_told() -> bool:
                now = told()
                return "waiting" in now.get("up", {}) and now["gone"].get("health", {}).get("value") == 0

            wait_until(is_told, "health and queues are told")
            now = told()
            assert now["up"]["health"]["value"] == 1
            assert {told["source"] for told in now["up"].values()} <= {"control", "local"}
            doubts = control.command("policy", "validate", str(path))
            assert "no endpoint of 'b' is healthy" in doubts
            assert "'a'" not in doubts


def test_a_bad_canary_is_taken_back_by_itself_and_the_record_says_why(tmp_path: Path) -> None:
    specs = [
        EngineSpec(engine_class="instant", models=("tiny",)),
        EngineSpec(engine_class="instant", models=("tiny",), faults=("status:500",)),
    ]
    with (
        Fleet(specs) as engines,
        running_control(tmp_path) as control,
        running_router(router_config(control)) as router,
    ):
        for name, url in zip(("good", "bad"), engines.urls, strict=True):
            path = tmp_path / f"{name}.yaml"
            endpoint = {"name": name, "url": url, "models": ["tiny"]}
            path.write_text(yaml.safe_dump({"pools": [{"name": "main", "endpoints": [endpoint]}]}))
            control.command("policy", "push", str(path))
        wait_until(lambda: control.router_names() == ["r"], "the router is connected")
        control.command("policy", "activate", "1")
        control.command("policy", "canary", "2", "--ratio", "0.5")
        asked = 0
        deadline = time.monotonic() + BOUND_S
        while control.ask("GET", "/v1/policy")["canary"] is not None:
            assert time.monotonic() < deadline, control.log()
            for _ in range(40):
                ask_as(router, f"user-{asked}")
                asked += 1
        assert control.ask("GET", "/v1/policy")["stable"] == 1
        newest = control.ask("GET", "/v1/audit")["records"][0]
        assert (newest["actor"], newest["action"], newest["old"]) == ("guard", "rollback", "version 2")
        assert newest["why"]
        wait_until(lambda: ask_as(router, "user-0") == 200, "everybody has the stable version")
        assert {ask_as(router, f"user-{number}") for number in range(20)} == {200}


def ask_as(router: RouterProcess, user: str) -> int:
    with dial(router.address) as client:
        client.send(request(chat(user=user), path="/v1/chat/completions"))
        return client.take_response()[0]


def test_over_tcp_a_token_says_who_it_is_and_what_they_may(tmp_path: Path) -> None:
    tokens = {role: new_token() for role in ("viewer", "operator")}
    entries = [{"name": role, "role": role, "sha256": digest} for role, (_token, digest) in tokens.items()]
    api = {"listen": ["127.0.0.1:0", f"unix:{tmp_path}/run/control-api.sock"], "tokens": entries}
    with running_control(tmp_path, api=api) as control:
        found = re.search(r"operators to (127\.0\.0\.1:\d+)", control.log())
        assert found
        address = found[1]

        def call(token: str, method: str, path: str, body: Any = None) -> Any:
            return ControlClient(address, token=token).call(method, path, body=body)

        def refusal(token: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
            with pytest.raises(ControlClientError) as caught:
                call(token, method, path, body)
            assert token not in str(caught.value) or not token
            return caught.value.status, caught.value.code

        viewer, operator = (tokens[role][0] for role in ("viewer", "operator"))
        assert call(viewer, "GET", "/v1/policy")["stable"] == 0
        assert refusal(viewer, "POST", "/v1/policy/freeze", {}) == (403, "role")
        assert call(operator, "POST", "/v1/policy/freeze", {"message": "m"})["is_frozen"]
        assert call(viewer, "GET", "/v1/audit")["records"][0]["actor"] == "operator"
        assert refusal("", "GET", "/v1/policy") == (401, "no_token")
        assert refusal("flt_wrong", "GET", "/v1/policy") == (401, "wrong_token")
        assert refusal(operator, "GET", "/v1/nowhere") == (404, "not_found")
        assert refusal(operator, "POST", "/v1/policy/activate", {"version": "x"}) == (400, "body")
        assert refusal(operator, "POST", "/v1/policy/activate", {"version": 3}) == (404, "no_version")
        described = call(viewer, "GET", "/openapi.json")
        assert described["openapi"].startswith("3.1")
        assert set(described["paths"]["/v1/versions"]) == {"get", "post"}
        for _ in range(8):
            last = refusal("flt_guess", "GET", "/v1/policy")
        assert last == (429, "locked_out")
        assert refusal(operator, "GET", "/v1/policy") == (429, "locked_out")
        assert viewer not in control.log()
