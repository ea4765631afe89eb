"""A real router and its control: policy arrives, stays when control is gone, and is there after a restart."""

from __future__ import annotations

import functools
import itertools
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.mock.fleet import EngineSpec, Fleet
from control.publish import Desired
from control.signing import make_key_file
from router.schema import link
from router.schema.link import Signal
from tests.integration.processes import wait_until
from tests.support.played_control import PlayedControl, document
from tests.support.raw_peer import chat, dial, request
from tests.support.router_process import RouterProcess, running_router


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    specs = [EngineSpec(engine_class="instant", models=(name,)) for name in ("tiny", "other")]
    with Fleet(specs) as fleet:
        yield fleet


@pytest.fixture
def control(tmp_path: Path) -> Iterator[PlayedControl]:
    with PlayedControl(str(tmp_path / "c.sock")) as played:
        yield played


def policy(engines: Fleet, *names: str) -> str:
    urls = dict(zip(("tiny", "other"), engines.urls, strict=True))
    endpoints = ", ".join(f'{{name: {name}, url: "{urls[name]}", models: [{name}]}}' for name in names)
    return (
        f"pools: [{{name: main, endpoints: [{endpoints}]}}]\nroutes: [{{name: all, expose_endpoint: true}}]"
    )


def desired(engines: Fleet, version: int, *names: str) -> Desired:
    return Desired(stable_version=version, stable=document(policy(engines, *names)))


def section(control: PlayedControl, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"address": control.address, "name": "r", "state_dir": str(tmp_path / "state"), **more}


def ask(router: RouterProcess, model: str) -> int:
    with dial(router.address) as client:
        client.send(request(chat(model=model), path="/v1/chat/completions"))
        return client.take_response()[0]


def link_state(router: RouterProcess) -> dict[str, Any]:
    return dict(router.router.get("/debug/control", router.router.admin)[1])


