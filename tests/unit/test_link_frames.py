"""Frames of the link: what is sent is what is read, and what is no frame is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.schema import link

BODY = link.SnapshotBody(
    stable=link.VariantBody(version=3, document=b"one"),
    canary=link.VariantBody(version=4, document=b"two"),
    canary_ratio=0.25,
)


def test_a_frame_is_its_length_and_itself() -> None:
    frame = link.Hello(protocol=link.PROTOCOL, router="r", instance="i", kept=("a", "b"))
    data = link.encode_frame(frame)
    header, payload = data[: link.HEADER_BYTES], data[link.HEADER_BYTES :]
    assert link.frame_length(header) == len(payload)
    assert link.decode_frame(payload) == frame


@given(st.binary(max_size=200))
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    try:
        frame = link.decode_frame(data)
    except ValueError:
        return
    assert link.decode_frame(link.encode_frame(frame)[link.HEADER_BYTES :]) == frame


def test_fields_that_a_newer_release_adds_are_passed_over() -> None:
    data = b"\x83\xa4type\xa4Ping\xa6number\x03\xa5other\x01"
    assert link.decode_frame(data) == link.Ping(number=3)


def test_a_body_is_named_by_what_it_says() -> None:
    data = link.encode_body(BODY)
    assert link.decode_body(data) == BODY
    assert link.body_id(data) == link.body_id(link.encode_body(link.decode_body(data)))


def test_a_body_of_a_newer_schema_is_refused_with_the_reason() -> None:
    data = link.encode_body(link.SnapshotBody(schema=link.BODY_SCHEMA + 1, stable=BODY.stable))
    with pytest.raises(ValueError, match="upgrade the router"):
        link.decode_body(data)


def test_a_signature_is_of_both_id_and_sequence() -> None:
    name = link.body_id(b"x")
    assert link.signed_bytes(1, name) != link.signed_bytes(2, name)
    assert link.signed_bytes(1, name) != link.signed_bytes(1, link.body_id(b"y"))
    with pytest.raises(ValueError):
        link.signed_bytes(1, "abcd")
