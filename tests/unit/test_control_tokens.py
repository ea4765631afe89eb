"""Tokens: hashed, with roles; whoever guesses waits, and longer each time."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from control.tokens import PREFIX, Guard, Role, TokenEntry, new_token
from router import limits


def entry(name: str, role: Role, token: str) -> TokenEntry:
    return TokenEntry(name=name, role=role, sha256=hashlib.sha256(token.encode()).hexdigest())


def test_a_token_is_its_owner_with_their_role() -> None:
    token, digest = new_token()
    assert token.startswith(PREFIX)
    guard = Guard([entry("a", Role.VIEWER, "other"), TokenEntry(name="b", role=Role.OPERATOR, sha256=digest)])
    actor = guard.actor(token, "10.0.0.1", 0.0)
    assert actor is not None
    assert (actor.name, actor.role) == ("b", Role.OPERATOR)


def test_each_role_may_what_those_before_it_may() -> None:
    allowed = [[have.may(need) for need in Role] for have in Role]
    assert allowed == [[True, False, False], [True, True, False], [True, True, True]]


def test_slips_are_free_and_guesses_wait_twice_as_long_each_time() -> None:
    guard = Guard([entry("a", Role.ADMIN, "right")])
    for _ in range(limits.TOKEN_GUESSES_FREE - 1):
        assert guard.actor("wrong", "10.0.0.1", 100.0) is None
        assert guard.wait_s("10.0.0.1", 100.0) == 0.0
    waits = []
    now_s = 100.0
    for _ in range(12):
        assert guard.actor("wrong", "10.0.0.1", now_s) is None
        waits.append(guard.wait_s("10.0.0.1", now_s))
        now_s += waits[-1]
        assert guard.wait_s("10.0.0.1", now_s) == 0.0
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == limits.TOKEN_LOCKOUT_S_MAX
    assert guard.wait_s("10.0.0.2", now_s) == 0.0


def test_the_right_token_forgives() -> None:
    guard = Guard([entry("a", Role.ADMIN, "right")])
    for _ in range(limits.TOKEN_GUESSES_FREE):
        guard.actor("wrong", "h", 0.0)
    assert guard.actor("right", "h", 10.0) is not None
    assert guard.actor("wrong", "h", 10.0) is None
    assert guard.wait_s("h", 10.0) == 0.0


def test_addresses_that_guess_are_remembered_up_to_a_bound() -> None:
    guard = Guard([])
    for number in range(limits.TOKEN_GUESSERS_MAX + 10):
        for _ in range(limits.TOKEN_GUESSES_FREE):
            guard.actor("wrong", f"h{number}", 0.0)
    assert guard.wait_s("h0", 0.0) == 0.0
    assert guard.wait_s(f"h{limits.TOKEN_GUESSERS_MAX + 9}", 0.0) > 0.0


@given(st.text(max_size=80))
def test_nothing_but_the_token_is_the_token(text: str) -> None:
    guard = Guard([entry("a", Role.ADMIN, "flt_right")])
    assert (guard.actor(text, "h", 0.0) is not None) == (text == "flt_right")
