"""What a reader of metrics refuses, and what it keeps meanwhile."""

import gzip

import pytest

from control.exposition import ExpositionError, ExpositionReader, Sample, Wanted
from router import limits

NAME = "vllm:num_requests_waiting"
WANTED = Wanted([NAME, "vllm:kv_cache_usage_perc"])


def refusal(*chunks: bytes, bytes_max: int = limits.SCRAPE_BYTES_MAX) -> str:
    reader = ExpositionReader(WANTED, bytes_max=bytes_max)
    with pytest.raises(ExpositionError) as refused:
        for chunk in chunks:
            reader.feed(chunk)
        reader.finish()
    return str(refused.value)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"<!DOCTYPE html><html>", "HTML or XML, not metrics"),
        (b"\n  <html>", "HTML or XML, not metrics"),
        (b'{"detail":"Not Found"}', "JSON, not metrics"),
        (gzip.compress(b"up 1\n", mtime=0)[:3], "compressed, not metrics"),
        (b"\x0a\x04abcd", "something else, not metrics"),
        (b"up 1\n\0\0\0", "binary, not text"),
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"up 1\nup", "ends within a line"),
        (b"vllm:num_requests_waiting 1", "ends within a line"),
        (b"vllm:num_requests_runn", "ends within a line"),
    ],
)
def test_what_is_no_whole_page_of_metrics_is_refused_with_its_reason(page: bytes, reason: str) -> None:
    assert refusal(page) == reason


@pytest.mark.parametrize(
    "rest",
    [
        b" ",
        b" x",
        b" 1_000",
        b" 1 x",
        b" 1 2 3",
        b'{a="b" 1',
        b'{a="b"c="d"} 1',
        b"{a=b} 1",
        b'{a="\xff"} 1',
        b'{"a"} 1',
        b'{a="b"}',
    ],
)
def test_a_wanted_line_that_cannot_be_read_refuses_the_page(rest: bytes) -> None:
    assert refusal(NAME.encode() + rest + b"\n").startswith(NAME)


def test_a_page_of_another_name_says_nothing() -> None:
    reader = ExpositionReader(WANTED)
    reader.feed(b"up 1\n" + NAME.encode() + b"_by_reason 3\n")
    assert reader.finish() == []


def test_an_endless_page_ends_at_the_bound() -> None:
    assert refusal(*[b"a" * 100] * 11, bytes_max=1000) == "longer than 1000 bytes"


def test_an_endless_line_that_nobody_wants_is_not_kept() -> None:
    reader = ExpositionReader(WANTED)
    for _ in range(100):
        reader.feed(b"a" * 1024)
    reader.feed(b"\n" + NAME.encode() + b" 4\n")
    assert reader.finish() == [Sample(NAME, {}, 4.0)]


@pytest.mark.parametrize("chunk_bytes", [1000, 100_000])
def test_an_endless_line_that_is_wanted_ends_at_the_bound(chunk_bytes: int) -> None:
    line = NAME.encode() + b'{a="' + b"a" * limits.SCRAPE_LINE_BYTES_MAX + b'"} 1\n'
    chunks = [line[at : at + chunk_bytes] for at in range(0, len(line), chunk_bytes)]
    assert refusal(*chunks) == f"a line longer than {limits.SCRAPE_LINE_BYTES_MAX} bytes"


def test_lines_and_series_are_bounded() -> None:
    assert "lines" in refusal(b"#" + b"\n" * (limits.SCRAPE_LINES_MAX + 1))
    series = b"".join(b'%s{a="%d"} 1\n' % (NAME.encode(), i) for i in range(limits.SCRAPE_SAMPLES_MAX + 1))
    assert "series" in refusal(series)
