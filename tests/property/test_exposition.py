"""The reader of metrics against prometheus_client's parser: whatever the page, however it is split."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from control.exposition import BLOCK_BYTES, ExpositionError, ExpositionReader, Sample, Wanted

NAMES = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:prompt_tokens_total")
OTHERS = ("vllm:num_requests", "vllm:num_requests_waiting_by_reason", "up", "x:y", "python_info")

WANTED = Wanted(NAMES)

label_values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)
labels = st.dictionaries(st.sampled_from(["engine", "model_name", "le", "_x"]), label_values, max_size=3)
values = st.one_of(
    st.integers(-3, 10**12).map(str),
    st.floats(width=32).map(repr),
    st.sampled_from(["+Inf", "-Inf", "NaN", "1e3", "-0.0", ".5", "5.", "1E-3"]),
)
comments = st.sampled_from(
    [
        "",
        "# HELP up Whether it is.",
        "# any word",
        "#",
        "# HELP x:y \\\\ \\n",
        "  ",
        "# vllm:num_requests_waiting 9",
    ]
)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@st.composite
def lines(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        return draw(comments)
    name = draw(st.sampled_from(NAMES + OTHERS))
    comma = draw(st.sampled_from([",", ", "]))
    inner = comma.join(f'{key}="{escaped(value)}"' for key, value in draw(labels).items())
    braces = f"{{{inner}{draw(st.sampled_from(['', ',']))}}}" if inner else draw(st.sampled_from(["", "{}"]))
    stamp = draw(st.sampled_from(["", " 1700000000000", "\t1700000000000"]))
    return f"{name}{braces} {draw(values)}{stamp}"


pages = st.lists(lines(), max_size=12).map(lambda page: "".join(f"{line}\n" for line in page))


def read(data: bytes, cuts: list[int], enough: int = 0) -> list[Sample] | str:
    """The samples, or why there are none."""
    reader = ExpositionReader(WANTED, enough=enough)
    try:
        for begin, end in pairwise([0, *sorted(cuts), len(data)]):
            reader.feed(data[begin:end])
        return reader.finish()
    except ExpositionError as exc:
        return str(exc)


def comparable(samples: list[Sample]) -> list[tuple[str, list[tuple[str, str]], str]]:
    return sorted(
        (sample.name, sorted(sample.labels.items()), repr(float(sample.value))) for sample in samples
    )


@given(pages)
def test_what_is_wanted_is_read_as_prometheus_reads_it(page: str) -> None:
    found = read(page.encode(), [])
    if not page.strip():
        assert found == "empty"
        return
    families = parse_text(page)
    expected = [
        Sample(sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name in NAMES
    ]
    assert isinstance(found, list)
    assert comparable(found) == comparable(expected)


@given(pages, st.data())
def test_chunks_change_nothing(page: str, data: st.DataObject) -> None:
    encoded = page.encode()
    whole = repr(read(encoded, []))
    for cut in range(len(encoded) + 1):
        assert repr(read(encoded, [cut])) == whole
    assert repr(read(encoded, list(range(len(encoded))))) == whole
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=6))
    assert repr(read(encoded, cuts)) == whole


@given(pages, st.binary(max_size=40), st.data())
def test_who_knows_how_many_there_are_gets_them_all_and_no_half_page(
    page: str, tail: bytes, data: st.DataObject
) -> None:
    encoded = page.encode()
    whole = read(encoded, [])
    if not isinstance(whole, list) or not whole:
        return
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=6))
    found = read(encoded, cuts, enough=len(whole))
    assert repr(found) == repr(whole)
    longer = encoded + b"x" * BLOCK_BYTES + b"\n"
    assert repr(read(longer, cuts, enough=len(whole))) == repr(whole)
    assert read(longer + b"x" + tail.replace(b"\n", b""), [], enough=len(whole)) in (
        "ends within a line",
        "binary, not text",
    )


@given(st.integers(0, 10**9), label_values, st.booleans())
def test_openmetrics_with_its_exemplars_and_its_end_is_read(value: int, text: str, is_ended: bool) -> None:
    page = (
        "# TYPE vllm:prompt_tokens counter\n"
        f'vllm:prompt_tokens_total{{model_name="{escaped(text)}"}} {value} 1700000000.5 '
        '# {trace_id="a"} 1.0 1700000000.25\n'
        "# EOF"
    ) + ("\n" if is_ended else "")
    (family,) = parse_openmetrics(page if is_ended else page + "\n")  # type: ignore[no-untyped-call]
    assert read(page.encode(), []) == [Sample(s.name, s.labels, s.value) for s in family.samples]


@given(pages, st.binary(max_size=20), st.data())
def test_no_bytes_do_more_than_be_refused(page: str, junk: bytes, data: st.DataObject) -> None:
    encoded = page.encode()
    place = data.draw(st.integers(0, len(encoded)))
    found = read(encoded[:place] + junk + encoded[place:], [place])
    assert isinstance(found, str) or all(isinstance(sample.value, float) for sample in found)


@given(pages.filter(lambda page: bool(page.strip())), st.data())
def test_a_page_that_was_cut_short_is_whole_lines_or_refused(page: str, data: st.DataObject) -> None:
    encoded = page.encode()
    place = data.draw(st.integers(0, len(encoded)))
    found = read(encoded[:place], [])
    if isinstance(found, list):
        whole = read(encoded, [])
        assert not isinstance(whole, list) or comparable(found) == comparable(whole[: len(found)])


@given(values)
def test_numbers_are_those_that_are_written(text: str) -> None:
    found = read(f"{NAMES[0]} {text}\n".encode(), [])
    assert isinstance(found, list)
    assert found[0].value == float(text) or math.isnan(found[0].value)
