# SPDX-License-Identifier: BSD-2-Clause
"""The node's folder: one file for each instance that says what runs, and the files with what they print.

A gateway that starts again finds its instances by these files, and whoever wants to read what an instance has
printed finds that. Files of instances that have ended are removed when there are too many. It may block: call
it in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from gateway.pool.output_file import OutputLine, output_bytes, read_output, remove_output

ENDED_PER_AGENT: Final = 200
"""Instances that have ended, of one agent, whose output is stored."""

ENDED_BYTES_PER_AGENT: Final = 512 * 1024 * 1024
"""How much of it; the oldest are removed."""


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file of one instance. `ended_at`: Unix seconds, None while it runs. Else as StartedInstance.

    `pid`, `born`: of the process that was started (process_table.py). `namespace`: where these mean anything
    (gateway/store/worker_id.py).
    """

    id: str
    agent: str
    place: int
    node: str
    url: str
    spec: str
    started_at: float
    served: int
    stop_grace_s: float
    output: str
    pid: int
    born: int
    namespace: str
    ended_at: float | None = None


class InstanceFiles:
    """The files in the node's folder, `server.pool_folder`."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when it is needed first."""
        self.folder = folder.absolute()

    def make_folder(self, folder: str = "") -> Path:
        """Make the folder, or another one for output, and return it. Raises OSError."""
        made = Path(folder).absolute() if folder else self.folder
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        return made

    def save(self, instance: InstanceFile) -> None:
        """Write what is known of an instance. Raises OSError."""
        file = self._path(instance.id)
        written = file.with_suffix(".new")
        written.touch(mode=0o600)
        written.write_text(json.dumps(asdict(instance)), encoding="utf-8")
        written.replace(file)

    def end(self, instance: InstanceFile, now: float) -> None:
        """Note that an instance has ended, and remove what is too old of its agent. Raises OSError."""
        self.save(replace(instance, ended_at=now))
        self._remove_old(instance.agent)

    def all(self) -> Iterator[InstanceFile]:
        """Yield what is stored, the files that cannot be read left out."""
        for file in sorted(self.folder.glob("*.json")):
            try:
                yield msgspec.json.decode(file.read_bytes(), type=InstanceFile)
            except (OSError, ValueError, RecursionError):  # of another version, or somebody has edited it
                continue

    def lines(self, url: str, since: float, until: float | None) -> Iterator[OutputLine]:
        """Yield what the instances with a URL have printed between two times, in Unix seconds, oldest first.

        So with the time at which a session got its slot, and that of its end, what was printed for it, where
        an instance has one session at a time. `until`: None for up to now.
        """
        having = [each for each in self.all() if each.url == url and each.output]
        for each in sorted(having, key=lambda each: each.started_at):
            if (until is None or each.started_at <= until) and (each.ended_at or since) >= since:
                yield from read_output(Path(each.output), since, until)

    def _path(self, identifier: str) -> Path:
        return self.folder / f"{identifier}.json"

    def _remove_old(self, agent: str) -> None:
        ended = [each for each in self.all() if each.agent == agent and each.ended_at is not None]
        ended.sort(key=lambda each: each.ended_at or 0.0, reverse=True)
        total = 0
        for number, each in enumerate(ended):
            total += output_bytes(Path(each.output)) if each.output else 0
            if number >= ENDED_PER_AGENT or total > ENDED_BYTES_PER_AGENT:
                if each.output:
                    remove_output(Path(each.output))
                with suppress(OSError):
                    self._path(each.id).unlink()
