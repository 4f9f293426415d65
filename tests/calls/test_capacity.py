# SPDX-License-Identifier: BSD-2-Clause
"""Admission: as many calls as there are slots, however many come at once and to whichever worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_each_end_logged
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

INSTANCES = 5
PLACES_EACH = 10
PLACES = INSTANCES * PLACES_EACH
ARRIVALS = 200


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port() for _ in range(INSTANCES)]


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], ports: list[AgentPort]) -> Gateway:
    agent = {
        "name": "support",
        "organization": "acme",
        "instances": [port.url for port in ports],
        "sessions_per_instance": PLACES_EACH,
        "max_agents": INSTANCES,
    }
    return start_gateway(server={"workers": 2}, agents=[agent], limits={"close_timeout": 1})


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort]) -> list[Agent]:
    return [await agent_at(port) for port in ports]


async def arrive(gateway: Gateway, agents: list[Agent], target: str) -> list[Caller]:
    """200 callers at once."""

    async def one() -> Caller:
        caller = await gateway.dial(target)
        if caller.status == 101 and "generic" not in target:
            for message in opening("twilio"):
                caller.say(message)
        return caller

    return list(await asyncio.gather(*(one() for _ in range(ARRIVALS))))


def ends_since(gateway: Gateway, before: int) -> Counter[str]:
    return Counter(line["reason"] for line in gateway.ends()[before:])


def active(gateway: Gateway) -> list[dict[str, Any]]:
    return [session for session in gateway.sessions() if session["ended_at"] is None]


async def assert_only_the_places_were_given(gateway: Gateway, agents: list[Agent], before: int) -> None:
    await eventually(lambda: sum(agent.upgrades for agent in agents) >= PLACES, "every place is taken")
    await eventually(lambda: len(gateway.ends()) - before >= ARRIVALS - PLACES, "the others are refused")
    assert ends_since(gateway, before) == {"at_capacity": ARRIVALS - PLACES}
    assert gateway.status()["sessions"]["active"] == PLACES
    assert [agent.upgrades for agent in agents] == [PLACES_EACH] * INSTANCES
    assert len(active(gateway)) == PLACES


async def assert_all_is_free_again(gateway: Gateway, agents: list[Agent], target: str) -> None:
    await gateway.callers_leave()
    await assert_no_places_taken_by_anybody(gateway)
    await assert_each_end_logged(gateway)
    for agent in agents:
        agent.upgrades = 0
    for _ in range(PLACES):
        caller = await gateway.dial(target)
        assert caller.status == 101
        if "generic" not in target:
            for message in opening("twilio"):
                caller.say(message)
    await eventually(lambda: sum(agent.upgrades for agent in agents) == PLACES, "every place is taken again")
    assert len({session["owner"] for session in active(gateway)}) == 2, "both workers carry calls"
    await gateway.callers_leave()
    await assert_no_places_taken_by_anybody(gateway)


async def assert_no_places_taken_by_anybody(gateway: Gateway) -> None:
    await eventually(lambda: gateway.status()["sessions"]["active"] == 0, "all places are free")


async def test_200_calls_for_50_slots(gateway: Gateway, agents: list[Agent]) -> None:
    before = len(gateway.ends())
    target = "/ws/twilio/support.acme"
    callers = await arrive(gateway, agents, target)
    assert [caller.status for caller in callers] == [101] * ARRIVALS
    await assert_only_the_places_were_given(gateway, agents, before)

    served = {id(caller) for caller in callers}

    async def how_it_ends(caller: Caller) -> None:
        code, detail = await caller.closed()
        served.discard(id(caller))
        assert (code, detail) == (1013, f"{PLACES} of {PLACES} places are taken")

    refused = [asyncio.create_task(how_it_ends(caller)) for caller in callers]
    await eventually(lambda: len(served) == PLACES, "150 are told to try again later")
    for task in refused:
        task.cancel()
    results = await asyncio.gather(*refused, return_exceptions=True)
    assert [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)] == []
    await assert_all_is_free_again(gateway, agents, target)


async def test_200_generic_clients_for_50_slots(gateway: Gateway, agents: list[Agent]) -> None:
    before = len(gateway.ends())
    target = "/ws/generic/support.acme"
    callers = await arrive(gateway, agents, target)
    assert Counter(caller.status for caller in callers) == {101: PLACES, 429: ARRIVALS - PLACES}
    for caller in callers:
        if caller.status == 429:
            assert caller.refusal == (429, "at_capacity")
            assert caller.headers["retry-after"] == "5"
    await assert_only_the_places_were_given(gateway, agents, before)
    await assert_all_is_free_again(gateway, agents, target)
