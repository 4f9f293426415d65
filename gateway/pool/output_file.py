# SPDX-License-Identifier: BSD-2-Clause
"""The output of an instance: a file that it writes itself, bounded, with the times at which it grew.

An instance writes straight into the file, so nothing that this gateway does or fails to do holds it up, and
what it prints while no gateway runs is there too. Nobody reads each line as it comes. Instead the file's size
is looked at four times a second, and noted with the time if it has changed (`NAME.times`). So each line has a
time, to a quarter of a second, and the lines of a session are those between its beginning and its end
(`read_output`).

A file that has grown over MAX_BYTES is copied to `NAME.1`, over the one before, and emptied. An instance that
prints fast is looked at more often. Lines that are written between copy and emptying, which takes
milliseconds, are lost.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of the file; twice as much of the one before it is stored."""

MAX_SAMPLES: Final = 20_000
"""Noted times of one instance; above it every second of the older half is dropped."""

MAX_LINE_BYTES: Final = 16_384
"""Of a line that is read; the rest is left out."""

FILE_CLOCK_S: Final = 0.02
"""Seconds by which the clock of files may be behind (a tick of the kernel's)."""

_COPY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A line that an instance has printed. `at`: Unix seconds by which it was there."""

    at: float
    text: str


def open_for_instance(path: Path) -> int:
    """Make the file and return a descriptor that the instance is to write to. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class OutputFile:
    """The output of one instance, as its node looks after it. It may block: call it in a thread."""

    def __init__(self, path: Path, started_at: float) -> None:
        """Go on with what is noted of the file, if anything is. `started_at`: Unix seconds."""
        self._path = path
        self._times = _Times.load(path)
        if not self._times.at:
            self._times.add(started_at, 0)
        self.rotations = 0
        """How often this object has emptied the file."""

    def sample(self, now: float) -> int:
        """Note the size if it has changed, and empty the file if it is too long. Return how much it grew.

        `now`: Unix seconds. An error of the disk is no reason to end anything: nothing is noted then.
        """
        try:
            size = self._path.stat().st_size
        except OSError:
            return 0
        before = self._times.offsets[-1]
        # Somebody else may have emptied it; then what is there counts as new.
        offset = max(self._times.base + size, before)
        if offset == before:
            return 0
        dropped = self._times.add(now, offset)
        with suppress(OSError):
            if size > MAX_BYTES:
                self._rotate(offset)
            elif dropped:
                self._times.save(self._path)
            else:
                self._times.append_to(self._path, now, offset)
        return offset - before

    def _rotate(self, offset: int) -> None:
        previous = _previous(self._path)
        copied = 0
        with self._path.open("rb") as source, previous.open("wb") as target:
            os.fchmod(target.fileno(), 0o600)
            source.seek(max(0, offset - self._times.base - 2 * MAX_BYTES))
            while (chunk := source.read(_COPY_BYTES)) and copied < 4 * MAX_BYTES:
                copied += target.write(chunk)
        os.truncate(self._path, 0)
        self._times.base = offset
        self._times.forget_before(offset - copied)
        self._times.save(self._path)
        self.rotations += 1


def remove_output(path: Path) -> None:
    """Remove an instance's files."""
    for each in (path, _previous(path), _times_file(path)):
        with suppress(OSError):
            each.unlink()


def output_bytes(path: Path) -> int:
    """Return how much an instance's files take."""
    total = 0
    for each in (path, _previous(path), _times_file(path)):
        with suppress(OSError):
            total += each.stat().st_size
    return total


def read_output(path: Path, since: float, until: float | None = None) -> Iterator[OutputLine]:
    """Yield the lines that an instance has printed between two times, in Unix seconds, oldest first.

    `until`: None for up to now. What is no UTF-8 is replaced. It blocks as files do. Nothing is raised if
    there is no such file, or no more.
    """
    times = _Times.load(path)
    if not times.at:
        return
    begin = times.offsets[max(0, bisect_right(times.at, since) - 1)]
    end = None
    if until is not None and (index := bisect_left(times.at, until)) < len(times.at):
        end = times.offsets[index]
    for offset, line in _lines(path, times.base, begin, end):
        index = bisect_left(times.offsets, offset)
        yield OutputLine(times.at[index] if index < len(times.at) else _written_at(path, times), line)


