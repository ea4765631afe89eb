"""Explained decisions with names, as a table, and asked for over HTTP; what is said when there are none."""

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.explain_report import ExplainError, fetch_decisions, report
from router.explain_view import describe_decisions
from tests.support.command import run_command

TERMS = {"queue": 0.25, "prefill": 0.5, "cost": 0.0}


def candidate(slot: int, score: float | None, terms: dict[str, float] | None) -> dict[str, Any]:
    return {
        "slot": slot,
        "score": score,
        "terms": terms,
        "in_flight": 3,
        "queued_s": 0.2500001,
        "hit_tokens": 12.4,
    }


def record(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "abc",
        "wall_us": 1_700_000_000_123_456,
        "route": 0,
        "policy": 19,
        "reason": "cached",
        "attempt": 1,
        "candidates": 4,
        "eligible": 3,
        "prompt_tokens": 1000,
        "output_tokens": 50,
        "has_session": True,
        "session": "",
        "session_tokens": 0,
        "shown": [candidate(1, 0.75, TERMS), candidate(0, 2.5, {**TERMS, "cost": 1.75})],
        **changes,
    }


def described(**changes: Any) -> dict[str, Any]:
    rows = describe_decisions([record(**changes)], endpoints=("e0", "e1"), routes=("all", "all@12"))
    assert len(rows) == 1
    return rows[0]


class Admin(http.server.BaseHTTPRequestHandler):
    """Answers every GET with what its server was given, and remembers what it was asked."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization")))
        status, body = server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class UnixAdmin(socketserver.UnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


def serving(server: Any) -> Iterator[Any]:
    server.answer, server.asked = (200, b"{}"), []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def admin() -> Iterator[Any]:
    yield from serving(http.server.HTTPServer(("127.0.0.1", 0), Admin))


def address_of(server: Any) -> str:
    return "{}:{}".format(*server.server_address)


# ---- names


def test_a_decision_says_of_which_version_of_the_policy_it_was() -> None:
    assert "version" not in described()
    decision = described(route=1)
    assert (decision["route"], decision["version"]) == ("all", 12)


def test_numbers_become_names_and_terms_their_sum() -> None:
    row = described()
    assert (row["route"], row["policy"], row["time"]) == ("all", "five_axis", "2023-11-14T22:13:20.123Z")
    assert row["winner"] == {
        "endpoint": "e1",
        "score": 0.75,
        "terms": TERMS,
        "sum": 0.75,
        "in_flight": 3,
        "queued_s": 0.25,
        "hit_tokens": 12,
    }
    assert [runner["endpoint"] for runner in row["runners_up"]] == ["e0"]


def test_what_has_no_name_any_more_is_its_number() -> None:
    row = described(route=7, policy=99, shown=[candidate(5, None, None)])
    assert (row["route"], row["policy"], row["winner"]["endpoint"]) == ("7", "99", "5")
    assert row["runners_up"] == []


def test_what_json_has_no_word_for_is_null() -> None:
    row = described(shown=[candidate(0, float("inf"), {"queue": float("nan")})])
    assert (row["winner"]["score"], row["winner"]["terms"]) == (None, {"queue": None})
    json.dumps(row, allow_nan=False)


# ---- the table


def test_the_table_has_a_row_a_candidate_and_a_row_a_term() -> None:
    lines = report([described()]).splitlines()
    assert lines[:3] == [
        "request abc, attempt 1, 2023-11-14T22:13:20.123Z",
        "route all, policy five_axis: e1, cached",
        "3 of 4 endpoints eligible; 1000 prompt tokens, 50 expected back; with a session",
    ]
    assert lines[4].split() == ["endpoint", "score", "in", "flight", "queued", "cached"]
    assert lines[5].split() == ["picked", "e1", "750.0", "ms", "3", "250.0", "ms", "12"]
    assert lines[6].split()[:4] == ["2", "e0", "2.50", "s"]
    terms = {line.split()[0]: line.split()[1:] for line in lines[8:]}
    assert terms["term"] == ["e1", "e0"]
    assert terms["cost"] == ["0", "1.75", "s"]
    assert terms["sum"] == ["750.0", "ms", "2.50", "s"]


def test_policies_without_a_score_have_no_terms_to_show() -> None:
    text = report([described(policy=1, reason="policy", shown=[candidate(0, None, None)])])
    assert "round_robin: e0, policy" in text
    assert "term" not in text


def test_every_attempt_has_a_table() -> None:
    assert report([described(attempt=2), described()]).count("request abc") == 2


# ---- asked for


def test_decisions_are_fetched_by_the_requests_id(admin: Any) -> None:
    admin.answer = (200, json.dumps({"decisions": [described()]}).encode())
    assert fetch_decisions(address_of(admin), "a/b c") == [described()]
    assert fetch_decisions(f"http://{address_of(admin)}/", "x", "s3cret") == [described()]
    assert admin.asked == [("/debug/explain/a%2Fb%20c", None), ("/debug/explain/x", "Bearer s3cret")]


def test_an_admin_port_may_be_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    for server in serving(UnixAdmin(str(path), Admin)):
        server.answer = (200, json.dumps({"decisions": [described()]}).encode())
        assert fetch_decisions(f"unix:{path}", "abc") == [described()]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b'{"error": {"message": "No decision is recorded."}}'), "^No decision is recorded.$"),
        ((401, b'{"error": {"message": "Token."}}'), "Token. Give it with --admin-token"),
        ((500, b'{"error": {"message": "failed"}}'), "the router at .*: failed"),
        ((503, b"{}"), "it answered 503"),
        ((200, b"<html>"), "is not a router's admin port"),
    ],
)
def test_an_answer_without_decisions_is_an_error_that_says_what_to_do(
    admin: Any, answer: tuple[int, bytes], said: str
) -> None:
    admin.answer = answer
    with pytest.raises(ExplainError, match=said):
        fetch_decisions(address_of(admin), "abc")


def test_a_router_that_is_not_there_and_an_address_that_is_none_are_told_apart() -> None:
    with pytest.raises(ExplainError, match=r"no answer from 127\.0\.0\.1:1 .*is a router running there"):
        fetch_decisions("127.0.0.1:1", "abc")
    with pytest.raises(ExplainError, match="not host:port"):
        fetch_decisions("nonsense", "abc")


# ---- the command


def test_the_command_prints_a_table_or_json(admin: Any, tmp_path: Path) -> None:
    admin.answer = (200, json.dumps({"decisions": [described()]}).encode())
    result = run_command("explain", "abc", "--admin", address_of(admin))
    assert (result.exit_code, result.stdout) == (0, report([described()]) + "\n")
    file = tmp_path / "fairlead.yaml"
    file.write_text(
        "pools: [{name: a, endpoints: [{url: 'http://10.0.0.1:8000'}]}]\n"
        f"admin: {{address: '{address_of(admin)}', token: s3cret}}\n"
    )
    result = run_command("explain", "abc", "--json", "--config", str(file))
    assert json.loads(result.stdout) == [described()]
    assert admin.asked[-1] == ("/debug/explain/abc", "Bearer s3cret")


def test_the_command_says_on_standard_error_what_is_wrong(admin: Any) -> None:
    admin.answer = (404, b'{"error": {"message": "No decision is recorded."}}')
    result = run_command("explain", "abc", "--admin", address_of(admin))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: No decision is recorded.\n"
    wrong = run_command("explain", "abc", "--admin-token", "file:/nowhere/token")
    assert wrong.exit_code == 2
    assert "cannot be read" in wrong.stderr
