"""The slow, certain reading of bodies and paths."""

import pytest

from router.body_facts import (
    BodyFacts,
    BodyUnreadable,
    model_from_path,
    read_body_facts,
    read_json_facts,
    read_json_prefix_facts,
    read_multipart_facts,
    replace_model,
)
from router.limits import MULTIPART_PART_HEAD_BYTES_MAX, MULTIPART_PARTS_MAX, MULTIPART_SCAN_BYTES_MAX

FORM_TYPE = 'multipart/form-data; boundary="----b 1"'


def form(*parts: tuple[str, bytes], boundary: bytes = b"----b 1") -> bytes:
    lines = [
        b"--"
        + boundary
        + b"\r\nContent-Disposition: form-data; "
        + head.encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for head, content in parts
    ]
    return b"".join(lines) + b"--" + boundary + b"--\r\n"


def test_json_escapes_are_resolved() -> None:
    body = b'{"m\\u006fdel":"meta-llama\\/L3","stream":true,"max_tokens":5,"user":"\\u00e9"}'
    assert read_json_facts(body) == BodyFacts(model="meta-llama/L3", stream=True, max_tokens=5, user="é")


def test_last_of_two_models_counts_as_in_the_engines() -> None:
    assert read_json_facts(b'{"model":"a","messages":[],"model":"b"}').model == "b"


def test_max_completion_tokens_counts_before_the_older_names() -> None:
    body = b'{"max_tokens":1,"max_output_tokens":2,"max_completion_tokens":3}'
    assert read_json_facts(body).max_tokens == 3
    assert read_json_facts(b'{"max_tokens":1,"max_completion_tokens":null}').max_tokens == 1


@pytest.mark.parametrize(
    "text", [b'{"stream":"true","max_tokens":"5","user":5}', b'{"max_tokens":1e300}', b"{}"]
)
def test_odd_types_other_than_the_models_count_as_absent(text: bytes) -> None:
    assert read_json_facts(text) == BodyFacts()


def test_byte_order_mark_is_passed_over() -> None:
    assert read_json_facts(b'\xef\xbb\xbf{"model":"a"}').model == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"model":', "not valid JSON"),
        (b'{"model":"a"} x', "not valid JSON"),
        (b'{"model":"\xff"}', "not valid UTF-8"),
        (b'[{"model":"a"}]', "must be a JSON object"),
        (b'{"model":7}', "`model` must be a string"),
        (b'{"model":["a"]}', "`model` must be a string"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_unreadable_json_is_refused_with_a_sentence(text: bytes, message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        read_json_facts(text)


@pytest.mark.parametrize(
    ("prefix", "model"),
    [
        (b'{"model":"a\\/b","messages":[{"content":"cut', "a/b"),
        (b'{"stream" : true , "model":"a"', None),
        (b'{"messages":["cut', None),
        (b'{"messages":[],"model":"a\\u00', None),
        (b'{"model":"a",,', "a"),
        (b'{"model" 1', None),
        (b'{"x":1}{"model":"a",', None),
        (b"{" + b'"a":' + b"[" * 100_000, None),
        (b"", None),
    ],
)
def test_prefix_of_json_gives_the_members_that_are_whole(prefix: bytes, model: str | None) -> None:
    assert read_json_prefix_facts(prefix).model == model


def test_prefix_of_a_whole_body_is_the_whole_reading() -> None:
    body = b'{"model":"a","stream":true,"max_tokens":7,"user":"u"}'
    assert read_json_prefix_facts(body) == read_json_facts(body)


def test_form_names_its_model_in_any_place() -> None:
    audio = ('name="file"; filename="a.wav"', b"RIFF\r\n----b 1\r\n--x\0\xff")
    model = ('name="model"', b"whisper-1")
    for parts in ((audio, model), (model, audio)):
        assert read_multipart_facts(FORM_TYPE, form(*parts), True).model == "whisper-1"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b1",
        "Multipart/Form-Data;charset=utf-8; Boundary=b1",
        'multipart/form-data; boundary="b\\1"',
    ],
)
def test_boundary_is_read_quoted_or_not(content_type: str) -> None:
    assert read_multipart_facts(content_type, form(("name=model", b"m"), boundary=b"b1"), True).model == "m"


def test_form_in_pieces_names_its_model_once_the_field_is_whole() -> None:
    body = form(
        ('name="prompt"', b"p"), ('name="model"', b"dall-e-3"), ('name="image"; filename="a"', b"x" * 100)
    )
    known = body.index(b"dall-e-3") + len(b"dall-e-3\r\n------b 1")
    for size in range(len(body)):
        expected = "dall-e-3" if size >= known else None
        assert read_multipart_facts(FORM_TYPE, body[:size], False).model == expected


def test_form_fields_stream_and_user_are_read() -> None:
    body = form(('name="stream"', b"True"), ('name="user"', "é".encode()), ('name="model"', b"m"))
    assert read_multipart_facts(FORM_TYPE, body, True) == BodyFacts(model="m", stream=True, user="é")


def test_file_name_that_looks_like_a_field_is_no_field() -> None:
    body = form(
        ('name="file"; filename="x; name=\\"model\\""', b"no"), ('filename="name=model"; name="other"', b"no")
    )
    assert read_multipart_facts(FORM_TYPE, body, True).model is None