def _written_at(path: Path, times: _Times) -> float:
    """Return by when what is not noted yet was there: after the last noted time, and the file's own."""
    try:
        return max(times.at[-1], path.stat().st_mtime + FILE_CLOCK_S)
    except OSError:
        return times.at[-1]


def since_last_bytes(path: Path, size: int) -> float:
    """Return a time, Unix seconds, from which on an instance has printed at least so much; 0 for all."""
    times = _Times.load(path)
    if not times.at:
        return 0.0
    index = bisect_right(times.offsets, times.offsets[-1] - size) - 1
    return times.at[index] if index >= 0 else 0.0


class _Times:
    """Times and the sizes at them, over all that the instance has printed. `base`: where the file begins."""

    def __init__(self, base: int, at: list[float], offsets: list[int]) -> None:
        self.base, self.at, self.offsets = base, at, offsets

    @classmethod
    def load(cls, path: Path) -> _Times:
        times = cls(0, [], [])
        try:
            text = _times_file(path).read_text(encoding="ascii")
        except (OSError, UnicodeError):
            return times
        for line in text.splitlines():
            with suppress(ValueError, TypeError):  # half a line, of a machine that went down
                at, offset = json.loads(line)
                if at is None:
                    times.base = int(offset)
                else:
                    times.add(float(at), int(offset))
        return times

    def add(self, at: float, offset: int) -> bool:
        """Note a size. Return True if others were dropped for it."""
        if self.at and (at < self.at[-1] or offset < self.offsets[-1]):  # a clock that was set back
            at, offset = max(at, self.at[-1]), max(offset, self.offsets[-1])
        self.at.append(at)
        self.offsets.append(offset)
        if len(self.at) > MAX_SAMPLES:
            newer = len(self.at) // 2
            del self.at[1:newer:2], self.offsets[1:newer:2]
            return True
        return False

    def forget_before(self, offset: int) -> None:
        first = max(0, bisect_right(self.offsets, offset) - 1)
        del self.at[:first], self.offsets[:first]

    def append_to(self, path: Path, at: float, offset: int) -> None:
        file = _times_file(path)
        if not file.exists():
            self.save(path)
            return
        with file.open("a", encoding="ascii") as times:
            times.write(f"[{at:.3f}, {offset}]\n")

    def save(self, path: Path) -> None:
        rows = [f"[null, {self.base}]"]
        rows += [f"[{at:.3f}, {offset}]" for at, offset in zip(self.at, self.offsets, strict=True)]
        file = _times_file(path)
        written = file.with_name(f"{file.name}.new")
        written.touch(mode=0o600)
        written.write_text("\n".join(rows) + "\n", encoding="ascii")
        written.replace(file)


def _lines(path: Path, base: int, begin: int, end: int | None) -> Iterator[tuple[int, str]]:
    """Yield the lines of the two files that end between two offsets, each with the offset of its end."""
    pending = b""
    for file, first in _parts(path, base):
        try:
            stream = file.open("rb")
        except OSError:
            continue
        with stream:
            offset = first
            if begin > first:
                stream.seek(begin - first - 1)
                skipped = stream.readline(MAX_LINE_BYTES)  # the rest of a line that was begun before
                offset = begin - 1 + len(skipped)
            while end is None or offset < end:
                line = stream.readline(_COPY_BYTES)
                if not line:
                    break
                offset += len(line)
                if not line.endswith(b"\n") and file != path:  # it goes on in the next file
                    pending = line
                    continue
                yield offset, _text(pending + line)
                pending = b""


def _parts(path: Path, base: int) -> Iterator[tuple[Path, int]]:
    previous = _previous(path)
    with suppress(OSError):
        yield previous, base - previous.stat().st_size
    yield path, base


def _text(line: bytes) -> str:
    return line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r\n")


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _times_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.times")
