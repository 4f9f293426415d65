# SPDX-License-Identifier: BSD-2-Clause
"""docs/faults.md, made from the results of the suite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
GROUPS = ("Agent", "Carrier", "Gateway", "Redis")

INTRODUCTION = """\
# What happens when things break

Written by `make faults`: each row is a case that was run with real processes and sockets, and what it saw.
Only the gaps change from run to run.

- **The caller heard**: what came on the caller's socket. 1006 is a socket that ended without a close frame.
- **Gap**: the longest time in which the caller heard nothing, in milliseconds: from the last sound before the
  fault until sound was heard again, the end was told, or the caller hung up. Where sound goes on, the longest
  pause between two of its frames, which are 20 ms apart. `-` where nothing was to be heard.
- **It ended**: the ending of the session and its side, as in the
  [table of reasons](architecture.md#reasons).
- **Slots**: how many stayed taken afterwards.
- **Memory**: `back` where the gateway's resident memory afterwards was within {memory_mib} MiB of before.
- **Next call**: whether a caller after it was served, both sides hearing each other.

The gateway of the suite waits shorter than the default:
{waits}.
"""

COLUMNS = ("Fault", "The caller heard", "Gap", "It ended", "Slots", "Memory", "Next call")


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one case. `gap_ms`: None if no audio was expected. `deficit`: to be improved."""

    group: str
    fault: str
    heard: str
    gap_ms: float | None
    ended: str
    slots: int
    memory: str
    next_call: str
    deficit: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        gap = "-" if self.gap_ms is None else f"{self.gap_ms:.0f}"
        return self.fault, self.heard, gap, self.ended, str(self.slots), self.memory, self.next_call


def page(rows: Sequence[Row], not_run: Sequence[str], *, memory_mib: int, waits: str) -> str:
    """Return the whole page."""
    parts = [INTRODUCTION.format(memory_mib=memory_mib, waits=waits)]
    for group in GROUPS:
        parts.append(f"\n## {group}\n\n" + _line(COLUMNS) + _line("---" for _ in COLUMNS))
        parts += [_line(row.cells) for row in rows if row.group == group]
    deficits = [f"- {row.group}, {row.fault}: {row.deficit}\n" for row in rows if row.deficit]
    if deficits:
        parts += ["\n## Not as it should be yet\n\n", *deficits]
    if not_run:
        parts += ["\n## Not run here\n\n", *(f"- {why}\n" for why in not_run)]
    return "".join(parts)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
