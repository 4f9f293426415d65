# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the server share: a gateway with one agent, and a check that no call is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.harness.agent import AgentPort
from tests.harness.call_assertions import assert_each_end_logged, assert_no_slots_taken
from tests.harness.gateway import Gateway


@pytest.fixture(autouse=True)
async def no_call_is_left(gateways: list[Gateway]) -> AsyncIterator[None]:
    """After each test every caller hangs up; then every slot is free, and each call's end is in the log."""
    yield
    for gateway in gateways:
        await gateway.callers_leave()
        if gateway.process.poll() is None:
            await assert_no_slots_taken(gateway)
            await assert_each_end_logged(gateway)


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """Tables of the configuration that a module adds.

    `support`: keys of the agent; `agents`: further agents.
    """
    return {}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, settings: dict[str, Any]
) -> Gateway:
    """The module's gateway.

    Its agent support.acme has one slot, so that a slot that stays taken is noticed.
    """
    support = {"name": "support", "organization": "acme", "instances": [support_port.url], "max_agents": 1}
    support["hold"] = "none"
    tables = {name: table for name, table in settings.items() if name not in ("support", "agents")}
    agents = [support | settings.get("support", {}), *settings.get("agents", [])]
    return start_gateway(agents=agents, **tables)
