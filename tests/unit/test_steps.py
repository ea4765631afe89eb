"""Long work goes on in steps, and the loop turns between them."""

import asyncio
import itertools
import threading

import pytest

from router.steps import Stepper, Steps


def test_the_loop_turns_between_two_steps() -> None:
    seen: list[str] = []

    def work() -> Steps[str]:
        for step in range(3):
            seen.append(f"step {step}")
            yield None
        return "done"

    async def test() -> str:
        loop = asyncio.get_running_loop()

        def traffic() -> None:
            seen.append("traffic")
            loop.call_soon(traffic)

        loop.call_soon(traffic)
        return await Stepper().take(work())

    assert asyncio.run(test()) == "done"
    steps = [index for index, what in enumerate(seen) if what.startswith("step")]
    assert len(steps) == 3
    assert all("traffic" in seen[one:following] for one, following in itertools.pairwise(steps))


def test_what_cannot_be_cut_is_done_on_another_thread_before_the_next_step() -> None:
    threads: list[int] = []

    def work() -> Steps[bool]:
        yield lambda: threads.append(threading.get_ident())
        return bool(threads)

    assert asyncio.run(Stepper().take(work()))
    assert threads != [threading.get_ident()]


def test_what_a_step_or_its_work_raises_comes_out() -> None:
    def fails() -> None:
        raise ValueError("no such file")

    def by_itself() -> Steps[None]:
        yield None
        fails()

    def by_its_work() -> Steps[None]:
        yield fails

    for work in (by_itself, by_its_work):
        with pytest.raises(ValueError, match="no such file"):
            asyncio.run(Stepper().take(work()))


def test_the_longest_step_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    monkeypatch.setattr("router.steps.time.thread_time_ns", lambda: now_ns)

    def work() -> Steps[None]:
        nonlocal now_ns
        for length_us in (100, 700, 300):
            now_ns += length_us * 1000
            yield None

    stepper = Stepper()
    asyncio.run(stepper.take(work()))
    assert stepper.longest_us == 700
    with stepper.one():
        now_ns += 900_000
    assert stepper.longest_us == 900
