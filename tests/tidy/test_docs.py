"""Links lead somewhere, the change log keeps up, and no file speaks of the place it was written."""

import re
import tomllib
import unicodedata
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, files, text, texts

LINK = re.compile(
    r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)|^\[[^\]\n]+\]:\s*(\S+)", re.MULTILINE
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
OUTSIDE = ("http://", "https://", "mailto:")

PAGES = files(".md")

DEVELOPERS_FOLDERS = re.compile(
    r"/(?:home|Users|ro" + r"ot|wo" + r"rk|opt/py" + r"pi|opt/wh" + r"eels)(?:/|\b(?=[\"'\s]))"
)
"""Absolute paths of somebody's machine."""

IMAGE_FOLDERS = {"docker"}
"""There the paths are those of an image."""

OTHER_PLACES = (
    "." + "library",
    "fl-" + "commit",
    "shared/" + "design",
    "real" + "server/",
    "py" + "pi.org",
    "python" + "hosted.org",
    "host." + "docker.internal",
)


def prose(page: Path) -> str:
    return FENCE.sub("", text(page))


def anchors(page: Path) -> set[str]:
    """As the usual renderers make them from headings."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*#*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        kept = "".join(c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add(kept.replace(" ", "-"))
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text(page)))


def leads(page: Path, target: str) -> bool:
    """Whether a link from `page` stays in the repository and ends at a file or a heading that is there."""
    file, _, anchor = target.partition("#")
    resolved = (ROOT / page.parent / file).resolve() if file else ROOT / page
    if not resolved.is_relative_to(ROOT) or not resolved.exists():
        return False
    return not anchor or resolved.suffix != ".md" or anchor in anchors(resolved.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    targets = (next(filter(None, match.groups())) for match in LINK.finditer(prose(page)))
    assert [target for target in targets if not target.startswith(OUTSIDE) and not leads(page, target)] == []


def test_the_change_log_has_an_entry_for_what_comes_next_or_for_this_version() -> None:
    version = tomllib.loads(text(Path("pyproject.toml")))["project"]["version"]
    entry = re.search(
        rf"^## \[?(?:Unreleased|{re.escape(version)})\b.*\n(?:\s*\n)*(?:### .*\n(?:\s*\n)*)?- \S",
        text(Path("CHANGELOG.md")),
        re.MULTILINE,
    )
    assert entry


def test_make_says_what_each_target_does() -> None:
    makefile = text(Path("Makefile"))
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    explained = set(re.findall(r"^([a-z0-9]+):.*  ## \S", makefile, re.MULTILINE))
    assert targets == explained


def test_no_file_speaks_of_the_place_it_was_written() -> None:
    found = []
    for path, source in texts().items():
        for number, line in enumerate(source.splitlines(), 1):
            has_folder = path.parts[0] not in IMAGE_FOLDERS and DEVELOPERS_FOLDERS.search(line)
            if has_folder or any(place in line for place in OTHER_PLACES):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []
