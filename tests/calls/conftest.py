# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of the tests of whole calls: a gateway with one agent that has one slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.agent import AgentPort
from tests.harness.call_assertions import assert_each_end_logged, assert_no_slots_taken
from tests.harness.document_fixtures import carrier, carrier_servers, line  # noqa: F401 - fixtures
from tests.harness.gateway import Gateway


@pytest.fixture(autouse=True)
async def every_slot_is_freed(gateways: list[Gateway]) -> AsyncIterator[None]:
    """Close every caller's socket after a test, however it went; then every slot must be free."""
    yield
    for gateway in gateways:
        await gateway.callers_leave()
        if gateway.process.poll() is None:
            await assert_no_slots_taken(gateway)
            await assert_each_end_logged(gateway)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[list[SqliteStore]]:
    """The stores of two workers, on one file."""
    opened = []
    for name in ("one", "two"):
        opened.append(SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name)))
        await opened[-1].open()
    yield opened
    for store in opened:
        await store.close()


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """Return settings beside the one agent; a module overrides it. `support`: more keys of that agent."""
    return {}


@pytest.fixture(scope="module")
def accelerator() -> str:
    """Return "on": frames may pass in C. A module whose tests are about frames overrides it."""
    return "on"


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, settings: dict[str, Any], accelerator: str
) -> Gateway:
    """Start the module's gateway. Its agent support.acme has one slot: one that is not freed shows."""
    support = {"name": "support", "organization": "acme", "instances": [support_port.url], "max_agents": 1}
    support["hold"] = "none"  # the bytes that pass are compared, and hold audio would stand between them
    more = {name: table for name, table in settings.items() if name not in ("support", "agents")}
    agents = [support | settings.get("support", {}), *settings.get("agents", [])]
    return start_gateway(accelerator=accelerator, agents=agents, **more)
