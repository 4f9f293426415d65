# SPDX-License-Identifier: BSD-2-Clause
"""Every document, section and file that the code cites exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"

CITATION = re.compile(
    r"docs/reference/(?P<page>[\w-]+\.md)(?P<rest>(?:,?\s*\(?(?:and )?(?:§[\d.-]+|\"[^\"]+\"|`[^`]+`)\)?)*)"
)
"""A page, and the sections of it: numbers, or titles in quotes."""
SECTION = re.compile(r"§(\d+(?:\.\d+)?)|\"([^\"]+)\"|`([^`]+)`")
BARE = re.compile(r"(?<![\w/.-])(?:carriers|agent-container|public-api)\.md")
PATH = re.compile(
    r"(?<![\w/.-])(?:gateway|serializers|texml|tests|fixtures|benchmarks|docs|fuzz)/[\w./-]*\.(?:py|md|c|toml|jsonl)\b"
)
MODULE = re.compile(r"(?<![\w/.*-])\w+\.py\b")


@cache
def tracked() -> frozenset[str]:
    """The paths of all files of the repository. In an unpacked source distribution: of whatever is there."""
    if not (ROOT / ".git").exists():
        return frozenset(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return frozenset(listed.stdout.split("\n"))


def sources() -> Iterator[tuple[str, str]]:
    """The path and the text of every file of code, with comments joined to one line each."""
    for name in sorted(tracked()):
        path = ROOT / name
        if (
            path.suffix in {".py", ".c", ".h"}
            and path.is_file()
            and not name.startswith("tests/test_citations")
        ):
            yield name, re.sub(r"\s*\n\s*(?:#|\*)?\s*", " ", path.read_text(encoding="utf-8"))


@cache
def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def has_section(name: str, number: str) -> bool:
    return re.search(rf"^#+ {re.escape(number)}[. ]", page(name), re.MULTILINE) is not None


def has_title(name: str, title: str) -> bool:
    """Whether a heading begins with the title, or a row, a point or a code span has it."""
    return title in page(name)


def test_cited_pages_and_sections_exist() -> None:
    missing, cited = [], 0
    for name, text in sources():
        for citation in CITATION.finditer(text):
            cited += 1
            if not (REFERENCE / citation["page"]).exists():
                missing.append(f"{name}: {citation['page']}")
                continue
            for number, title, code in SECTION.findall(citation["rest"]):
                found = (
                    has_section(citation["page"], number)
                    if number
                    else has_title(citation["page"], title or code)
                )
                if not found:
                    missing.append(f"{name}: {citation['page']} {number or title or code}")
    assert missing == []
    assert cited > 200, "the pattern finds citations"


def test_documents_are_cited_by_their_path() -> None:
    assert [name for name, text in sources() if BARE.search(text)] == []


def test_named_files_exist() -> None:
    missing = [
        f"{name}: {path}"
        for name, text in sources()
        for path in PATH.findall(text)
        if path not in tracked() and "NAME" not in path
    ]
    assert missing == []


def test_named_modules_exist() -> None:
    """A bare `name.py` is a module of the repository; modules of other projects are named by their path."""
    known = {Path(name).name for name in tracked()}
    missing = [
        f"{name}: {module}"
        for name, text in sources()
        if name.startswith(("gateway/", "serializers/", "texml/"))
        for module in MODULE.findall(text)
        if module not in known
    ]
    assert missing == []
