"""Tasks of control: a failure is counted and the task begun again; its end is its own or `close`'s."""

import asyncio

import pytest

from control.supervision import Supervision


class Pauses:
    """Sleeps that end at once, and how long they would have been."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


async def fail_times(count: int, ran: list[int], done: asyncio.Event) -> None:
    ran.append(len(ran))
    if len(ran) <= count:
        raise RuntimeError(f"failure {len(ran)}")
    done.set()
    await asyncio.Event().wait()


def test_a_task_that_fails_is_begun_again_and_the_pauses_grow_up_to_a_bound() -> None:
    async def scenario() -> None:
        pauses, done = Pauses(), asyncio.Event()
        ran: list[int] = []
        supervision = Supervision(sleep=pauses, seed=1)
        supervision.start("probe", lambda: fail_times(12, ran, done))
        await done.wait()
        assert len(ran) == 13
        (watched,) = supervision.describe()
        assert (watched.failure_count, watched.failure) == (12, "RuntimeError: failure 12")
        assert watched.is_running
        assert 0.05 <= pauses.asked[0] <= 0.1
        assert pauses.asked[4] > pauses.asked[0]
        assert all(5.0 <= pause <= 10.0 for pause in pauses.asked[8:])
        await supervision.close()
        assert supervision.names() == []

    asyncio.run(scenario())


def test_one_that_returns_is_not_begun_again() -> None:
    async def scenario() -> None:
        ran: list[int] = []

        async def once() -> None:
            ran.append(1)

        supervision = Supervision()
        supervision.start("once", once)
        while supervision.describe()[0].is_running or not ran:
            await asyncio.sleep(0)
        assert ran == [1]
        assert supervision.describe()[0].failure_count == 0
        await supervision.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["stop", "close", "replaced"])
def test_a_task_ends_when_it_is_told_to(end: str) -> None:
    async def scenario() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def other() -> None:
            await asyncio.Event().wait()

        supervision = Supervision()
        supervision.start("task", wait)
        await begun.wait()
        if end == "stop":
            supervision.stop("task")
        elif end == "replaced":
            supervision.start("task", other)
        else:
            await supervision.close()
        await ended.wait()
        assert supervision.names() == (["task"] if end == "replaced" else [])
        await supervision.close()

    asyncio.run(scenario())
