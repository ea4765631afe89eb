"""The native body scan on real payloads: right, resumable at every byte, and in doubt where it has to be."""

from pathlib import Path

import pytest

from router.native.body import BodyScan, scan_struct_bytes
from router.native.hash import hash_of
from tests.oracle import body as oracle
from tests.property.test_body import assert_agrees, facts, scan

CORPUS = sorted((Path(__file__).parents[1] / "fuzz/corpus/body").iterdir())


@pytest.fixture(params=CORPUS, ids=lambda path: path.stem)
def body(request: pytest.FixtureRequest) -> bytes:
    path: Path = request.param
    return path.read_bytes()


def test_payload_is_read_as_the_oracle_reads_it(body: bytes) -> None:
    body_scan = scan(body)
    if not oracle.is_valid(body):
        assert not body_scan.is_complete
        return
    assert body_scan.in_doubt == oracle.read(body).in_doubt
    assert_agrees(body, body_scan)


def test_every_split_point_gives_the_same_facts(body: bytes) -> None:
    whole = facts(scan(body))
    for index in range(len(body) + 1):
        assert facts(scan(body[:index], body[index:])) == whole
    assert facts(scan(*(body[index : index + 1] for index in range(len(body))))) == whole


def test_every_byte_flipped_gives_doubt_or_what_the_oracle_says(body: bytes) -> None:
    for index in range(min(len(body), 700)):
        for flip in (0x01, 0x02, 0x20, 0x80, body[index] ^ ord('"'), body[index] ^ ord("\\")):
            flipped = body[:index] + bytes([body[index] ^ flip]) + body[index + 1 :]
            body_scan = scan(flipped)
            if not body_scan.in_doubt and oracle.is_valid(flipped):
                assert_agrees(flipped, body_scan)


def test_trailing_bytes_are_doubt_and_white_space_is_not(body: bytes) -> None:
    body_scan = scan(body)
    if body_scan.is_complete and not body_scan.in_doubt:
        assert not scan(body + b" \r\n\t").in_doubt
        assert scan(body + b"\n{").in_doubt


def test_model_is_known_before_the_body_is_whole() -> None:
    body_scan = scan(b'{"model":"llama","messages":[{"content":"')
    assert (body_scan.model, body_scan.is_complete, body_scan.in_doubt) == (b"llama", False, False)
    assert body_scan.prompt_key is None


def test_prompt_key_is_known_once_its_bytes_are_there() -> None:
    value = b'["' + b"a" * 2000
    body_scan = scan(b'{"messages":' + value[:1000])
    assert body_scan.prompt_key is None
    body_scan.feed(value[1000:])
    assert body_scan.prompt_key == hash_of(value[: oracle.PROMPT_KEY_BYTES])
    assert body_scan.prompt_length == 0
    body_scan.feed(b'"]}')
    assert body_scan.prompt_length == len(value) + 2


def test_first_prompt_of_several_counts() -> None:
    body_scan = scan(b'{"query":"q","input":["a"],"text":"t"}')
    assert (body_scan.prompt_offset, body_scan.prompt_length) == (9, 3)


@pytest.mark.parametrize("prompt", [b"null", b"17", b"true"])
def test_prompt_that_is_no_text_is_none(prompt: bytes) -> None:
    body_scan = scan(b'{"prompt":' + prompt + b',"messages":[1]}')
    assert body_scan.prompt_offset == len(b'{"prompt":' + prompt + b',"messages":')


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"a\\/b"}',
        b'{"model":"' + b"x" * 257 + b'"}',
        b'{"user":"' + b"x" * 257 + b'"}',
        b'{"m\\u006fdel":"a"}',
        b'{"other\\n":"a"}',
        b'{"model":"a","model":"a"}',
        b'{"stream":true,"stream":true}',
        b'{"model":{"name":"a"}}',
        b'{"model":7}',
        b'{"stream":"true"}',
        b'{"stream":1}',
        b'{"max_tokens":"5"}',
        b'{"max_tokens":5.0}',
        b'{"max_tokens":05}',
        b'{"max_tokens":-}',
        b'{"max_tokens":1234567890123456789}',
        b'{"max_tokens":1,"max_completion_tokens":2}',
        b'{"user":["a"]}',
        b'{"model":"tab\there"}',
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        b'{"model":"\xc0\xaf"}',
        b'{"model":"a"} x',
        b'{"model" "a"}',
        b'{"model":"a",}',
        b'{,"model":"a"}',
        b'{"model":"a" "b":1}',
        b'{model:"a"}',
        b'{"a":[' + b"[" * 127 + b"]" * 127 + b"]}",
        b'["model"]',
        b'"model"',
        b"\xef\xbb\xbf{}",
        b'{"temperature":NaN}',
    ],
)
def test_what_a_parser_might_read_otherwise_is_doubt(text: bytes) -> None:
    assert scan(text).in_doubt


