"""The reference pages say what the code says."""

import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from router import reference
from router.cli import main
from router.errors import OUTCOMES, Cause, outcome_labels
from router.metrics import Facts, describe_metrics, render
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.signals import SignalTable
from router.reference import PAGES, command_page, errors_page, metrics_page

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_committed_page_is_what_the_code_writes(name: str, page: Callable[[], str]) -> None:
    committed = (REFERENCE / name).read_text(encoding="utf-8")
    assert committed == page(), "run: python -m router.reference docs/reference"


def test_every_command_of_ours_has_its_part_of_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = project["entry-points"]["fairlead.commands"]
    page = command_page()
    assert [name for name in [*main.commands, *installed] if f"\n## `fairlead {name}`\n" not in page] == []
    assert "\n## `fairlead bench sim`\n" in page, "commands of commands"


def test_commands_of_other_packages_are_not_on_our_page(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = EntryPoint("foreign", "router.cli:main", "fairlead.commands")
    monkeypatch.setattr(reference, "entry_points", lambda group: [foreign])
    page = command_page()
    assert "foreign" not in page
    assert "## `fairlead serve`" in page


def test_every_outcome_but_success_has_a_row() -> None:
    page = errors_page()
    missing = [cause for cause in Cause if cause and f"| `{outcome_labels(cause)[0]}` |" not in page]
    assert not missing


def test_every_code_a_client_can_see_has_its_message() -> None:
    page = errors_page()
    assert not [row.code for row in OUTCOMES.values() if row.code and f"- `{row.code}`: " not in page]


def test_every_metric_that_is_scraped_is_described_and_the_reverse() -> None:
    facts = Facts(routes=("r",), endpoints=("e",), now_us=0)
    text = render(MetricsTable.create(1, 1, 1), LoadTable.create(1, 1), SignalTable.create(1), facts).decode()
    scraped = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert scraped == {name for name, _kind, _labels, _text in describe_metrics()}
    assert not [name for name in scraped if f"`{name}`" not in metrics_page()]
