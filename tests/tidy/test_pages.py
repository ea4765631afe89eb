"""What the pages under docs/ say in code blocks and tables is so."""

import re
from pathlib import Path

import pytest

from router.config import ConfigError, parse_config
from router.schema.policies import policy_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def configurations() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for index, text in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            if text.startswith("version: 1\n"):
                found.append((f"{page.relative_to(ROOT)}#{index}", text))
    return found


@pytest.mark.parametrize(("place", "text"), configurations(), ids=[place for place, _ in configurations()])
def test_a_configuration_shown_is_valid(place: str, text: str) -> None:
    try:
        parse_config(text, place, {})
    except ConfigError as exc:
        # A certificate that is only shown is not on this machine.
        assert [str(problem) for problem in exc.problems if "cannot be read" not in problem.message] == []


def test_pages_show_configurations() -> None:
    assert len(configurations()) > 5


def test_the_access_log_page_has_every_field_and_no_other() -> None:
    source = (ROOT / "router" / "native" / "logline.pyx").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "reference" / "access-log.md").read_text(encoding="utf-8")
    written = set(re.findall(r'[{,]"(\w+)":', source))
    described = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert described == written


def test_every_policy_is_described() -> None:
    page = (ROOT / "docs" / "how-to" / "choose-a-policy.md").read_text(encoding="utf-8")
    assert [
        name for name in policy_names() if not re.search(rf"^\|.*`{name}`.*?\|", page, re.MULTILINE)
    ] == []


def test_every_admin_page_is_described() -> None:
    source = (ROOT / "router" / "admin.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "observe.md").read_text(encoding="utf-8")
    paths = re.findall(r'web\.(get|post)\("(/[\w/]*)"', source)
    assert paths
    assert [path for method, path in paths if f"`{method.upper()} {path}`" not in page] == []


def test_metrics_named_in_guides_exist() -> None:
    known = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    named = {
        name
        for page in PAGES
        if page.name != "metrics.md"
        for name in re.findall(r"\bfairlead_[a-z0-9_]+", page.read_text(encoding="utf-8"))
    }
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named if not name.endswith("_")}
    assert [name for name in sorted(stems) if f"`{name}`" not in known] == []