@pytest.mark.parametrize(
    "text",
    [
        b'{"user":"a\\"b","model":"kept"}',
        b'{"max_tokens":5.5,"model":"kept"}',
        b'{"\\u0061":1,"model":"kept"}',
        b'{"a":' + b"[" * 200 + b"]" * 200 + b',"model":"kept"}',
    ],
)
def test_scan_goes_on_after_doubt_that_is_no_nonsense(text: bytes) -> None:
    body_scan = scan(text)
    assert (body_scan.model, body_scan.in_doubt, body_scan.is_complete) == (b"kept", True, True)


def test_nothing_after_nonsense_is_believed() -> None:
    assert scan(b'{"a":} "model":"x"}').model is None
    assert scan(b'[{"model":"x"}]').model is None


def test_equal_bounds_by_two_names_are_certain() -> None:
    body_scan = scan(b'{"max_tokens":64,"max_completion_tokens":64}')
    assert (body_scan.max_tokens, body_scan.in_doubt) == (64, False)


def test_empty_and_blank_bodies_say_nothing() -> None:
    for text in (b"", b" \r\n"):
        body_scan = scan(text)
        assert not body_scan.in_doubt
        assert body_scan.is_object
        assert not body_scan.is_complete


def test_nested_members_are_not_the_request_own() -> None:
    body_scan = scan(b'{"metadata":{"model":"no","stream":true,"a":"}"},"tools":["model",{"user":"no"}]}')
    assert (body_scan.model, body_scan.stream, body_scan.user) == (None, None, None)
    assert body_scan.is_complete


def test_work_is_linear_in_a_body_of_backslashes() -> None:
    body_scan = BodyScan()
    body_scan.feed(b'{"prompt":"')
    for _ in range(64):
        body_scan.feed(b"\\" * 16384)
    body_scan.feed(b'","model":"m"}')
    assert (body_scan.model, body_scan.in_doubt) == (b"m", False)


def test_struct_fits_a_block_of_the_slab() -> None:
    assert scan_struct_bytes() <= 2048


def test_two_turns_have_the_same_keys_as_far_as_they_agree() -> None:
    turn = b'{"model":"m","messages":[{"role":"user","content":"' + b"a" * 5000 + b'"}'
    reply = b',{"role":"assistant","content":"' + b"b" * 3000 + b'"}'
    first = scan(turn + b"]}").prompt_keys(1)
    second = scan(turn + reply + b"]}").prompt_keys(1)
    assert len(first) == 17
    assert len(second) > len(first)
    assert second[: len(first)] == first


def test_what_comes_before_the_messages_is_in_every_key_whatever_its_place() -> None:
    messages = b'"messages":[{"role":"user","content":"' + b"a" * 3000 + b'"}]'
    tools = b'"tools":[{"type":"function","function":{"name":"f"}}]'
    system = b'"system":"be brief"'
    before = scan(b"{" + tools + b"," + system + b"," + messages + b"}").prompt_keys(1)
    after = scan(b"{" + system + b"," + messages + b', "model": "m", ' + tools + b"}").prompt_keys(1)
    assert before == after
    assert before[0][1] == len(tools) - len(b'"tools":') + len(system) - len(b'"system":')
    for other in (
        scan(b"{" + messages + b"}"),
        scan(b"{" + tools.replace(b'"f"', b'"g"') + b"," + system + b"," + messages + b"}"),
        scan(b"{" + tools + b"," + system.replace(b"system", b"instructions") + b"," + messages + b"}"),
        scan(b"{" + tools + b"," + system + b',"cache_salt":"x",' + messages + b"}"),
    ):
        assert not {key for key, _ in before} & {key for key, _ in other.prompt_keys(1)}


def test_models_have_keys_of_their_own() -> None:
    body_scan = scan(b'{"prompt":"' + b"a" * 600 + b'"}')
    assert not {key for key, _ in body_scan.prompt_keys(1)} & {key for key, _ in body_scan.prompt_keys(2)}


def test_keys_may_be_asked_for_while_the_prompt_arrives() -> None:
    body = b'{"tools":[1],"prompt":"' + b"a" * 2000 + b'"}'
    body_scan = scan(body[:1000])
    early = body_scan.prompt_keys(1)
    assert len(early) == 4
    body_scan.feed(body[1000:])
    assert body_scan.prompt_keys(1)[: len(early)] == early


@pytest.mark.parametrize(
    "text", [b"{}", b'{"model":"m","system":null,"tools":7}', b'{"prompt":null}', b'{"input":"hi"}']
)
def test_no_prompt_or_a_short_one_has_no_keys(text: bytes) -> None:
    assert scan(text).prompt_keys(1) == []
