"""The door to the pick for an alias, for tests; requests call the same C without it."""

from collections.abc import Iterable, Sequence

from router.native.decision import Decider

def choose(
    decider: Decider,
    kind: int,
    models: Sequence[tuple[Sequence[int], Iterable[int], Sequence[int], float]],
    *,
    knobs: Sequence[float] = (),
    random: int = 0,
    now_us: int = 1,
    prompt_tokens: int = 0,
    required: int = 0,
) -> tuple[int, int, list[float | None]]:
    """(model, position among its slots, for each model the score of its best and quality together or None).

    `models` have slots, the positions that are excluded, the features of each, and what the model costs in
    quality, in seconds. The winner is (-1, -1) when nobody can be picked; scores are infinite for policies
    that are not compared by them. Raises: ValueError, IndexError.
    """
