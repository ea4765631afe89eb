"""Listening sockets: one queue per worker, addresses that tell what is wrong, nothing shared by accident."""

import os
import socket
from pathlib import Path

import pytest

from router.listeners import ListenError, open_listener, sockets_from_systemd


@pytest.mark.parametrize(("socket_count", "worker_count"), [(1, 1), (1, 4), (3, 3), (5, 2), (7, 3), (2, 3)])
def test_every_worker_has_a_queue_and_every_queue_a_worker(socket_count: int, worker_count: int) -> None:
    listener = open_listener("127.0.0.1:0", socket_count)
    try:
        shares = [listener.share(index, worker_count) for index in range(worker_count)]
        assert all(shares)
        assert {sock for share in shares for sock in share} == set(listener.sockets)
    finally:
        listener.close()


def test_all_queues_of_port_0_are_of_one_port() -> None:
    listener = open_listener("127.0.0.1:0", 3)
    try:
        assert len({sock.getsockname() for sock in listener.sockets}) == 1
        assert listener.bound_address == f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


def test_a_port_of_another_router_is_refused_even_though_it_could_be_shared() -> None:
    first = open_listener("127.0.0.1:0", 1)
    try:
        with pytest.raises(ListenError, match=r"Address already in use .*fairlead upgrade"):
            open_listener(first.bound_address, 1)
    finally:
        first.close()


def test_inherited_queues_are_used_and_added_to() -> None:
    first = open_listener("127.0.0.1:0", 2)
    inherited = [sock.dup() for sock in first.sockets]
    second = open_listener("127.0.0.1:0", 4, inherited)
    try:
        assert second.sockets[:2] == inherited
        assert len(second.sockets) == 4
        assert second.bound_address == first.bound_address
    finally:
        first.close()
        second.close()


def test_an_inherited_socket_that_cannot_be_multiplied_is_shared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        listener = open_listener("127.0.0.1:1", 4, [passed])
        assert listener.sockets == [passed]
        assert [listener.share(index, 4) for index in range(4)] == [[passed]] * 4


@pytest.mark.parametrize(
    ("address", "reason"),
    [("192.0.2.1:8080", "no such address"), ("no-such-host.invalid:80", "host name is unknown")],
)
def test_an_address_that_cannot_be_had_says_why(address: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason) as caught:
        open_listener(address, 1)
    assert address in str(caught.value)


def test_ipv6_leaves_ipv4_to_others() -> None:
    six = open_listener("[::]:0", 1)
    four = None
    try:
        assert six.bound_address.startswith("[::]:")
        four = open_listener(f"0.0.0.0:{six.sockets[0].getsockname()[1]}", 1)
    finally:
        six.close()
        if four is not None:
            four.close()


def test_a_unix_socket_replaces_a_dead_one_and_refuses_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = open_listener(f"unix:{path}", 4)
    assert len(first.sockets) == 1
    with pytest.raises(ListenError, match="must be free"):
        open_listener(f"unix:{path}", 1)
    first.close()
    second = open_listener(f"unix:{path}", 1)
    second.close()
    path.unlink()
    path.write_text("a file")
    with pytest.raises(ListenError, match="must be free"):
        open_listener(f"unix:{path}", 1)
    assert path.read_text() == "a file"


def test_sockets_meant_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert sockets_from_systemd() == {}
    assert "LISTEN_FDS" not in os.environ
