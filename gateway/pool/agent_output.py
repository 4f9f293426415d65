# SPDX-License-Identifier: BSD-2-Clause
"""Searches the output of an agent's instances: the lines of a session, the newest, or some.

A node searches its own files, for seconds at the worst. However much there is, a search reads SCAN_BYTES at
most, the newest output first, and says so if that was not all (`Page.is_exact`).
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gateway.nodes.nodes import Nodes
from gateway.pool.instance_files import InstanceFile, InstanceFiles
from gateway.pool.output_file import OutputLine, read_output, since_last_bytes

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEFAULT_LEVEL: Final = "INFO"

SCAN_BYTES: Final = 64 * 1024 * 1024
"""Bytes of output that one search reads."""

TAIL_BYTES: Final = 256 * 1024
"""Bytes at the end of each instance's output that a search for the newest lines reads first."""

PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of text that one page has."""

NODE_PAGE_BYTES: Final = 3 * 1024 * 1024
"""Bytes of JSON that one node's page has for another node."""

ROW_BYTES: Final = 60
"""Bytes of JSON that a line takes besides its text."""

OTHERS_S: Final = 10.0
"""Seconds that another node has to answer."""

MAX_WAITING: Final = 8
"""Searches that wait for the one that runs in a worker; more are refused."""

AFTER_END_S: Final = 2.0
"""Seconds after a session's end up to which a line counts as its own: sizes are noted once a second."""


@dataclass(frozen=True, slots=True)
class OutputQuery:
    """The lines to search for.

    `agent`: the service host. `instance`: the URL of the one instance; "" for all. `since`, `until`: Unix
    seconds; `until` None for up to now. `started`: pairs of times; only instances that were started between
    those of one pair. `text`: what a line contains, whatever the case. `level`: one of LEVELS, "" for all.
    """

    agent: str
    instance: str = ""
    since: float = 0.0
    until: float | None = None
    started: tuple[tuple[float, float], ...] | None = None
    text: str = ""
    level: str = ""
    newest_first: bool = True
    limit: int = 100
    offset: int = 0

    @property
    def needed(self) -> int:
        """How many lines a page needs from each node, so that the pages of all can be merged."""
        return self.offset + self.limit

    def matches(self, line: OutputLine) -> bool:
        """Return True if a line between the two times is searched for."""
        if not line.text or line.at < self.since or (self.until is not None and line.at > self.until):
            return False
        if self.level and level_of(line.text) != self.level:
            return False
        return self.text.casefold() in line.text.casefold() if self.text else True


@dataclass(frozen=True, slots=True)
class PrintedLine:
    """A line. `at`: Unix seconds. `started_at`: when its instance was started."""

    at: float
    text: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Page:
    """Lines in the query's order. `total`: how many match; at least so many unless `is_exact`."""

    lines: tuple[PrintedLine, ...]
    total: int
    is_exact: bool


class TooManySearches(Exception):  # noqa: N818 - an answer, not a fault
    """There are too many searches at the moment."""