def test_a_router_without_pools_is_ready_when_control_has_sent_some(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    with running_router({"workers": 2, "control": section(control, tmp_path)}) as router:
        status, why = router.router.get("/readyz", router.router.admin)
        assert (status, "no policy" in str(why)) == (503, True)
        ack = control.publish(desired(engines, 1, "tiny"))
        assert (ack.refusal, ack.sequence) == ("", 1)
        assert router.router.get("/readyz", router.router.admin)[0] == 200
        assert [ask(router, model) for model in ("tiny", "other")] == [200, 404]
        control.publish(desired(engines, 2, "tiny", "other"))
        assert [ask(router, model) for model in ("tiny", "other")] == [200, 200]
        state = link_state(router)
        assert (state["connected"], state["version"], state["sequence"]) == (True, 2, 2)


def test_traffic_goes_on_without_a_failure_while_control_comes_and_goes(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    config = {"workers": 2, "control": section(control, tmp_path)}
    with running_router(config) as router:
        control.publish(desired(engines, 1, "tiny"))
        statuses: list[int] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                statuses.append(ask(router, "tiny"))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for version in range(2, 6):
                control.stop()
                wait_until(lambda: not link_state(router)["connected"], "the link is seen to be down")
                wanted = len(statuses) + 5
                wait_until(functools.partial(has_grown, statuses, wanted), "requests without control")
                control.start()
                wait_until(lambda: link_state(router)["connected"], "the link is up again")
                names = ("tiny", "other") if version % 2 else ("tiny",)
                assert control.ack().sequence == version - 1  # what is in force is sent to whoever comes
                assert control.publish(desired(engines, version, *names)).sequence == version
        finally:
            stop.set()
            thread.join()
        assert set(statuses) == {200}
        assert link_state(router)["version"] == 5


def has_grown(rows: list[int], count: int) -> bool:
    return len(rows) > count


def test_a_router_that_starts_without_control_has_the_last_policy(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    own = {"control": section(control, tmp_path)}
    with running_router(own) as router:
        control.publish(desired(engines, 7, "tiny"))
    control.stop()
    with running_router(own) as router:
        assert ask(router, "tiny") == 200
        state = link_state(router)
        assert (state["connected"], state["version"], state["sequence"]) == (False, 7, 1)
        assert "version 7" in router.log()


def test_a_damaged_last_policy_is_passed_over_for_what_the_file_says(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    own = {
        "control": section(control, tmp_path),
        "pools": [{"name": "own", "endpoints": [{"url": engines.urls[1], "models": ["other"]}]}],
    }
    with running_router(own) as router:
        control.publish(desired(engines, 1, "tiny"))
        assert [ask(router, model) for model in ("tiny", "other")] == [200, 404]
    control.stop()
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with running_router(own) as router:
        assert [ask(router, model) for model in ("tiny", "other")] == [404, 200]
        assert "is damaged" in router.log()


def test_forged_replayed_and_newer_snapshots_are_refused_and_the_policy_stays(
    engines: Fleet, tmp_path: Path
) -> None:
    signer = make_key_file(tmp_path / "key.pem")
    with PlayedControl(str(tmp_path / "c.sock"), signer) as control:
        trusted = section(control, tmp_path, public_key=signer.public_key)
        with running_router({"control": trusted}) as router:
            first = control.frame(desired(engines, 1, "tiny"))
            assert control.send(first).refusal == ""
            assert control.publish(desired(engines, 2, "tiny", "other")).refusal == ""
            newer = link.encode_body(
                link.SnapshotBody(
                    schema=link.BODY_SCHEMA + 1, stable=link.VariantBody(version=9, document=b"")
                )
            )
            bad: Sequence[tuple[link.SnapshotFrame, str]] = [
                (structs.replace(first, sequence=9), "not signed by the key"),
                (structs.replace(first, sequence=8, signature=b""), "not signed"),
                (first, "sequence 1 has been here"),
                (
                    link.SnapshotFrame(
                        sequence=10,
                        snapshot_id=link.body_id(newer),
                        signature=signer.sign(10, link.body_id(newer)),
                        body=newer,
                    ),
                    "upgrade the router",
                ),
            ]
            for frame, reason in bad:
                assert reason in control.send(frame).refusal
                assert [ask(router, model) for model in ("tiny", "other")] == [200, 200]
            assert link_state(router)["sequence"] == 2


def test_the_routers_own_file_can_be_loaded_again_and_the_policy_stays(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    with running_router({"control": section(control, tmp_path)}) as router:
        control.publish(desired(engines, 1, "tiny"))
        router.reload(drain={"deadline_ms": 400})
        assert ask(router, "tiny") == 200
        assert link_state(router)["version"] == 1
        router.signal(signal.SIGHUP)
        assert control.publish(desired(engines, 2, "other")).refusal == ""
        assert [ask(router, model) for model in ("tiny", "other")] == [404, 200]


def test_signals_and_reports_cross_the_link(engines: Fleet, control: PlayedControl, tmp_path: Path) -> None:
    with running_router({"control": section(control, tmp_path)}) as router:
        control.publish(desired(engines, 3, "tiny"))
        control.tell(Signal("tiny", "health", 0.5, 10), Signal("nobody", "health", 1.0, 0))
        wait_until(lambda: "health" in router.debug_endpoints()[0]["signals"], "the signal is there")
        told = router.debug_endpoints()[0]["signals"]["health"]
        assert (told["value"], told["source"]) == (0.5, "control")
        assert [ask(router, "tiny") for _ in range(4)] == [200] * 4
        for attempt in itertools.count():
            report = control.report()
            counted = {(row.route, row.version): row for row in report.routes if row.requests}
            if counted.get(("all", 3)) and counted["all", 3].requests == 4:
                break
            assert attempt < 20
        assert counted["all", 3].faults == 0
        assert sum(counted["all", 3].ttft_us) <= 4
        (endpoint,) = report.endpoints
        assert (endpoint.endpoint, endpoint.attempts) == ("tiny", 4)


def test_a_canary_gets_its_share_of_the_sessions(
    engines: Fleet, control: PlayedControl, tmp_path: Path
) -> None:
    with running_router({"control": section(control, tmp_path)}) as router:
        split = half_and_half(engines)
        assert control.publish(split).refusal == ""
        served = [status_of(router, f"s{number}") for number in range(40)]
        assert 5 < served.count(404) < 35  # the canary does not know the model
        again = [status_of(router, f"s{number}") for number in range(40)]
        assert again == served
        control.publish(desired(engines, 2, "other"))
        assert ask(router, "other") == 200


def half_and_half(engines: Fleet) -> Desired:
    return Desired(
        stable_version=1,
        stable=document(policy(engines, "tiny")),
        canary_version=2,
        canary=document(policy(engines, "other")),
        canary_ratio=0.5,
    )


def status_of(router: RouterProcess, session: str) -> int:
    with dial(router.address) as client:
        client.send(request(chat(user=session), path="/v1/chat/completions"))
        return client.take_response()[0]
