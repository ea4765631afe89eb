"""WebSockets through the router: an upgrade is passed, then bytes both ways until either side ends."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.support.raw_peer import Endpoint, dial
from tests.support.router_process import RouterProcess, one_pool, running_router
from tests.support.sender import Sender

MIB = 1 << 20
MESSAGE_BYTES_MAX = 16 * MIB
CLOSES: web.AppKey[asyncio.Queue[int | None]] = web.AppKey("closes")
UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"


async def echo(request: web.Request) -> web.StreamResponse:
    if request.path == "/refused":
        return web.json_response({"error": "not here"}, status=403)
    answer = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES_MAX, protocols=("realtime",))
    await answer.prepare(request)
    async for message in answer:
        if message.type is aiohttp.WSMsgType.TEXT and message.data == "leave":
            await answer.close(code=4001, message=b"as asked")
        elif message.type is aiohttp.WSMsgType.TEXT:
            await answer.send_str(message.data)
        else:
            await answer.send_bytes(message.data)
    request.app[CLOSES].put_nowait(answer.close_code)
    return answer


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[RouterProcess, asyncio.Queue[int | None]]]:
    """A router in front of an echo, and the close codes the echo has seen."""
    application = web.Application()
    closes = application[CLOSES] = asyncio.Queue()
    application.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    with running_router(one_pool([url])) as router:
        yield router, closes
        await asyncio.to_thread(router.wait_settled)
    await runner.cleanup()


def test_messages_of_all_sizes_come_back_and_both_sides_may_close() -> None:
    async def main() -> None:
        async with echoing() as (router, closes), aiohttp.ClientSession() as session:
            async with session.ws_connect(
                router.url + "/v1/realtime?model=tiny",
                protocols=("realtime",),
                max_msg_size=MESSAGE_BYTES_MAX,
            ) as talk:
                assert talk.protocol == "realtime"
                await talk.send_str("grüezi")
                assert await talk.receive_str() == "grüezi"
                for size in (0, 1, 125, 126, 65_536, MIB, 8 * MIB):
                    data = os.urandom(size)
                    await talk.send_bytes(data)
                    assert await talk.receive_bytes() == data
                assert router.metrics().sum("fairlead_requests_in_flight") == 1
                assert router.in_flight() == 1
                await talk.close(code=4000)
            assert await closes.get() == 4000
            async with session.ws_connect(router.url + "/other") as talk:
                await talk.send_str("leave")
                message = await talk.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)
                assert message.extra == "as asked"
            await closes.get()  # the client has answered the close

    asyncio.run(main())


def test_many_talk_at_once_and_nothing_is_mixed_up() -> None:
    async def one(session: aiohttp.ClientSession, url: str, index: int) -> None:
        rng = random.Random(index)
        async with session.ws_connect(url, max_msg_size=MESSAGE_BYTES_MAX) as talk:
            sent = [f"{index}-{turn}-" + "x" * rng.randrange(40_000) for turn in range(30)]

            async def send() -> None:
                for text in sent:
                    await talk.send_str(text)

            sending = asyncio.create_task(send())
            for text in sent:
                assert await talk.receive_str() == text
            await sending

    async def main() -> None:
        async with echoing() as (router, _), aiohttp.ClientSession() as session:
            await asyncio.gather(*(one(session, router.url + "/ws", index) for index in range(20)))

    asyncio.run(main())


def test_a_refused_upgrade_is_the_engines_own_answer() -> None:
    async def main() -> None:
        async with echoing() as (router, _), aiohttp.ClientSession() as session:
            try:
                await session.ws_connect(router.url + "/refused")
            except aiohttp.WSServerHandshakeError as refused:
                assert refused.status == 403
            else:
                raise AssertionError("the upgrade was taken")
            async with session.get(
                router.url + "/refused", headers={"connection": "upgrade", "upgrade": "websocket"}
            ) as answer:
                assert answer.status == 403
                assert await answer.json() == {"error": "not here"}

    asyncio.run(main())


def test_bytes_sent_with_the_upgrade_and_with_its_answer_are_not_lost() -> None:
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url])) as router:
        with dial(router.address) as client, endpoint.accept_after(client, UPGRADE + b"early") as engine:
            head = engine.take_until(b"\r\n\r\n").lower()
            assert b"\r\nupgrade: websocket\r\n" in head
            assert b"\r\nconnection: upgrade\r\n" in head
            assert engine.is_quiet()  # the request's end is there; what follows belongs to another protocol
            engine.send(SWITCHED + b"first")
            assert client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            assert client.take(5) == b"first"
            assert engine.take(5) == b"early"
            client.send(b"more")
            assert engine.take(4) == b"more"
            engine.close()
            client.wait_closed()
        reading = router.wait_settled()
        assert reading.outcomes() == {("completed", "-"): 1}


def test_either_side_that_goes_away_takes_the_other_with_it() -> None:
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url])) as router:
        for goes in ("client", "engine"):
            with dial(router.address) as client, endpoint.accept_after(client, UPGRADE) as engine:
                engine.take_head()
                engine.send(SWITCHED)
                client.take_head()
                left, stays = (client, engine) if goes == "client" else (engine, client)
                left.reset()
                stays.wait_closed()
            router.wait_settled()


def test_a_side_that_does_not_read_pauses_the_other() -> None:
    small = 256 * 1024
    data = os.urandom(12 * MIB)
    with (
        Endpoint(receive_bytes=small) as endpoint,
        running_router(one_pool([endpoint.url])) as router,
        dial(router.address, receive_bytes=small) as client,
        endpoint.accept_after(client, UPGRADE) as engine,
    ):
        engine.take_head()
        engine.send(SWITCHED)
        client.take_head()
        for source, target in ((client, engine), (engine, client)):
            sender = Sender(source, data, 1)
            sender.wait_stalled()
            assert sender.sent_bytes < len(data)
            received = target.take(len(data))
            sender.wait_done()
            assert received == data


def test_an_upgrade_answered_when_none_was_asked_for_is_a_502() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url])) as router,
        dial(router.address) as client,
    ):
        client.send(b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\n\r\n")
        with endpoint.accept() as engine:
            engine.take_head()
            engine.send(SWITCHED)
            status, _, body = client.take_response()
            assert status == 502
            assert json.loads(body)["error"]["code"] == "upstream_malformed"
        router.wait_settled()
