# SPDX-License-Identifier: BSD-2-Clause
"""Watches the files of an open store: whether they still stand under their names, and who may read them.

SQLite goes on with a file that was deleted or replaced, and nothing tells: this worker would count the calls
in one file, and the next process in another (https://sqlite.org/howtocorrupt.html §2.5).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.store.interface import StoreFailed

CHECK_S: Final = 0.5
"""How often the files are looked at, at most; a heartbeat writes every few seconds."""

SUFFIXES: Final = ("", "-wal", "-shm")
"""The files of one store (https://sqlite.org/walformat.html §1)."""

_OTHERS: Final = stat.S_IRWXO
_PRIVATE: Final = stat.S_IRUSR | stat.S_IWUSR

MADE_PRIVATE: Final = "session_store_made_private"
NOT_PRIVATE: Final = "session_store_readable_by_others"


class FileGuard:
    """The files of one open store. All methods run in the writer's thread."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: seconds of a clock that does not go back."""
        self._path = path
        self._now = now
        self._next_check = 0.0
        self._known: dict[str, tuple[int, int]] = {}  # device and inode, by suffix
        self._cannot_change = False

    def opened(self) -> None:
        """Remember the files that were just opened."""
        self._next_check = 0.0
        self._known.clear()
        self._modes()

    def check(self) -> str:
        """Raise StoreFailed if a file was deleted or replaced. Return an event to log, or "".

        A file that others may read is made the user's own: it holds telephone numbers and secrets.
        """
        now = self._now()
        if now < self._next_check:
            return ""
        event = self._make_private(self._modes())
        self._next_check = now + CHECK_S  # not after a failure: the next write looks again
        return event

    def _modes(self) -> dict[Path, int]:
        """Return the files and their modes. Raises StoreFailed if one is not the file that it was."""
        modes: dict[Path, int] = {}
        for suffix in SUFFIXES:
            file = Path(f"{self._path}{suffix}")
            try:
                status = os.stat(file)
            except FileNotFoundError:
                if suffix in self._known:
                    raise self._failure(file, "was deleted while it was open") from None
                continue  # SQLite has not made it yet
            except OSError as error:
                raise self._failure(file, f"cannot be looked at: {error.strerror}") from None
            identity = status.st_dev, status.st_ino
            if self._known.setdefault(suffix, identity) != identity:
                raise self._failure(file, "was replaced by another file while it was open")
            modes[file] = status.st_mode
        return modes

    def _failure(self, file: Path, what: str) -> StoreFailed:
        return StoreFailed(
            f"{file} of the session store {what}: put it back, or stop every Patchbay that uses it and start "
            "again"
        )

    def _make_private(self, modes: dict[Path, int]) -> str:
        open_to_all = [file for file, mode in modes.items() if mode & _OTHERS]
        if not open_to_all or self._cannot_change:
            return ""
        try:
            for file in open_to_all:
                os.chmod(file, _PRIVATE)
        except OSError:
            self._cannot_change = True
            return NOT_PRIVATE
        return MADE_PRIVATE
