"""TLS on both sides: who is trusted, what is refused, and that bytes pass as they do without it.

The certificates are made by this test: one authority that clients and router trust, one that nobody does.
"""

import asyncio
import base64
import hashlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from bench.mock.fleet import EngineSpec, Fleet
from tests.integration.processes import wait_until
from tests.support.raw_peer import STREAM_HEAD, Endpoint, Peer, chat, dial, request
from tests.support.router_process import RouterProcess, running_router

MIB = 1 << 20


@dataclass
class Papers:
    """Certificates in files."""

    authority: trustme.CA
    stranger: trustme.CA  # whom nobody trusts
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Papers":
        papers = cls(
            trustme.CA(key_type=trustme.KeyType.ECDSA), trustme.CA(key_type=trustme.KeyType.ECDSA), folder
        )
        papers.authority.cert_pem.write_to_path(folder / "ca.pem")
        papers.stranger.cert_pem.write_to_path(folder / "stranger.pem")
        return papers

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    def issue(self, name: str, *identities: str, authority: trustme.CA | None = None) -> tuple[str, str]:
        """Certificate and key file for these names."""
        leaf = (authority or self.authority).issue_cert(*identities, key_type=trustme.KeyType.ECDSA)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        # Whole, by rename: the router may look at any moment.
        for path, blobs in ((key, [leaf.private_key_pem]), (cert, leaf.cert_chain_pems)):
            aside = path.with_suffix(".new")
            aside.write_bytes(b"".join(blob.bytes() for blob in blobs))
            aside.rename(path)
        return str(cert), str(key)

    def server_context(
        self, name: str, *identities: str, authority: trustme.CA | None = None
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, *identities, authority=authority))
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


