"""A DNS server of one test: UDP on a port of its own, which answers as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Answer = Callable[[dns.message.Message], bytes | None]


def records(kind: str, *values: str, ttl_s: int = 30) -> Answer:
    """These records of the name that is asked for; without any, an empty answer."""

    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if values:
            name = query.question[0].name
            response.answer.append(dns.rrset.from_text(name, ttl_s, "IN", kind, *values))
        return response.to_wire()

    return answer


def refusal(rcode: dns.rcode.Rcode) -> Answer:
    """No records, and why."""

    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return response.to_wire()

    return answer


def garbage(query: dns.message.Message) -> bytes:
    """Bytes that begin like an answer."""
    return query.to_wire()[:2] + b"\x81\x80\xff\xff" + b"\xc0\x0c" * 40


def silence(_query: dns.message.Message) -> None:
    """No answer at all."""


class DnsServer(asyncio.DatagramProtocol):
    """What it is asked, and what it answers next."""

    def __init__(self) -> None:
        self.answer: Answer = silence
        self.asked: list[str] = []
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append(query.question[0].to_text())
        answer = self.answer(query)
        if answer is not None:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """One on the loopback address, gone at the end."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(DnsServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
