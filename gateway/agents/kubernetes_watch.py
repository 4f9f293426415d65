# SPDX-License-Identifier: BSD-2-Clause
"""The instances at the endpoints of a Kubernetes Service: a list, then a watch from its version, and again.

What was found stays while the API is away, and until a new list has come: a version that has expired says
nothing of the endpoints.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from gateway.agents.endpoint_slices import EndpointSlice, instances_of
from gateway.agents.kubernetes_api import ApiFailed, Change, Expired, KubernetesApi, open_api
from gateway.agents.retry_pauses import RetryPauses
from gateway.agents.source_report import SourceReport
from gateway.config.source_urls import KubernetesSource

STEADY_S = 5.0
"""Seconds that a watch lasts at the least if all is well. A shorter one is followed by a pause."""


async def watch_kubernetes(
    source: KubernetesSource, report: SourceReport, now: Callable[[], float] = time.monotonic
) -> None:
    """Report the instances of a Service until this is cancelled. `now`: seconds that do not go back."""
    pauses = RetryPauses()
    while True:
        try:
            async with open_api(source) as api:
                await _follow(api, source, report, pauses, now)
        except ApiFailed as error:
            report.failed(str(error))
            await asyncio.sleep(pauses.next_s())


async def _follow(
    api: KubernetesApi,
    source: KubernetesSource,
    report: SourceReport,
    pauses: RetryPauses,
    now: Callable[[], float],
) -> None:
    """List and watch in turn. Raises ApiFailed."""
    slices: dict[str, EndpointSlice] | None = None
    version = ""
    while True:
        began_at = now()
        try:
            if slices is None:
                slices, version = await api.list_slices()
                report.found(*instances_of(slices.values(), source.port))
            async with aclosing(api.watch(version)) as watch:
                async for changes in watch:
                    for change in changes:
                        version = change.version or version
                        slices = _changed(slices, change)
                    report.found(*instances_of(slices.values(), source.port))
        except Expired:
            slices = None
        if now() - began_at >= STEADY_S:
            pauses.reset()
        else:
            await asyncio.sleep(pauses.next_s())


def _changed(slices: dict[str, EndpointSlice], change: Change) -> dict[str, EndpointSlice]:
    if change.slice is None:
        return slices
    name = change.slice.metadata.name
    others = {known: each for known, each in slices.items() if known != name}
    return others if change.is_deleted else {**others, name: change.slice}
