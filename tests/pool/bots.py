# SPDX-License-Identifier: BSD-2-Clause
"""Where the bot of these tests is, and how its processes are looked at."""

from __future__ import annotations

from pathlib import Path

BOT = Path(__file__).with_name("tiny_bot.py")


def runs(pid: int) -> bool:
    """Return True if a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] not in (b"Z", b"X")