class SecureEndpoint(Endpoint):
    """An endpoint that speaks TLS; remembers the name it was asked for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.names: list[str | None] = []
        self._context = context
        context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        self.url = self.url.replace("http:", "https:")

    def accept(self) -> Peer:
        plain = self.sock.accept()[0]
        return Peer(self._context.wrap_socket(plain, server_side=True))

    def accept_badly(self) -> None:
        """The router breaks off the handshake."""
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Peer(self._context.wrap_socket(self.sock.accept()[0], server_side=True)).take_head()


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers.make(tmp_path_factory.mktemp("tls"))


@dataclass
class Scene:
    router: RouterProcess
    endpoints: dict[str, SecureEndpoint]
    papers: Papers

    def dial(self, name: str = "localhost") -> Peer:
        """A client on the TLS listener."""
        plain = socket.create_connection(self.router.address, timeout=30)
        context = self.papers.client_context()
        return Peer(context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False))

    def ask(self, endpoint: str, client: Peer, body: bytes = b"") -> None:
        client.send(request(body or chat(model=endpoint)))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([EngineSpec(engine_class="fixed:1", models=("tiny",))]) as running:
        yield running


@pytest.fixture(scope="module")
def scene(papers: Papers, fleet: Fleet) -> Iterator[Scene]:
    """A TLS listener; an endpoint for each way to be trusted or not, chosen by model."""
    listener = papers.issue("listener", "localhost")
    ours = papers.issue("ours", "router.example")
    demanding = papers.server_context("demanding", "127.0.0.1")
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(papers.ca_file)
    endpoints = {
        "good": SecureEndpoint(papers.server_context("good", "127.0.0.1")),
        "named": SecureEndpoint(papers.server_context("named", "engine.example")),
        "misnamed": SecureEndpoint(papers.server_context("misnamed", "engine.example")),
        "stranger": SecureEndpoint(
            papers.server_context("stranger-leaf", "127.0.0.1", authority=papers.stranger)
        ),
        "unchecked": SecureEndpoint(
            papers.server_context("unchecked", "else.example", authority=papers.stranger)
        ),
        "renewed": SecureEndpoint(
            papers.server_context("renewed-leaf", "127.0.0.1", authority=papers.stranger)
        ),
        "demanding": SecureEndpoint(demanding),
        "unmet": SecureEndpoint(demanding),
    }
    settings: dict[str, dict[str, Any]] = {name: {"ca_file": papers.ca_file} for name in endpoints}
    settings["named"]["server_name"] = "engine.example"
    settings["misnamed"]["server_name"] = "other.example"
    settings["unchecked"] = {"verify": False}
    papers.authority.cert_pem.write_to_path(papers.folder / "renewed.pem")
    settings["renewed"] = {"ca_file": str(papers.folder / "renewed.pem")}
    settings["demanding"] |= {"cert_file": ours[0], "key_file": ours[1]}
    rows = [
        {"name": name, "url": endpoint.url, "models": [name], "tls": settings[name]}
        for name, endpoint in endpoints.items()
    ]
    rows.append({"name": "plain", "url": fleet.urls[0], "models": ["tiny"]})
    config = {
        "listeners": [{"address": "127.0.0.1:0", "tls": {"cert": listener[0], "key": listener[1]}}],
        "pools": [{"name": "main", "endpoints": rows}],
    }
    with running_router(config) as router:
        yield Scene(router, endpoints, papers)
    for endpoint in endpoints.values():
        endpoint.sock.close()


# ---- Towards endpoints


@pytest.mark.parametrize("name", ["good", "named", "unchecked", "demanding"])
def test_an_endpoint_with_the_right_papers_is_spoken_to(scene: Scene, name: str) -> None:
    with scene.dial() as client:
        scene.ask(name, client)
        with scene.endpoints[name].accept() as engine:
            line, fields, _ = engine.take_request()
            assert line == "POST /v1/chat/completions HTTP/1.1"
            assert fields["x-forwarded-proto"] == "https"
            engine.send_response(b'{"ok":true}', connection="close")
            assert client.take_response()[2] == b'{"ok":true}'
    scene.router.wait_settled()


@pytest.mark.parametrize("name", ["misnamed", "stranger", "unmet"])
def test_an_endpoint_with_the_wrong_papers_is_a_502_and_gets_no_byte(scene: Scene, name: str) -> None:
    with scene.dial() as client:
        scene.ask(name, client)
        scene.endpoints[name].accept_badly()
        status, _, body = client.take_response()
        assert status == 502
        assert json.loads(body)["error"]["code"] in ("tls_failed", "upstream_reset")
    scene.router.wait_settled()


def test_a_renewed_client_certificate_is_shown_on_the_next_connection(scene: Scene) -> None:
    def serial() -> int:
        with scene.dial() as client:
            scene.ask("demanding", client)
            with scene.endpoints["demanding"].accept() as engine:
                engine.take_request()
                assert isinstance(engine.sock, ssl.SSLSocket)
                shown = engine.sock.getpeercert() or {}
                engine.send_response(b"{}", connection="close")
                assert client.take_response()[0] == 200
        return int(str(shown["serialNumber"]), 16)

    before = serial()
    scene.papers.issue("ours", "router.example")
    wait_until(lambda: serial() != before, "the new certificate is shown")
    scene.router.wait_settled()


def test_authorities_that_change_are_trusted_on_the_next_connection(scene: Scene) -> None:
    # A file of its own: "stranger" is not trusted by the others', and they go on being spoken to.
    path = scene.papers.folder / "renewed.pem"

    def is_trusted() -> bool:
        with scene.dial() as client:
            scene.ask("renewed", client)
            try:
                with scene.endpoints["renewed"].accept() as engine:
                    engine.take_request()
                    engine.send_response(b"{}", connection="close")
            except (ssl.SSLError, ConnectionError, EOFError):
                pass
            return client.take_response()[0] == 200

    assert not is_trusted()
    scene.papers.stranger.cert_pem.write_to_path(path)
    wait_until(is_trusted, "the new authority is trusted")
    scene.router.wait_settled()


def test_an_endpoint_is_asked_for_by_its_name_and_an_address_by_none(scene: Scene) -> None:
    for name, wanted in (("named", "engine.example"), ("good", None)):
        scene.endpoints[name].names.clear()
        with scene.dial() as client:
            scene.ask(name, client)
            with scene.endpoints[name].accept() as engine:
                engine.take_request()
                engine.send_response(b"{}", connection="close")
                client.take_response()
        assert scene.endpoints[name].names == [wanted]


def test_a_kept_connection_to_an_endpoint_is_used_again(scene: Scene) -> None:
    with scene.dial() as client:
        scene.ask("good", client)
        with scene.endpoints["good"].accept() as engine:
            for last in (False, False, True):
                engine.take_request()
                engine.send_response(b"{}", **({"connection": "close"} if last else {}))
                assert client.take_response()[0] == 200
                if not last:
                    scene.ask("good", client)


def test_an_endpoint_that_goes_without_close_notify_cannot_look_complete(scene: Scene) -> None:
    with scene.dial() as client:
        scene.ask("good", client)
        with scene.endpoints["good"].accept() as engine:
            engine.take_request()
            engine.send(b"HTTP/1.1 200 OK\r\n\r\nthe body ends with the connection")
            client.take_until(b"connection")
            os.close(engine.sock.detach())
            assert client.wait_closed() == "reset"
    scene.router.wait_settled()


def test_large_bodies_pass_both_ways(scene: Scene) -> None:
    answer = os.urandom(16 * MIB)
    body = chat(model="good", padding=base64.b64encode(os.urandom(8 * MIB)).decode())
    with scene.dial() as client:
        sending = threading.Thread(target=client.send, args=(request(body),))
        sending.start()
        with scene.endpoints["good"].accept() as engine:
            assert engine.take_request()[2] == body
            sending.join(30)
            answering = threading.Thread(target=engine.send_response, args=(answer,))
            answering.start()
            _, _, got = client.take_response()
            answering.join(30)
            assert hashlib.sha1(got).digest() == hashlib.sha1(answer).digest()
            # Many small records in one read, and events that share records.
            scene.ask("good", client)
            engine.take_request()
            events = [b"data: %d\n\n" % index for index in range(5000)]
            stream = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
            engine.send(STREAM_HEAD)
            answering = threading.Thread(target=engine.send, args=(stream + b"0\r\n\r\n",))
            answering.start()
            assert client.take_response()[2] == b"".join(events)
            answering.join(30)
    scene.router.wait_settled()


def test_a_reader_that_stalls_gets_every_byte_later(scene: Scene) -> None:
    answer = os.urandom(MIB) * 32
    with scene.dial() as client:
        scene.ask("good", client)
        with scene.endpoints["good"].accept() as engine:
            engine.take_request()
            answering = threading.Thread(target=engine.send_response, args=(answer,))
            answering.start()
            answering.join(0.5)  # by now all buffers on the way are full
            assert answering.is_alive()
            got = client.take_response()[2]
            answering.join(30)
    assert hashlib.sha1(got).digest() == hashlib.sha1(answer).digest()
    scene.router.wait_settled()


# ---- Towards clients


def test_a_client_that_speaks_no_tls_is_sent_away_and_harms_nobody(scene: Scene) -> None:
    with dial(scene.router.address) as client:
        client.send(request(chat()))
        client.wait_closed()
    with socket.create_connection(scene.router.address, timeout=30) as half:
        half.sendall(b"\x16\x03\x01")
    failures = scene.router.metrics().sum("fairlead_tls_failures_total")
    with pytest.raises(ssl.SSLError), scene.dial("other.example"):
        pass
    wait_until(
        lambda: scene.router.metrics().sum("fairlead_tls_failures_total") > failures, "the failure is counted"
    )
    wait_until(
        lambda: scene.router.metrics().sum("fairlead_connections_open") == 0, "their connections are closed"
    )


def test_models_are_listed_over_tls(scene: Scene) -> None:
    for _ in range(3):
        with scene.dial() as client:
            client.send(request(method="GET", path="/v1/models"))
            status, _, body = client.take_response()
            assert status == 200
            assert {"good", "tiny"} <= {row["id"] for row in json.loads(body)["data"]}
            assert client.wait_closed() == "end"
    scene.router.wait_metric("fairlead_connections_open", 0)
    scene.router.wait_settled()


def test_a_request_after_others_on_a_connection_may_be_for_the_models(scene: Scene) -> None:
    with scene.dial() as client:
        client.send(request(chat()))
        assert client.take_response()[0] == 200
        client.send(request(method="GET", path="/v1/models"))
        assert client.take_response()[0] == 200
        assert client.wait_closed() == "end"


def test_a_client_that_leaves_cancels_its_engine(scene: Scene) -> None:
    client = scene.dial()
    scene.ask("good", client)
    with scene.endpoints["good"].accept() as engine:
        engine.take_request()
        client.reset()
        engine.wait_closed()
    scene.router.wait_settled()


def test_certificates_that_change_are_used_by_the_next_connection(scene: Scene) -> None:
    def serial() -> int:
        with scene.dial() as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return int(str((client.sock.getpeercert() or {})["serialNumber"]), 16)

    before = serial()
    with scene.dial() as kept:
        scene.papers.issue("listener", "localhost")
        wait_until(lambda: serial() != before, "the new certificate is shown")
        kept.send(request(chat()))
        assert kept.take_response()[0] == 200


def test_a_bad_certificate_file_leaves_the_old_one_in_use(scene: Scene) -> None:
    path = scene.papers.folder / "listener.pem"
    good = path.read_bytes()
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n")
    wait_until(lambda: "the old one stays in use" in scene.router.log(), "the log says so")
    with scene.dial() as client:
        client.send(request(chat()))
        assert client.take_response()[0] == 200
    path.write_bytes(good)


def test_a_thousand_small_requests_pass_on_kept_connections(scene: Scene) -> None:
    async def one(session: aiohttp.ClientSession) -> None:
        for _ in range(50):
            async with session.post(
                f"https://localhost:{scene.router.address[1]}/v1/chat/completions", data=chat(max_tokens=2)
            ) as answer:
                assert answer.status == 200
                await answer.read()

    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=scene.papers.client_context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(one(session) for _ in range(20)))

    asyncio.run(main())
    scene.router.wait_settled()


def test_websockets_pass_over_tls_on_both_sides(papers: Papers) -> None:
    async def echo(asked: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(asked)
        async for message in answer:
            await answer.send_bytes(message.data)
        return answer

    async def main() -> None:
        application = web.Application()
        application.router.add_get("/ws", echo)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=papers.server_context("ws", "127.0.0.1"))
        await site.start()
        port = runner.addresses[0][1]
        listener = papers.issue("ws-listener", "localhost")
        config = {
            "listeners": [{"address": "127.0.0.1:0", "tls": {"cert": listener[0], "key": listener[1]}}],
            "pools": [
                {
                    "name": "main",
                    "endpoints": [{"url": f"https://127.0.0.1:{port}", "tls": {"ca_file": papers.ca_file}}],
                }
            ],
        }
        with running_router(config) as router:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(
                    f"https://localhost:{router.address[1]}/ws",
                    ssl=papers.client_context(),
                    max_msg_size=8 * MIB,
                ) as socket_,
            ):
                for size in (0, 5, 70_000, 3 * MIB):
                    await socket_.send_bytes(b"x" * size)
                    assert await socket_.receive_bytes() == b"x" * size
            await asyncio.to_thread(router.wait_settled)
        await runner.cleanup()

    asyncio.run(main())
