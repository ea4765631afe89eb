"""Frames and descriptors arrive whole, in order, whatever the socket does to the bytes."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from router import wire


def run(test: Callable[[wire.Channel, wire.Channel], Awaitable[None]]) -> None:
    async def with_pair() -> None:
        left, right = (wire.Channel(sock) for sock in socket.socketpair())
        try:
            async with asyncio.timeout(30):
                await test(left, right)
        finally:
            left.close()
            right.close()

    asyncio.run(with_pair())


def test_frames_arrive_in_order() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        frames: list[wire.AnyFrame] = [
            wire.Ready(pid=1),
            wire.Activate(version=2),
            wire.Answer(query_id=3, rows=[{"a": [1, None, "x"]}]),
        ]
        for frame in frames:
            left.post(frame)
        assert [(await right.receive())[0] for _ in frames] == frames

    run(test)


def test_a_frame_larger_than_the_socket_takes_is_sent_as_the_peer_reads() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        frame = wire.Failed(reason="x" * 5_000_000)
        left.post(frame)
        received, _ = await right.receive()
        assert received == frame
        await left.flushed()

    run(test)


def test_bytes_one_at_a_time_make_the_same_frame() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        sender, receiver = socket.socketpair()
        payload = msgspec.msgpack.encode(wire.Ready(pid=7))
        channel = wire.Channel(receiver)
        receiving = asyncio.ensure_future(channel.receive())
        for byte in len(payload).to_bytes(4, "little") + bytes(4) + payload:
            sender.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await receiving)[0] == wire.Ready(pid=7)
        channel.close()
        sender.close()

    run(test)


def test_descriptors_arrive_with_their_frame_and_stay_the_senders() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        reader, writer = os.pipe()
        left.post(wire.TakeoverReady())
        left.post(wire.UpgradeRequest(), [writer])
        assert (await right.receive())[1] == []
        frame, (received,) = await right.receive()
        assert frame == wire.UpgradeRequest()
        assert not os.get_inheritable(received)
        os.write(received, b"1")
        os.write(writer, b"2")
        assert os.read(reader, 2) == b"12"
        for fd in (reader, writer, received):
            os.close(fd)

    run(test)


def test_more_descriptors_than_one_call_takes_arrive_in_order() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        fds = [os.memfd_create(f"n{index}") for index in range(450)]
        for index, fd in enumerate(fds):
            os.write(fd, str(index).encode())
        left.post(wire.UpgradeRequest(), fds)
        _, received = await right.receive()
        assert [os.pread(fd, 10, 0) for fd in received] == [str(index).encode() for index in range(450)]
        for fd in (*fds, *received):
            os.close(fd)

    run(test)


def test_the_end_of_the_stream_is_an_error_in_receive_and_then_in_post() -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        left.post(wire.Ready(pid=1))
        left.close()
        assert (await right.receive())[0] == wire.Ready(pid=1)
        with pytest.raises(wire.ChannelClosedError):
            await right.receive()
        with pytest.raises(wire.ChannelClosedError):
            right.post(wire.Ready(pid=1))

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + bytes(4),  # longer than any frame
        b"\x01\x00\x00\x00" + bytes(4) + b"\xc1",  # not msgpack
        b"\x01\x00\x00\x00" + bytes(4) + b"\x80",  # no tag
        b"\x01\x00\x00\x00\x01\x00\x00\x00\x80",  # a descriptor that never came
    ],
)
def test_what_is_no_frame_closes_the_channel(data: bytes) -> None:
    async def test(left: wire.Channel, right: wire.Channel) -> None:
        sender, receiver = socket.socketpair()
        channel = wire.Channel(receiver)
        sender.send(data)
        with pytest.raises(wire.ChannelClosedError):
            await channel.receive()
        assert channel.closed
        sender.close()

    run(test)


def test_a_peer_that_does_not_read_is_cut_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "OUTGOING_BYTES_MAX", 1_000_000)

    async def test(left: wire.Channel, right: wire.Channel) -> None:
        with pytest.raises(wire.ChannelClosedError, match="does not read"):
            for _ in range(100):
                left.post(wire.Failed(reason="x" * 100_000))
        assert left.closed

    run(test)
