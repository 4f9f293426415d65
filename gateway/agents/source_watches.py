# SPDX-License-Identifier: BSD-2-Clause
"""The sources that the agents of a worker name: each is watched once, however many agents have it.

Every worker watches for itself, so that what it knows needs neither the store nor another process. Without
such a source there is no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.agents.found_instances import FoundInstances
from gateway.agents.instance_sources import sources_of
from gateway.agents.retry_pauses import LONGEST_PAUSE_S, RetryPauses
from gateway.agents.source_report import SourceReport
from gateway.config.source_urls import SCHEMES, DnsSource, parse_source

log = structlog.get_logger(__name__)

FIRST_ANSWER_S: Final = 3.0
"""Seconds that a gateway waits at its start for the sources to answer. Later they do so while calls come."""


class SourceWatches:
    """The watches of one worker. Its methods belong to the event loop."""

    def __init__(self, directory: AgentDirectory, found: FoundInstances, nameservers: Sequence[str]) -> None:
        """`nameservers`: those that are asked for `dns://`; none for the system's."""
        self._directory = directory
        self._found = found
        self._nameservers = tuple(nameservers)
        self._watches: dict[str, _Watch] = {}
        self._scheduled: asyncio.Handle | None = None

    async def start(self) -> None:
        """Begin to watch what the agents name, and wait for the first answers for FIRST_ANSWER_S at most."""
        self._directory.on_refresh = self._agents_changed
        self._fit()
        first = [asyncio.create_task(watch.report.spoken.wait()) for watch in self._watches.values()]
        if not first:
            return
        _, silent = await asyncio.wait(first, timeout=FIRST_ANSWER_S)
        for task in silent:
            task.cancel()
        for watch in self._watches.values():
            if not watch.report.spoken.is_set():
                watch.report.failed(f"no answer within {FIRST_ANSWER_S:g} s")

    async def stop(self) -> None:
        """Stop all watches."""
        self._directory.on_refresh = None
        if self._scheduled is not None:
            self._scheduled.cancel()
        tasks = [watch.task for watch in self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _agents_changed(self) -> None:
        # A new configuration comes in two steps, first without the agents of the store, whose sources stay.
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._fit)

    def _fit(self) -> None:
        """Watch the sources that the agents name now, and no others."""
        self._scheduled = None
        named = {source for source in sources_of(self._directory.written_here) if source.startswith(SCHEMES)}
        for source in self._watches.keys() - named:
            watch = self._watches.pop(source)
            watch.task.cancel()
            watch.report.close()
        for source in sorted(named - self._watches.keys()):
            report = SourceReport(source, partial(self._found.replace, source), self._directory.source_faults)
            self._watches[source] = _Watch(report, asyncio.create_task(self._watch(report)))

    async def _watch(self, report: SourceReport) -> None:
        """Watch one source until this is cancelled."""
        pauses = RetryPauses()
        while True:
            try:
                await watch_source(report, self._nameservers)
            except ModuleNotFoundError as error:
                report.failed(missing_library(error))
                await asyncio.sleep(LONGEST_PAUSE_S)
            except Exception as error:  # the edge of the task: it ends this try alone
                log.exception("internal error")
                report.failed(f"internal error: {type(error).__name__}")
                await asyncio.sleep(pauses.next_s())


@dataclass(frozen=True, slots=True)
class _Watch:
    """A source that is watched."""

    report: SourceReport
    task: asyncio.Task[None]


async def watch_source(report: SourceReport, nameservers: Sequence[str]) -> None:
    """Report what a source finds until this is cancelled. `nameservers`: for `dns://`.

    Raises ModuleNotFoundError if the library for it is not installed.
    """
    source = parse_source(report.source)
    # Whoever lists URLs needs neither library.
    if isinstance(source, DnsSource):
        from gateway.agents.dns_watch import watch_dns  # noqa: PLC0415

        await watch_dns(source, nameservers, report)
    else:
        from gateway.agents.kubernetes_watch import watch_kubernetes  # noqa: PLC0415

        await watch_kubernetes(source, report)


def missing_library(error: ModuleNotFoundError) -> str:
    """Return what to do about a library that a source needs and that is not installed."""
    extra = "kubernetes" if (error.name or "").startswith("kubernetes") else "dns"
    return f"{error.name} is not installed: the extra {extra} of the package has it"
