"""A configuration is put in force on every worker or on none."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from router import limits, wire
from router.config import parse_config
from router.native.preparation import at_once
from router.pieces import put_together
from router.received_policy import Policy, Variant
from router.rollout import Canary, Rollout
from router.schema.config import Config
from router.schema.policy_document import PolicyDocument
from router.shared_state import SharedState
from router.supervisor import Supervisor
from router.worker_process import WorkerProcess

SMALL_BYTES = 1 << 20


class FakeWorker:
    """A worker process that answers at once and keeps what it was told."""

    def __init__(self, index: int, *, refusal: str = "", answers: bool = True) -> None:
        self.index = index
        self.is_alive = True
        self.refusal = refusal
        self.answers = answers
        self.told: list[wire.AnyFrame] = []
        self.prepared: list[wire.Prepare] = []
        self.activated: list[int] = []
        self.restart_count = 0
        self.on_prepare: Callable[[], None] = lambda: None

    async def prepare(self, frame: wire.Prepare) -> str:
        self.prepared.append(frame)
        self.on_prepare()
        return self.refusal

    async def activate(self, version: int) -> int:
        if not self.answers:
            await asyncio.Event().wait()
        self.activated.append(version)
        return 100 * (self.index + 1)

    def tell(self, frame: wire.AnyFrame) -> bool:
        self.told.append(frame)
        return True

    def restart(self) -> None:
        self.restart_count += 1


def config(*names: str, more: str = "") -> Config:
    entries = "".join(f"      - {{name: {name}, url: 'http://{name}:1'}}\n" for name in names)
    text = f"prefixes: {{table_bytes: {SMALL_BYTES}}}\n{more}pools:\n  - name: p\n    endpoints:\n{entries}"
    return parse_config(text, "f.yaml", {})


def begun(*workers: FakeWorker, names: tuple[str, ...] = ("one",)) -> tuple[Rollout, SharedState]:
    rollout = Rollout(config(*names), cast(list[WorkerProcess], list(workers)))
    shared = SharedState.create(rollout.in_force.config)
    rollout.begin(shared)
    return rollout, shared


def run(work: Coroutine[Any, Any, str]) -> str:
    return asyncio.run(work)


def test_what_all_prepared_all_activate() -> None:
    workers = [FakeWorker(0), FakeWorker(1)]
    rollout, shared = begun(*workers)
    new = config("two")
    assert run(rollout.apply(new, shared, label=7)) == ""
    assert (rollout.in_force.config, rollout.in_force.version, rollout.in_force.label) == (new, 2, 7)
    assert [worker.activated for worker in workers] == [[2], [2]]
    assert rollout.in_force.longest_step_us == 200
    assert workers[0].prepared[0].tables is workers[1].prepared[0].tables  # encoded once


def test_one_refusal_makes_all_forget_it() -> None:
    workers = [FakeWorker(0), FakeWorker(1, refusal="a file is missing")]
    rollout, shared = begun(*workers)
    before = rollout.in_force
    assert run(rollout.apply(config("one", "two"), shared)) == "a file is missing"
    assert rollout.in_force is before
    assert [worker.activated for worker in workers] == [[], []]
    assert [worker.told for worker in workers] == [[wire.Abort(version=2)]] * 2
    assert shared.endpoints.configured() == ("one",)


def test_a_worker_that_is_not_there_is_not_waited_for_and_starts_with_the_new_one() -> None:
    workers = [FakeWorker(0), FakeWorker(1)]
    rollout, shared = begun(*workers)
    workers[1].is_alive = False
    assert run(rollout.apply(config("two"), shared)) == ""
    assert workers[1].prepared == []
    assert set(rollout.in_force.slots) == {"two"}


def test_while_workers_prepare_the_old_one_is_in_force() -> None:
    worker = FakeWorker(0)
    rollout, shared = begun(worker)
    seen: list[int] = []
    worker.on_prepare = lambda: seen.append(rollout.in_force.version)
    run(rollout.apply(config("two"), shared))
    assert seen == [1]


def test_a_worker_that_does_not_activate_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RELOAD_TIMEOUT_MS", 1)
    workers = [FakeWorker(0), FakeWorker(1, answers=False)]
    rollout, shared = begun(*workers)
    assert run(rollout.apply(config("two"), shared)) == ""
    assert [worker.restart_count for worker in workers] == [0, 1]
    assert rollout.in_force.version == 2


def test_a_canary_is_prepared_in_the_same_step_and_goes_with_the_next_that_has_none() -> None:
    worker = FakeWorker(0)
    rollout, shared = begun(worker)
    canary = Canary(config=config("one", "new"), label=8, ratio=0.1)
    assert run(rollout.apply(config("one"), shared, label=7, canary=canary)) == ""
    (frame,) = worker.prepared
    assert frame.canary is not None
    stable, beside = (at_once(put_together(plan.tables)) for plan in (frame, frame.canary))
    assert (stable.version, beside.version, frame.canary.ratio) == (7, 8, 0.1)
    assert [entry.name for entry in beside.endpoints] == ["one", "new"]
    assert beside.endpoints[0].slot == stable.endpoints[0].slot
    assert not {route.index for route in stable.routes} & {route.index for route in beside.routes}
    assert (rollout.in_force.canary, rollout.in_force.canary_plan) == (canary, frame.canary)
    assert set(shared.configured_routes()) == {("default", 7), ("default", 8)}
    assert run(rollout.apply(config("one"), shared, label=7)) == ""
    assert worker.prepared[-1].canary is None
    again = at_once(put_together(worker.prepared[-1].tables))
    assert again.routes == stable.routes, "what is counted as of a version goes on"
    assert (rollout.in_force.canary, rollout.in_force.canary_plan) == (None, None)
    assert shared.endpoints.configured() == ("one",)


def test_a_canary_that_is_refused_leaves_the_one_before_in_force() -> None:
    worker = FakeWorker(0)
    rollout, shared = begun(worker)
    canary = Canary(config=config("one", "new"), label=8, ratio=0.1)
    run(rollout.apply(config("one"), shared, label=7, canary=canary))
    before, worker.refusal = rollout.in_force, "no"
    other = Canary(config=config("other"), label=9, ratio=0.5)
    assert run(rollout.apply(config("two"), shared, label=8, canary=other)) == "no"
    assert rollout.in_force is before
    assert shared.endpoints.configured() == ("one", "new")
    assert set(shared.configured_routes()) == {("default", 7), ("default", 8)}


def test_what_a_process_has_one_of_is_refused_before_any_worker_hears_of_it() -> None:
    worker = FakeWorker(0)
    rollout, shared = begun(worker)
    refusal = run(rollout.apply(config("one", more="workers: 2\n"), shared))
    assert refusal.startswith("workers: ")
    assert worker.prepared == []


def test_a_router_that_starts_with_controls_policy_has_its_canary_too() -> None:
    stable, canary = (
        Variant(version=version, document=PolicyDocument.of(config(name)))
        for version, name in ((7, "one"), (8, "two"))
    )
    policy = Policy(sequence=3, snapshot_id="s", stable=stable, canary=canary, canary_ratio=0.1)
    shown = asyncio.run(started_with(policy)).describe_config()
    assert (shown["label"], shown["config"]["pools"][0]["endpoints"][0]["name"]) == (7, "one")
    beside = shown["canary"]
    assert (beside["label"], beside["ratio"]) == (8, 0.1)
    assert beside["config"]["pools"][0]["endpoints"][0]["name"] == "two"


async def started_with(policy: Policy) -> Supervisor:
    return Supervisor(config("own"), policy=policy)


def test_nothing_is_put_in_force_before_the_router_is_ready() -> None:
    supervisor = Supervisor(config("one"))
    assert run(supervisor.apply(config("two"))) == "the router is starting or draining"
