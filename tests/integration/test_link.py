"""The link, both ends over real sockets: snapshots arrive and are acked; neither end waits for the other."""

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path

import pytest
import trustme

from control.link import LinkServer, RouterLink
from control.publish import Desired, Publisher
from control.signing import Signer, load_signer, make_key_file
from router.config import parse_config, parse_document
from router.received_policy import Policy, ReceivedPolicies
from router.schema import link
from router.schema.config import Config
from router.schema.control_link import ControlLink, ControlTls
from router.schema.policy_document import PolicyDocument
from router.schema.secret import Secret
from router.subscriber import Subscriber, Told

OWN = parse_config('pools: [{name: own, endpoints: [{url: "http://own:1"}]}]', "own.yaml", {})
TIMEOUT_S = 30.0


def document(host: str) -> PolicyDocument:
    return PolicyDocument.of(parse_document(f'pools: [{{name: p, endpoints: [{{url: "http://{host}:1"}}]}}]'))


class Router:
    """A router that puts everything in force, unless it is told not to."""

    def __init__(self) -> None:
        self.own_config: Config = OWN
        self.hosts: list[str] = []
        self.told: list[Told] = []
        self.refusal = ""
        self.may_apply = asyncio.Event()
        self.may_apply.set()
        self.changed = asyncio.Condition()

    async def put_in_force(self, policy: Policy) -> str:
        await self.may_apply.wait()
        if not self.refusal:
            self.hosts.append(policy.stable_config(OWN).pools[0].endpoints[0].url)
        return self.refusal

    def tell_signals(self, told: Iterable[Told]) -> None:
        self.told += told

    def report(self) -> link.Report:
        return link.Report(sequence=0, uptime_ms=1, bucket_bounds_us=(), routes=(), endpoints=())


class Stage:
    """A control, and routers that connect to it."""

    def __init__(self, signer: Signer | None = None, token: Secret | None = None) -> None:
        self.acks: asyncio.Queue[tuple[str, link.Ack]] = asyncio.Queue()
        self.reports: asyncio.Queue[str] = asyncio.Queue()
        self.hellos: asyncio.Queue[RouterLink] = asyncio.Queue()
        self._sequence = 0
        self._token = token
        self.publisher = Publisher(signer)
        self.server = self._server()
        self._tasks: list[asyncio.Task[None]] = []

    def _server(self) -> LinkServer:
        return LinkServer(
            name="control",
            token=self._token,
            on_hello=self.hellos.put_nowait,
            on_ack=lambda router, ack: self.acks.put_nowait((router.name, ack)),
            on_report=lambda router, _report: self.reports.put_nowait(router.name),
        )

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def start_router(
        self, settings: ControlLink, name: str = "r", received: ReceivedPolicies | None = None
    ) -> Router:
        router = Router()
        subscriber = Subscriber(
            settings, name, received or ReceivedPolicies(settings.public_key, None), router, worker_count=1
        )
        self._tasks.append(asyncio.get_running_loop().create_task(subscriber.run()))
        return router

    def publish(self, host: str, version: int = 1) -> link.SnapshotFrame:
        body = self.publisher.body_of(Desired(stable_version=version, stable=document(host)))
        frame = self.publisher.publish(body, self._next())
        self.server.publish(frame)
        return frame

    async def restart(self, address: str) -> None:
        latest = self.publisher.latest
        await self.server.close()
        self.server = self._server()
        if latest is not None:
            self.server.publish(latest)
        await self.server.listen(address)

    async def ack(self) -> tuple[str, link.Ack]:
        return await asyncio.wait_for(self.acks.get(), TIMEOUT_S)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.close()


