"""What a mock engine shares with the servers it stands for, as recorded from a vLLM 0.32 and a llama.cpp.

docs/explanation/mocks-and-real-engines.md lists the differences that are left.
"""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.mock.fleet import EngineSpec, Fleet
from tests.support.raw_peer import Peer, chat, dial, request
from tests.support.router_process import one_pool, running_router


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """0: sound; 1: ends its connections as llama.cpp does."""
    specs = [
        EngineSpec(engine_class="instant", models=("tiny",)),
        EngineSpec(engine_class="instant", models=("tiny",), faults=("silent-close",)),
    ]
    with Fleet(specs) as running:
        yield running


def engine(fleet: Fleet, index: int = 0) -> Peer:
    return dial(("127.0.0.1", fleet.engines[index].port))


def field_names(peer: Peer) -> list[str]:
    _, fields = peer.take_head()
    return list(fields)


def test_heads_have_uvicorns_fields_in_its_order(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(chat(stream=True), connection="close"))
        assert field_names(peer) == [
            "date", "server", "content-type", "vary", "connection", "transfer-encoding"
        ]  # fmt: skip
    with engine(fleet) as peer:
        peer.send(request(chat(), endpoint_load_metrics_format="TEXT"))
        assert field_names(peer) == [
            "date", "server", "endpoint-load-metrics", "content-length", "content-type", "vary"
        ]  # fmt: skip


def test_an_answer_without_a_body_has_no_content_type(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(method="GET", path="/health"))
        _, fields, body = peer.take_response()
    assert "content-type" not in fields
    assert (fields["content-length"], body) == ("0", b"")


def test_a_load_report_never_comes_with_a_stream(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(chat(stream=True), endpoint_load_metrics_format="JSON"))
        assert "endpoint-load-metrics" not in field_names(peer)


def test_an_http10_client_gets_chunks_and_no_second_answer(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        body = chat(stream=True, max_tokens=2)
        peer.send(request(body, connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, fields, body = peer.take_response()
        assert (status, fields["connection"], fields["transfer-encoding"]) == (200, "close", "chunked")
        assert peer.wait_closed() == "end"


def test_continue_is_said_even_to_who_has_not_waited_for_it(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(chat(), expect="100-continue"))
        assert peer.take_head()[0] == "HTTP/1.1 100 Continue"
        assert peer.take_response()[0] == 200


def test_a_head_of_a_hundred_kilobytes_is_taken(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(method="GET", path="/health", x_big="a" * 100_000))
        assert peer.take_response()[0] == 200


def test_a_get_where_only_post_is_served_is_405_with_allow(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(method="GET"))
        status, fields, body = peer.take_response()
    assert (status, fields["allow"], body) == (405, "POST", b'{"detail":"Method Not Allowed"}')


def test_a_request_that_offers_http2_loses_its_body(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(chat(), connection="upgrade", upgrade="h2c"))
        status, _, body = peer.take_response()
    assert status == 400
    assert b"Field required" in body


def test_the_router_keeps_an_offer_of_http2_from_the_engine(fleet: Fleet) -> None:
    with running_router(one_pool(fleet.urls[:1])) as router, dial(router.address) as peer:
        peer.send(request(chat(), connection="upgrade, http2-settings", upgrade="h2c", http2_settings="AAMA"))
        assert peer.take_response()[0] == 200


def test_metrics_name_every_reason_that_vllm_names(fleet: Fleet) -> None:
    with engine(fleet) as peer:
        peer.send(request(method="GET", path="/metrics"))
        _, fields, page = peer.take_response()
    assert fields["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    samples = [
        sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples
    ]
    reasons = {sample.labels.get("finished_reason") for sample in samples} - {None}
    assert reasons == {"stop", "length", "abort", "error", "repetition"}
    waiting = {sample.labels.get("reason") for sample in samples if sample.name.endswith("_by_reason")}
    assert waiting == {"capacity", "deferred"}


def test_a_stream_may_end_its_connection_though_its_head_does_not_say_so(fleet: Fleet) -> None:
    with engine(fleet, 1) as peer:
        peer.send(request(chat(stream=True, max_tokens=2)))
        status, fields, body = peer.take_response()
        assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert "connection" not in fields
        assert peer.wait_closed() == "end"


def test_the_router_replaces_connections_that_end_without_a_word(fleet: Fleet) -> None:
    with running_router(one_pool(fleet.urls[1:])) as router, dial(router.address) as peer:
        for stream in (True, False, True, True, False):
            peer.send(request(chat(stream=stream, max_tokens=2)))
            assert peer.take_response()[0] == 200
        assert router.wait_finished(5).outcomes() == {("completed", "-"): 5}
