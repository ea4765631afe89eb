"""Fleets: what ships, what a file may say, and what it is told when it says something else."""

from pathlib import Path
from typing import Any

import pytest

from bench.sim.fleets import (
    GPU_PRICES_PER_H,
    FleetError,
    kv_tokens,
    load_fleet,
    price_per_h,
    read_fleet,
    shipped_names,
    timing,
)
from router.schema.engines import CLASSES, OVERHEAD_MS

CHAT = {"class": "8b-a100", "models": {"chat": 9}}


def refused(value: Any) -> str:
    with pytest.raises(FleetError) as told:
        read_fleet(value, "fleet.yaml")
    return str(told.value)


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_fleet_can_be_read(name: str) -> None:
    fleet = load_fleet(name)
    assert fleet.name == name
    assert len(fleet.endpoint_names()) == len(set(fleet.endpoint_names())) == fleet.endpoint_count()


def test_the_fleets_of_the_evaluation_plan_ship() -> None:
    counts = {name: load_fleet(name).endpoint_count() for name in shipped_names()}
    assert counts["mixed-64"] == 64
    eight = {"hom-8xa100", "mixed-2h100-3a100-3l40s", "mixed-4h100-4l40s", "two-regions", "spot-mix"}
    eight |= {"hom-8xa100-kv5", "mixed-2h100-3a100-3l40s-kv5"}
    assert {counts[name] for name in eight} == {8}


@pytest.mark.parametrize("name", ["hom-8xa100", "mixed-2h100-3a100-3l40s"])
def test_kv5_is_the_same_fleet_with_five_times_the_cache(name: str) -> None:
    plain, large = load_fleet(name), load_fleet(f"{name}-kv5")
    assert [group.engine_class for group in plain.groups()] == [
        group.engine_class for group in large.groups()
    ]
    assert [5 * kv_tokens(group) for group in plain.groups()] == [
        kv_tokens(group) for group in large.groups()
    ]


def test_spot_machines_cost_two_fifths() -> None:
    on_demand, spot = load_fleet("spot-mix").endpoints
    assert price_per_h(on_demand) == GPU_PRICES_PER_H["a100"]
    assert price_per_h(spot) == pytest.approx(0.4 * GPU_PRICES_PER_H["a100"])


def test_a_machine_costs_what_its_gpus_cost() -> None:
    fleet = read_fleet(
        {"endpoints": [{"class": "70b-h100-tp4"}, {"class": "8b-l40s", "price_per_h": 0.5}]}, "f"
    )
    assert [price_per_h(group) for group in fleet.endpoints] == [4 * GPU_PRICES_PER_H["h100"], 0.5]


def test_defaults_hold_for_groups_that_do_not_say() -> None:
    fleet = read_fleet(
        {
            "defaults": {"chunk_tokens": 8192},
            "endpoints": [{"class": "8b-a100"}, {"class": "8b-l40s", "chunk_tokens": 512}],
        },
        "f",
    )
    assert [group.chunk_tokens for group in fleet.endpoints] == [8192, 512]


def test_timing_is_that_of_the_class_with_the_groups_cache() -> None:
    fleet = read_fleet({"endpoints": [{"class": "8b-h100", "kv_tokens": 77}]}, "f")
    assert timing(fleet.endpoints[0]) == (*CLASSES["8b-h100"][:5], 77, OVERHEAD_MS)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            {"endpoints": [{"clas": "8b-a100"}]},
            "fleet.yaml: endpoints[0]: unknown key 'clas'; 'class' perhaps",
        ),
        ({"endpoint": []}, "unknown key 'endpoint'; 'endpoints' perhaps"),
        ({"endpoints": [{"class": "8b-a10"}]}, "unknown class '8b-a10'; '8b-a100' perhaps"),
        ({"endpoints": [{"class": "8b-a100", "region": "naer"}]}, "unknown region 'naer'; 'near' perhaps"),
        ({"endpoints": [{"class": "8b-a100", "count": 0}]}, "Expected `int` >= 1 in `endpoints[0].count`"),
        (
            {"endpoints": [{"class": "8b-a100"}], "replicas": {"cout": 2}},
            "unknown key 'cout'; 'count' perhaps",
        ),
        ({"endpoints": [{"class": "8b-a100"}], "defaults": {"chunktokens": 2}}, "'chunk_tokens' perhaps"),
        (
            {"endpoints": [{"class": "8b-a100", "models": {"chat": 9}, "resident": ["chta"]}]},
            "resident: unknown model 'chta'; 'chat' perhaps",
        ),
        (
            {
                "endpoints": [
                    {"class": "8b-a100", "models": {"a": 9, "b": 9}, "resident": ["a", "b"], "models_max": 1}
                ]
            },
            "2 models are resident, models_max 1",
        ),
        (
            {"aliases": {"a": ["chta"]}, "endpoints": [CHAT]},
            "aliases.a: unknown model 'chta'; 'chat' perhaps",
        ),
        (
            {"aliases": {"a": ["chat"]}, "endpoints": [{"class": "8b-a100"}]},
            "a: unknown model 'chat'; one of",
        ),
        ({"aliases": {"chat": ["chat"]}, "endpoints": [CHAT]}, "endpoints have a model of that name"),
        ({"aliases": {"a": ["chat", "chat"]}, "endpoints": [CHAT]}, "aliases.a: names a model twice"),
        (
            {"aliases": {"a": [{"model": "chat", "quality_ms": 2}]}, "endpoints": [CHAT]},
            "aliases.a[0]: unknown key 'quality_ms'; 'quality_cost_ms' perhaps",
        ),
        ({"aliases": {"a": []}, "endpoints": [CHAT]}, "Expected `array` of length >= 1"),
        ({"aliases": ["a"], "endpoints": [CHAT]}, "Expected `object`"),
        ({"endpoints": [], "regions": {"near": 1}}, "Expected `array` of length >= 1 in `endpoints`"),
        ({"endpoints": {}}, "endpoints is not a list of groups"),
        ({}, "endpoints is not a list of groups"),
        ([], "is not a mapping with endpoints"),
    ],
)
def test_what_a_fleet_cannot_mean_is_refused_with_the_nearest_known(value: Any, reason: str) -> None:
    assert reason in refused(value)


def test_an_alias_costs_five_seconds_a_place_where_it_does_not_say() -> None:
    fleet = read_fleet(
        {
            "endpoints": [{"class": "8b-a100", "models": {"a": 0, "b": 0, "c": 0}}],
            "aliases": {"any": ["b", {"model": "a", "quality_cost_ms": 700}, "c"]},
        },
        "fleet.yaml",
    )
    assert fleet.costs_s("any") == {"b": 0.0, "a": 0.7, "c": 10.0}
    assert fleet.costs_s("c") == {"c": 0.0}


def test_an_unknown_fleet_is_refused_with_the_nearest_that_ships() -> None:
    with pytest.raises(FleetError, match="unknown fleet 'hom-8xa10'; 'hom-8xa100' perhaps"):
        load_fleet("hom-8xa10")


def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("endpoints:\n  - {class: 8b-a100\n")
    with pytest.raises(FleetError, match=r"fleet\.yaml:\d+: "):
        load_fleet(str(path))
    with pytest.raises(FleetError, match="No such file"):
        load_fleet(str(tmp_path / "none.yaml"))