class AgentOutput:
    """The output of agents on all nodes, for the requests of one worker: one search at a time."""

    def __init__(self, nodes: Nodes | None = None) -> None:
        """`nodes`: the other ones; None where this node has no address."""
        self._nodes = nodes
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def search(self, folder: Path, query: OutputQuery) -> Page:
        """Return the lines that the query asks for. `folder`: of this node. Raises TooManySearches."""
        others = {} if self._nodes is None else await self._nodes.others()
        # Nodes of one machine may share the folder: each tells of its own instances.
        here = self._search_here(folder, query, lambda node: node not in others)
        pages = await asyncio.gather(here, *(self._ask(workers, query) for workers in others.values()))
        answered = [page for page in pages if page is not None]
        return merged(answered, query, is_whole=len(answered) == len(pages))

    async def answer(self, folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        """Search this node's own instances for another node: the answer to `Nodes.output`.

        Raises KeyError, TypeError, ValueError if the request cannot be understood.
        """
        query = query_of(request)
        own = "" if self._nodes is None else self._nodes.url
        try:
            page = await self._search_here(folder, query, lambda node: node == own)
        except TooManySearches:
            page = Page((), 0, False)
        return answer_of(page)

    async def _search_here(self, folder: Path, query: OutputQuery, is_meant: Callable[[str], bool]) -> Page:
        if self._waiting > MAX_WAITING:
            raise TooManySearches
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(search_output, InstanceFiles(folder), query, is_meant)
        finally:
            self._waiting -= 1

    async def _ask(self, workers: Sequence[str], query: OutputQuery) -> Page | None:
        assert self._nodes is not None
        answer = await self._nodes.output(workers, asdict(query), OTHERS_S)
        return None if answer is None else page_of(answer)


def level_of(text: str) -> str:
    """Return a line's level as `pipecatcloud` 1.4.0 tells it: the first of LEVELS that it contains."""
    upper = text.upper()
    return next((level for level in LEVELS if level in upper), DEFAULT_LEVEL)


def search_output(
    files: InstanceFiles, query: OutputQuery, is_meant: Callable[[str], bool] = lambda _: True
) -> Page:
    """Return the lines that one node has, at most `query.needed`; its pages are cut by `merged`.

    `is_meant`: returns True for the nodes whose instances are searched.
    """
    having = [each for each in _instances(files, query) if is_meant(each.node)]
    if query.newest_first and not query.since:
        tails = _Search(query)
        for each in having:
            tails.read(each, since_last_bytes(Path(each.output), TAIL_BYTES))
        if tails.total >= query.needed:
            return tails.page(is_whole=False)
    search = _Search(query)
    is_whole = all(search.read(each, query.since) for each in having)
    return search.page(is_whole=is_whole)


def merged(pages: Sequence[Page], query: OutputQuery, *, is_whole: bool = True) -> Page:
    """Return the page that the query asks for, from those of all nodes. `is_whole`: whether all answered."""
    sign = -1 if query.newest_first else 1
    lines = heapq.merge(*(page.lines for page in pages), key=lambda line: sign * line.at)
    chosen: list[PrintedLine] = []
    room = PAGE_BYTES
    for index, line in enumerate(lines):
        if index >= query.needed or room <= 0:
            break
        if index >= query.offset:
            chosen.append(line)
            room -= len(line.text)
    is_exact = is_whole and room > 0 and all(page.is_exact for page in pages)
    return Page(tuple(chosen), sum(page.total for page in pages), is_exact)


class _Search:
    """One pass over the output of some instances."""

    def __init__(self, query: OutputQuery) -> None:
        self._query = query
        self._sign = 1 if query.newest_first else -1
        self._best: list[tuple[float, int, PrintedLine]] = []
        self._read_bytes = 0
        self.total = 0

    def read(self, instance: InstanceFile, since: float) -> bool:
        """Read an instance's output. Return False if there was more to read than a search may."""
        query = self._query
        for line in read_output(Path(instance.output), max(since, query.since), query.until):
            self._read_bytes += len(line.text) + 1
            if self._read_bytes > SCAN_BYTES:
                return False
            if query.matches(line):
                self._add(PrintedLine(line.at, line.text, instance.started_at))
        return True

    def _add(self, line: PrintedLine) -> None:
        self.total += 1
        # Of two lines at the same time the later one was printed later.
        ranked = (self._sign * line.at, self._sign * self.total, line)
        if len(self._best) < self._query.needed:
            heapq.heappush(self._best, ranked)
        else:
            heapq.heappushpop(self._best, ranked)

    def page(self, *, is_whole: bool) -> Page:
        return Page(tuple(line for _, _, line in sorted(self._best, reverse=True)), self.total, is_whole)


def _instances(files: InstanceFiles, query: OutputQuery) -> list[InstanceFile]:
    """Return the instances that may have printed what is searched for, in the order to read them."""
    having = (each for each in files.all() if each.agent == query.agent and each.output)
    chosen = [each for each in having if _may_have(each, query)]
    chosen.sort(key=lambda each: (each.ended_at or float("inf"), each.started_at))
    return chosen[::-1] if query.newest_first else chosen


def _may_have(instance: InstanceFile, query: OutputQuery) -> bool:
    if query.instance and instance.url != query.instance:
        return False
    if query.until is not None and instance.started_at > query.until:
        return False
    if instance.ended_at is not None and instance.ended_at < query.since:
        return False
    started = instance.started_at
    return query.started is None or any(first <= started < last for first, last in query.started)


def query_of(request: Mapping[str, Any]) -> OutputQuery:
    """Return the query of another node. Raises KeyError, TypeError, ValueError if it is none."""
    started = request["started"]
    until = request["until"]
    return OutputQuery(
        agent=str(request["agent"]),
        instance=str(request["instance"]),
        since=float(request["since"]),
        until=None if until is None else float(until),
        started=None if started is None else tuple((float(first), float(last)) for first, last in started),
        text=str(request["text"]),
        level=str(request["level"]),
        newest_first=bool(request["newest_first"]),
        limit=int(request["limit"]),
        offset=int(request["offset"]),
    )


def answer_of(page: Page) -> dict[str, Any]:
    """Return a node's page for another node, at most NODE_PAGE_BYTES of it."""
    rows: list[tuple[float, str, float]] = []
    room = NODE_PAGE_BYTES
    for line in page.lines:
        room -= len(json.dumps(line.text)) + ROW_BYTES
        if room < 0:
            break
        rows.append((line.at, line.text, line.started_at))
    return {"lines": rows, "total": page.total, "exact": page.is_exact and len(rows) == len(page.lines)}


def page_of(answer: Mapping[str, Any]) -> Page:
    """Return the page that another node has answered with."""
    lines = tuple(PrintedLine(float(at), str(text), float(began)) for at, text, began in answer["lines"])
    return Page(lines, int(answer["total"]), bool(answer["exact"]))
