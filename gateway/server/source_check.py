# SPDX-License-Identifier: BSD-2-Clause
"""Sources of instances, asked once on this machine, for `patchbay check`; and their libraries."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.agents.directory import AgentDirectory
from gateway.agents.source_report import SourceReport
from gateway.config.consistency import Location
from gateway.config.settings import Settings
from gateway.config.source_urls import SCHEMES, DnsSource, parse_source
from gateway.config.workability import Concern

LIMIT_S: Final = 3.0
"""Seconds for which `patchbay check` waits for all sources together."""

_DNS: Final = ("aiodns", "pip install 'patchbay-edge[dns]'")
_KUBERNETES: Final = ("kubernetes_asyncio", "pip install 'patchbay-edge[kubernetes]'")


@dataclass(frozen=True, slots=True)
class Finding:
    """The instances of a source. `fault`: what is wrong with it, "" if nothing is."""

    location: Location
    source: str
    urls: tuple[str, ...]
    fault: str


def missing_libraries(settings: Settings) -> Iterator[Concern]:
    """Find sources that cannot be asked, for want of a library."""
    for location, source in _sources(settings):
        module, remedy = _DNS if isinstance(parse_source(source), DnsSource) else _KUBERNETES
        if importlib.util.find_spec(module) is None:
            yield Concern(location, f"needs {module}, which is not installed: {remedy}")


def find_instances(settings: Settings) -> list[Finding]:
    """Ask every source once, all at the same time, for LIMIT_S at most."""
    sources = list(_sources(settings))
    return asyncio.run(_ask_all(sources, settings.server.nameservers)) if sources else []


def _sources(settings: Settings) -> Iterator[tuple[Location, str]]:
    """Yield the sources of the configuration's agents, but for those of another region's gateway."""
    directory = AgentDirectory(settings)
    for index, agent in enumerate(settings.agents):
        for position, entry in enumerate(agent.instances):
            if entry.startswith(SCHEMES) and directory.gateway_in(agent.region) is None:
                yield ("agents", index, "instances", position), entry


async def _ask_all(sources: Sequence[tuple[Location, str]], nameservers: Sequence[str]) -> list[Finding]:
    return await asyncio.gather(*(_ask(location, source, nameservers) for location, source in sources))


async def _ask(location: Location, source: str, nameservers: Sequence[str]) -> Finding:
    # Not at the top: the parent of several workers looks at libraries alone, and serves nothing.
    from gateway.agents.source_watches import watch_source  # noqa: PLC0415

    faults: dict[str, str] = {}
    report = SourceReport(source, lambda urls: None, faults, is_logged=False)
    watch = asyncio.create_task(watch_source(report, nameservers))
    spoken = asyncio.create_task(report.spoken.wait())
    await asyncio.wait((watch, spoken), timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    if not report.spoken.is_set():
        report.failed(f"no answer within {LIMIT_S:g} s")
    for task in (watch, spoken):
        task.cancel()
    await asyncio.wait((watch, spoken), timeout=LIMIT_S)
    return Finding(location, source, report.urls, report.fault)
