"""Where signals come from in the request path: load reports in answers, round trips of handshakes."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.scripted import Scripted

MS = 1000


def ask(scripted: Scripted, number: int = 0, fields: str = "") -> tuple[int, int, bytes]:
    """A client that has asked for something new; its number, the endpoint's, and what that one was sent."""
    content = f"{number}: " + "Say why the sky is blue. " * 40
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
    )
    fields = f"Host: api.example\r\n{fields}Content-Length: {len(body)}\r\n"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n"
    client = scripted.driver.accept()
    scripted.driver.receive(client, head.encode() + body)
    scripted.establish_all()
    for upstream in scripted.driver.upstreams():
        if sent := scripted.driver.take(upstream):
            return client, upstream, sent
    raise AssertionError("nobody was asked")


def answer(scripted: Scripted, client: int, upstream: int, report: str) -> bytes:
    """What the client gets when the endpoint answers with this load report."""
    line = f"endpoint-load-metrics: {report}\r\n" if report else ""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{line}Content-Length: 2\r\n\r\n"
    scripted.driver.receive(upstream, head.encode() + b"{}")
    return scripted.driver.take(client)


def slot_of(scripted: Scripted, upstream: int) -> int:
    return scripted.driver.state(upstream)["port"] - 9000


REPORT = "TEXT named_metrics.num_requests_waiting=3.0, named_metrics.kv_cache_usage_perc=0.875"


def test_a_report_is_asked_for_read_and_kept_from_the_client() -> None:
    scripted = Scripted(endpoint={"load_report": "read"})
    client, upstream, sent = ask(scripted, fields="Endpoint-Load-Metrics-Format: JSON\r\n")
    assert sent.lower().count(b"endpoint-load-metrics-format") == 1
    assert b"endpoint-load-metrics-format: TEXT\r\n" in sent
    got = answer(scripted, client, upstream, REPORT)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"endpoint-load-metrics" not in got
    now_us = 1_000_000_000
    slot = slot_of(scripted, upstream)
    assert scripted.signals.read(slot, now_us) == {"waiting": (3, 0, "header"), "kv": (0.875, 0, "header")}
    assert scripted.signals.read(1 - slot, now_us) == {}
    scripted.finish()


def test_a_report_may_be_shown_in_the_form_the_client_asked_for() -> None:
    scripted = Scripted(endpoint={"load_report": "show"})
    client, upstream, sent = ask(scripted, fields="Endpoint-Load-Metrics-Format: JSON\r\n")
    assert sent.lower().count(b"endpoint-load-metrics-format") == 1
    assert b"Endpoint-Load-Metrics-Format: JSON\r\n" in sent
    report = 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.5}}'
    assert f"endpoint-load-metrics: {report}\r\n".encode() in answer(scripted, client, upstream, report)
    assert scripted.signals.read(slot_of(scripted, upstream), 1_000_000_000)["kv"][0] == 0.5
    scripted.finish()


def test_untouched_reports_are_between_the_client_and_the_engine() -> None:
    scripted = Scripted()
    client, upstream, sent = ask(scripted)
    assert b"endpoint-load-metrics-format" not in sent
    assert REPORT.encode() in answer(scripted, client, upstream, REPORT)
    assert scripted.signals.read(slot_of(scripted, upstream), 1_000_000_000) == {}
    scripted.finish()


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("\x01", None),  # no field value at all: the answer is malformed
        ("TEXT ?", "unreadable"),
        ("JSON {}", "unreadable"),
        ("TEXT kv_cache_usage_perc=nan", "not_a_number"),
        ("TEXT kv_cache_usage_perc=-0.5", "negative"),
        ("TEXT kv_cache_usage_perc=99", "too_large"),
    ],
)
def test_garbage_is_counted_and_changes_nothing(report: str, reason: str | None) -> None:
    scripted = Scripted(endpoint={"load_report": "read"})
    client, upstream, _sent = ask(scripted)
    got = answer(scripted, client, upstream, report)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n" if reason else b"")
    assert scripted.signals.read(slot_of(scripted, upstream), 1_000_000_000) == {}
    counts = {key: count for key, count in scripted.signals.rejected().items() if count}
    assert counts == ({("header", reason): 1} if reason else {})
    scripted.finish()


def test_a_report_of_a_full_cache_moves_the_traffic_until_it_is_old() -> None:
    scripted = Scripted(endpoint={"load_report": "read", "engine_class": "8b-a100"})
    client, upstream, _sent = ask(scripted)
    full = slot_of(scripted, upstream)
    answer(scripted, client, upstream, "TEXT kv_cache_usage_perc=0.97")
    for number in range(1, 9):
        scripted.driver.advance(20 * MS)
        client, upstream, _sent = ask(scripted, number)
        assert slot_of(scripted, upstream) == 1 - full
        answer(scripted, client, upstream, "TEXT kv_cache_usage_perc=0.3")
    scripted.driver.advance(6000 * MS)
    client, upstream, _sent = ask(scripted, 9)
    answer(scripted, client, upstream, "TEXT kv_cache_usage_perc=0.97")
    scripted.driver.advance(20 * MS)
    other = 1 - slot_of(scripted, upstream)
    client, upstream, _sent = ask(scripted, 10)
    assert slot_of(scripted, upstream) == other
    answer(scripted, client, upstream, "")
    scripted.finish()


def test_a_handshake_measures_the_distance_and_the_nearer_one_is_asked() -> None:
    scripted = Scripted(endpoint={"rtt_ms": 30})
    scripted.driver.set_round_trip(200 * MS)
    client, upstream, _sent = ask(scripted)
    far = slot_of(scripted, upstream)
    rtt_s, *age_and_source = scripted.signals.read(far, 1_000_000_000)["rtt_s"]
    assert rtt_s == pytest.approx(0.2, rel=1e-4)
    assert age_and_source == [0, "local"]
    answer(scripted, client, upstream, "")
    scripted.driver.advance(20 * MS)
    scripted.driver.set_round_trip(0)
    client, upstream, _sent = ask(scripted, 1)
    assert slot_of(scripted, upstream) == 1 - far
    assert scripted.signals.read(1 - far, 1_000_000_000) == {}
    scripted.finish()
