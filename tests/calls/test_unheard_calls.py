# SPDX-License-Identifier: BSD-2-Clause
"""A caller who has heard nothing of the agent was harmed, and the operator is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import connect
from tests.harness.gateway import Gateway, ends_after
from tests.harness.transcripts import replies

AT_ONCE = (
    "from gateway.calls import session_end; session_end.UNHEARD_S = 0; from gateway.cli import main; main()"
)
"""`patchbay` in which a caller has waited long enough at once."""


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(command=[sys.executable, "-c", AT_ONCE], agents=[agent])


async def ended(gateway: Gateway, call: Any) -> dict[str, Any]:
    before = len(gateway.ends())
    await call.caller.hang_up()
    (end,) = await eventually(ends_after(gateway, before), "the end is logged")
    return dict(end)


async def test_a_call_in_which_the_agent_said_nothing_is_an_error(gateway: Gateway, support: Agent) -> None:
    end = await ended(gateway, await connect(gateway, support))
    assert (end["reason"], end["level"], end["unheard"]) == ("caller_hangup", "error", True)


async def test_a_call_in_which_the_agent_spoke_is_none(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    call.agent.say(replies("twilio")[0])
    await call.caller.hear()
    end = await ended(gateway, call)
    assert (end["reason"], end["level"], "unheard" in end) == ("caller_hangup", "info", False)


async def test_a_client_that_is_no_telephone_may_be_told_nothing(gateway: Gateway, support: Agent) -> None:
    end = await ended(gateway, await connect(gateway, support, "/ws/generic/support.acme"))
    assert (end["level"], "unheard" in end) == ("info", False)
