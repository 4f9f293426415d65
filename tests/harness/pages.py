# SPDX-License-Identifier: BSD-2-Clause
"""The documentation as tests read it: pages, their blocks of code, and the marks that only tests see.

A mark is an HTML comment in front of what it is about, so no reader sees it:

- `<!-- file: NAME -->`: the next block is a file NAME in the folder in which the page's commands run.
- `<!-- server: URL -->`: the next block starts a server; it has started when that URL is answered.
- `<!-- run: COMMANDS -->`: commands of a shell that a reader has run by now, or need not see.
- `<!-- interop -->`: the next block needs other people's software: `make interop` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)

LANGUAGES = frozenset(
    {
        "sh",
        "toml",
        "json",
        "jsonl",
        "python",
        "xml",
        "text",
        "mermaid",
        "ini",
        "nginx",
        "javascript",
        "docker",
        "yaml",
    }
)
"""What a block may say it is written in."""

_PART = re.compile(
    r"""
    ^```(?P<language>\w*)\n(?P<body>.*?)^```$     # a block
    | ^<!--[ ](?P<mark>file|run|server):\s(?P<of>.*?)\s-->$
    | ^<!--[ ](?P<interop>interop)[ ]-->$
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


class PageError(Exception):
    """A page whose marks make no sense; the message says where."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    `line`: of the page, where its text begins, from 1. `follows`: whether nothing stands between it and the
    part before, whose output it then shows. `file`: its name in the folder of the page's commands. `hidden`:
    no block, but the commands of a mark.
    """

    language: str
    text: str
    line: int
    follows: bool
    file: str = ""
    server: str = ""
    where: Literal["here", "interop"] = "here"
    hidden: bool = False


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


@lru_cache
def parts(page: Path) -> tuple[Block, ...]:
    """Return the blocks of a page in order, with the commands of its marks between them. Raises PageError."""
    return tuple(_parts(page))


def _parts(page: Path) -> Iterator[Block]:
    text = read(page)
    file, server, where, end = "", "", "here", 0
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        follows = end > 0 and not text[end : part.start()].strip()
        if part["interop"]:
            where = "interop"
        elif part["mark"] == "file":
            file = part["of"]
        elif part["mark"] == "server":
            server = part["of"]
        elif part["mark"] == "run":
            yield Block("sh", part["of"] + "\n", line, follows, where=_place(where), hidden=True)
            where, end = "here", part.end()
        else:
            yield Block(part["language"], part["body"], line + 1, follows, file, server, _place(where))
            file, server, where, end = "", "", "here", part.end()
    if file or server or where != "here":
        raise PageError(f"{name_of(page)}: a mark at its end is about no block")


def _place(where: str) -> Literal["here", "interop"]:
    return "interop" if where == "interop" else "here"


def blocks(page: Path, language: str) -> list[str]:
    """Return the texts of a page's blocks in one language."""
    return [block.text for block in parts(page) if block.language == language and not block.hidden]
