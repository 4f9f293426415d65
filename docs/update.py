# SPDX-License-Identifier: BSD-2-Clause
"""Rewrites the parts of the documentation that are made from the code.

They stand between `<!-- NAME -->` and `<!-- /NAME -->`; figures that were measured stand between such marks
too, and are left as they are. Run `python docs/update.py` after a change of the
table of reasons or of the life cycle; tests/test_docs.py says when that was forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.model.lifecycle import mermaid
from gateway.model.reasons import REASONS, Reason

DOCS = Path(__file__).parent

_PART = re.compile(r"(<!-- (?P<name>[a-z]+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)
_HEAD = ("Code", "Side", "Before the upgrade", "On a socket", "Session", "In words")


def endings() -> str:
    """The table of reasons, in Markdown."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, REASONS.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def lifecycle() -> str:
    """The diagram of the life cycle, as a Mermaid block."""
    return f"```mermaid\n{mermaid()}\n```"


PARTS: Mapping[str, Callable[[], str]] = {"endings": endings, "lifecycle": lifecycle}
"""By the name in the markers."""

MEASURED = frozenset({"figures"})
"""Parts that no code can make: they are of one run of the bench on one machine."""


def updated(page: str) -> str:
    """The page with its made parts made anew. Raises KeyError for a marker that nothing is made for."""
    return _PART.sub(_made, page)


def _made(part: re.Match[str]) -> str:
    if part["name"] in MEASURED:
        return part[0]
    return f"{part[1]}{PARTS[part['name']]()}\n{part[3]}"


def _row(reason: Reason) -> tuple[str, ...]:
    status = "none" if reason.status is None else str(reason.status)
    if reason.status is not None and reason.retry_after is not None:
        status += f", Retry-After: {reason.retry_after}"
    end = "failed" if reason.failed else "ended"
    return f"`{reason.code}`", str(reason.side), status, str(reason.close_code), end, reason.sentence


def main() -> None:
    """Rewrites the pages that are behind, and names them."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (new := updated(page)) != page:
            path.write_text(new, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
