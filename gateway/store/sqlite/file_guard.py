# SPDX-License-Identifier: BSD-2-Clause
"""Watches the files of an open store: whether they still stand under their names, how long they are, and who
may read them.

SQLite goes on with a file that was deleted or replaced, and nothing tells: this worker would count the calls
in one file, and the next process in another (https://sqlite.org/howtocorrupt.html §2.5).

It maps `-shm` into memory (https://sqlite.org/walformat.html §2). Where that file is shortened meanwhile, the
first access behind its end is a SIGBUS (mmap(2)), which ends the process and all its calls. So its size is
looked at before each access, and a file that has become shorter is not touched any more, nor closed.
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

MAPPED: Final = "-shm"
"""The one that SQLite maps into memory."""

_STOP: Final = "stop every Patchbay that uses it"
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
        self._mapped_bytes = 0  # the largest size seen
        self._mapped = f"{path}{MAPPED}"
        self._has_content = False
        self._cannot_change = False

    def opened(self) -> None:
        """Remember the files that were just opened."""
        self._next_check = 0.0
        self._known.clear()
        self._mapped_bytes = 0
        self._has_content = False
        self._modes()

    def check_mapped(self) -> None:
        """Raise StoreFailed if the file that is mapped into memory has become shorter. Takes microseconds."""
        try:
            status = os.stat(self._mapped)
        except OSError:
            return  # a file that was deleted stays in memory; `check` reports it
        if (status.st_dev, status.st_ino) == self._known.get(MAPPED):
            self._check_mapped_size(status.st_size)

    def check(self) -> str:
        """Raise StoreFailed if a file was deleted, replaced or shortened. Return an event to log, or "".

        A file that others may read is made the user's own: it holds telephone numbers and secrets.
        """
        self.check_mapped()
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
            if suffix == MAPPED:
                self._check_mapped_size(status.st_size)
            elif not suffix:
                if self._has_content and not status.st_size:
                    raise self._failure(
                        file, "was emptied while it was open", f"{_STOP} and put a backup there"
                    )
                self._has_content = status.st_size > 0
        return modes

    def _check_mapped_size(self, size: int) -> None:
        if size < self._mapped_bytes:
            file = Path(self._mapped)
            raise self._failure(file, "was shortened while it was open", f"{_STOP} and start again")
        self._mapped_bytes = size

    def _failure(
        self, file: Path, what: str, remedy: str = f"put it back, or {_STOP} and start again"
    ) -> StoreFailed:
        return StoreFailed(f"{file} of the session store {what}: {remedy}")

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