def place(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/c.sock"


def test_a_snapshot_reaches_the_router_and_its_ack_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        signer = make_key_file(tmp_path / "key.pem")
        assert load_signer(tmp_path / "key.pem").public_key == signer.public_key
        stage = Stage(signer)
        await stage.server.listen(place(tmp_path))
        assert (tmp_path / "c.sock").stat().st_mode & 0o077 == 0
        router = stage.start_router(ControlLink(address=place(tmp_path), public_key=signer.public_key))
        await stage.hellos.get()
        frame = stage.publish("a")
        name, ack = await stage.ack()
        assert (name, ack.sequence, ack.refusal, router.hosts) == ("r", frame.sequence, "", ["http://a:1"])
        stage.publish("b", 2)
        assert (await stage.ack())[1].sequence == 2
        assert router.hosts == ["http://a:1", "http://b:1"]
        assert await asyncio.wait_for(stage.reports.get(), TIMEOUT_S) == "r"
        await stage.close()

    asyncio.run(scenario())


def test_a_router_that_comes_later_gets_what_is_in_force(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        stage.publish("a")
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        await stage.ack()
        assert router.hosts == ["http://a:1"]
        await stage.close()

    asyncio.run(scenario())


def test_going_back_sends_a_name_and_not_the_snapshot(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        connected = await stage.hellos.get()
        for host in ("a", "b", "a"):
            frame = stage.publish(host)
            await stage.ack()
            assert frame.snapshot_id in connected.kept
        assert router.hosts == ["http://a:1", "http://b:1", "http://a:1"]
        await stage.close()

    asyncio.run(scenario())


def test_the_same_snapshot_under_a_new_sequence_is_taken_without_being_put_in_force_again(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        stage.publish("a")
        await stage.ack()
        stage.server.publish(stage.publisher.publish(None, 9))
        _name, ack = await stage.ack()
        assert (ack.sequence, ack.refusal, router.hosts) == (9, "", ["http://a:1"])
        await stage.close()

    asyncio.run(scenario())


def test_control_that_is_restarted_is_found_again_and_sends_nothing_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        stage.publish("a")
        await stage.ack()
        await stage.restart(place(tmp_path))
        assert (await stage.ack())[1].refusal == ""
        assert router.hosts == ["http://a:1"]
        stage.publish("b")
        assert (await stage.ack())[1].sequence == 2
        assert router.hosts == ["http://a:1", "http://b:1"]
        await stage.close()

    asyncio.run(scenario())


def test_a_refusal_comes_back_with_its_reason_and_the_next_snapshot_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        connected = await stage.hellos.get()
        router.refusal = "no worker is ready"
        stage.publish("a")
        assert (await stage.ack())[1].refusal == "no worker is ready"
        assert (connected.refusal, connected.sequence) == ("no worker is ready", 0)
        router.refusal = ""
        stage.publish("b")
        assert (await stage.ack())[1].refusal == ""
        assert router.hosts == ["http://b:1"]
        await stage.close()

    asyncio.run(scenario())


def test_one_that_never_acks_holds_nobody_up_and_is_sent_the_newest_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        slow = stage.start_router(ControlLink(address=place(tmp_path)), "slow")
        quick = stage.start_router(ControlLink(address=place(tmp_path)), "quick")
        await stage.hellos.get()
        await stage.hellos.get()
        slow.may_apply.clear()
        for host in "abcdef":
            stage.publish(host)
            assert (await stage.ack())[0] == "quick"
        assert len(quick.hosts) == 6
        slow.may_apply.set()
        while (await stage.ack())[1].sequence != 6:
            pass
        assert slow.hosts[-1] == "http://f:1"
        assert len(slow.hosts) < 6
        await stage.close()

    asyncio.run(scenario())


def test_a_snapshot_that_is_not_signed_by_the_key_that_is_trusted_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        trusted = make_key_file(tmp_path / "trusted.pem")
        stage = Stage(make_key_file(tmp_path / "other.pem"))
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path), public_key=trusted.public_key))
        stage.publish("a")
        assert "not signed" in (await stage.ack())[1].refusal
        assert router.hosts == []
        await stage.close()

    asyncio.run(scenario())


def test_whoever_has_not_the_token_is_told_so_and_hears_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage(token=Secret("right"))
        await stage.server.listen(place(tmp_path))
        stage.publish("a")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
        hello = link.Hello(protocol=link.PROTOCOL, router="r", instance="i", token="wrong")
        writer.write(link.encode_frame(hello))
        data = await reader.read()
        answer = link.decode_frame(data[link.HEADER_BYTES :])
        assert isinstance(answer, link.Refused)
        assert "token" in answer.reason
        assert "right" not in answer.reason
        writer.close()
        router = stage.start_router(ControlLink(address=place(tmp_path), token=Secret("right")))
        await stage.ack()
        assert router.hosts == ["http://a:1"]
        await stage.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff\xff\xff\x7f",
        link.encode_frame(link.Ping(number=1)),
        link.encode_frame(link.Hello(protocol=99, router="r", instance="i")),
        b"\x03\x00\x00\x00abc",
    ],
)
def test_whoever_speaks_otherwise_is_cut_and_control_goes_on(tmp_path: Path, sent: bytes) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
        writer.write(sent)
        await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        stage.publish("a")
        stage.start_router(ControlLink(address=place(tmp_path)))
        await stage.ack()
        await stage.close()

    asyncio.run(scenario())


def test_signals_arrive_with_their_age(tmp_path: Path) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.server.listen(place(tmp_path))
        router = stage.start_router(ControlLink(address=place(tmp_path)))
        connected = await stage.hellos.get()
        connected.tell((link.Signal("e", "health", 0.5, 250),))
        stage.publish("a")
        await stage.ack()
        ((endpoint, kind, value, stamp_us),) = router.told
        assert (endpoint, kind, value) == ("e", "health", 0.5)
        assert stamp_us > 0
        await stage.close()

    asyncio.run(scenario())


def test_over_tcp_both_ends_show_certificates(tmp_path: Path) -> None:
    async def scenario() -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        for name in ("127.0.0.1", "router.internal"):
            issued = authority.issue_cert(name)
            issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
        context.load_cert_chain(tmp_path / "127.0.0.1.pem", tmp_path / "127.0.0.1.key")
        context.verify_mode = ssl.CERT_REQUIRED
        stage = Stage()
        await stage.server.listen("127.0.0.1:0", context)
        stage.publish("a")
        tls = ControlTls(
            ca_file=str(tmp_path / "ca.pem"),
            cert_file=str(tmp_path / "router.internal.pem"),
            key_file=str(tmp_path / "router.internal.key"),
        )
        router = stage.start_router(ControlLink(address=stage.server.addresses[0], tls=tls))
        await stage.ack()
        assert router.hosts == ["http://a:1"]
        await stage.close()

    asyncio.run(scenario())
