"""An alias moves to another model by a document that differs in nothing else."""

import pytest
from msgspec import structs

from control.alias_move import AliasMoveError, alias_move
from router.schema.aliases import AliasModel, quality_costs_ms
from router.schema.config import Endpoint, Pool
from router.schema.policy_document import PolicyDocument

DOCUMENT = PolicyDocument(
    pools=(
        Pool(
            name="gpu",
            endpoints=(Endpoint(url="http://127.0.0.1:9", models=("llama-1", "llama-2", "small", "mid")),),
        ),
    ),
    aliases={"chat": (AliasModel(model="llama-1", quality_cost_ms=7), "mid", "small"), "other": ("small",)},
)


def test_the_first_model_gives_way_with_what_it_cost_and_nothing_else_changes() -> None:
    moved = alias_move(DOCUMENT, "chat", "llama-2")
    assert moved.aliases["chat"] == (AliasModel(model="llama-2", quality_cost_ms=7), "mid", "small")
    assert structs.replace(moved, aliases=DOCUMENT.aliases) == DOCUMENT
    assert moved.aliases["other"] == DOCUMENT.aliases["other"]


def test_a_model_further_down_can_be_named() -> None:
    moved = alias_move(DOCUMENT, "chat", "llama-2", from_model="small")
    assert moved.aliases["chat"][2] == "llama-2"


def test_a_model_that_is_in_the_list_already_moves_up_and_no_others_cost_changes() -> None:
    moved = alias_move(DOCUMENT, "chat", "mid")
    assert quality_costs_ms(moved.aliases["chat"]) == {"mid": 7, "small": 10_000}


@pytest.mark.parametrize(
    ("alias", "to_model", "from_model", "message"),
    [
        ("chat?", "llama-2", None, "there are: chat, other"),
        ("chat", "other", None, "an alias itself"),
        ("chat", "llama-2", "gpt", "no model of alias chat"),
        ("chat", "llama-1", None, "already"),
        ("chat", "gpt", None, "no endpoint serves gpt"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(
    alias: str, to_model: str, from_model: str | None, message: str
) -> None:
    with pytest.raises(AliasMoveError, match=message):
        alias_move(DOCUMENT, alias, to_model, from_model=from_model)