def test_preamble_and_padding_are_passed_over() -> None:
    body = b"preamble\r\n" + form(('name="model"', b"m"), boundary=b"b1").replace(b"--b1\r\n", b"--b1 \t\r\n")
    assert read_multipart_facts("multipart/form-data; boundary=b1", body, True).model == "m"


def test_model_behind_too_many_parts_or_too_long_a_head_is_not_looked_for() -> None:
    model = ('name="model"', b"m")
    few = form(*[('name="a"', b"")] * (MULTIPART_PARTS_MAX - 1), model)
    many = form(*[('name="a"', b"")] * MULTIPART_PARTS_MAX, model)
    long = form((f'name="a"; x="{"y" * MULTIPART_PART_HEAD_BYTES_MAX}"', b""), model)
    assert read_multipart_facts(FORM_TYPE, few, True).model == "m"
    assert read_multipart_facts(FORM_TYPE, many, True).model is None
    assert read_multipart_facts(FORM_TYPE, long, True).model is None


def test_model_behind_the_scan_bound_is_not_looked_for() -> None:
    body = form(('name="file"; filename="a"', b"x" * MULTIPART_SCAN_BYTES_MAX), ('name="model"', b"m"))
    assert read_multipart_facts(FORM_TYPE, body, True).model is None


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", b"", "no boundary"),
        (FORM_TYPE, b"--other\r\n\r\n", "does not contain the boundary"),
        (FORM_TYPE, form(('name="model"', b"\xff")), "not valid UTF-8"),
        (FORM_TYPE, form(('name="model"', b"x" * 257)), "longer than"),
        (FORM_TYPE, form(('name="model"', b"a"), ('name="model"', b"b")), "more than one"),
    ],
)
def test_unreadable_form_is_refused_with_a_sentence(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        read_multipart_facts(content_type, body, True)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "gpt-4o"),
        ("/openai/deployments/gpt-4o", None),
        ("/v1beta/models/gemini-2.0-flash:generateContent", "gemini-2.0-flash"),
        ("/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse", "gemini-2.0-flash"),
        ("/v1/projects/p/locations/l/publishers/google/models/gemini-pro:countTokens", "gemini-pro"),
        ("/v1/models/resnet:predict", "resnet"),
        ("/v1/models/resnet/versions/3:predict", "resnet"),
        ("/v2/models/llama%2F3/infer", "llama/3"),
        ("/v2/models/llama/versions/2/generate", "llama"),
        ("/v2/models/llama/generate_stream", "llama"),
        ("/v2/models/llama/ready", None),
        ("/v2/models/a%0Ab/infer", None),
        ("/v2/models/" + "x" * 257 + "/infer", None),
        ("/v1/models/gpt-4o", None),
        ("/v1/chat/completions", None),
        ("/v1/chat/completions?x=/v2/models/a/infer", None),
    ],
)
def test_path_names_the_model_where_its_api_has_it_there(path: str, model: str | None) -> None:
    assert model_from_path(path) == model


@pytest.mark.parametrize(
    ("path", "content_type", "body", "complete", "facts"),
    [
        (
            b"/v1/chat/completions",
            b"application/json",
            b'{"model":"a","stream":true}',
            True,
            ("a", True, None),
        ),
        (
            b"/v1/chat/completions",
            b"application/json",
            b'{"model":"a\\/b","messages":[',
            False,
            ("a/b", False, None),
        ),
        (
            b"/v2/models/p/generate_stream",
            b"application/json",
            b'{"model":"a","user":"u"}',
            True,
            ("p", True, "u"),
        ),
        (b"/v2/models/p/infer", b"application/json", b'{"cut', True, ("p", False, None)),
        (b"/v1beta/models/g:streamGenerateContent", b"", b"", True, ("g", True, None)),
        (b"/generate", b"application/octet-stream", b"\x00\xff", True, (None, False, None)),
        (b"/generate", b"application/json", b"[1]", True, (None, False, None)),
        (
            b"/v1/audio/transcriptions",
            FORM_TYPE.encode(),
            form(('name="model"', b"w")),
            True,
            ("w", False, None),
        ),
    ],
)
def test_any_request_is_read_by_its_kind(
    path: bytes, content_type: bytes, body: bytes, complete: bool, facts: tuple[str | None, bool, str | None]
) -> None:
    assert read_body_facts(path, content_type, body, complete) == facts


def test_unreadable_object_without_a_model_in_the_path_is_refused() -> None:
    with pytest.raises(BodyUnreadable, match="not valid JSON"):
        read_body_facts(b"/v1/chat/completions", b"application/json", b'{"model":', True)


def test_a_model_is_replaced_in_json_whatever_way_it_was_written() -> None:
    body = b'{"mod\\u0065l": "a", "n":1.50, "messages":[{"model":"a"}]}'
    assert (
        replace_model(b"application/json", body, "b") == b'{"model":"b","n":1.50,"messages":[{"model":"a"}]}'
    )


def test_a_model_is_replaced_in_a_form_that_is_still_arriving() -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
    form = head + b"a\r\n--x\r\nContent-Disposition: form-data; na"
    replaced = replace_model(b"multipart/form-data; boundary=x", form, "whisper")
    assert replaced == form.replace(b"\r\n\r\na\r\n", b"\r\n\r\nwhisper\r\n")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"{", b"\xff"])
def test_a_body_without_a_model_has_none_to_replace(body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        replace_model(b"application/json", body, "b")
