# SPDX-License-Identifier: BSD-2-Clause
"""What the managers of several nodes do together, whatever happens to one of them, on each kind of store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.instance_health import Health, ProbeResult
from gateway.config import Settings
from gateway.pool import node_rows, own_instance, pool_manager
from gateway.pool.pool_records import INSTANCE_KIND, NODE_KIND, NODE_LEASE_S
from gateway.simulator.waiting import eventually
from tests.pool.fake_nodes import Clock, Node, admit, agent, hang_up, open_node
from tests.store.conformance import FACTORIES

NewNode = Callable[..., Any]
KINDS = ["sqlite", "redis"]


@pytest.fixture(autouse=True)
def nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_manager, "LEAVE_S", 0.0)
    monkeypatch.setattr(pool_manager, "USAGE_S", 0.0)
    monkeypatch.setattr(node_rows, "RENEW_S", 0.0)
    monkeypatch.setattr(pool_manager, "PROBE_S", 0.005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
async def new_node(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[NewNode]:
    """Make the next node, "a" first, with these settings of the agent."""
    nodes: list[Node] = []

    async def make(**settings: Any) -> Node:
        name = chr(ord("a") + len(nodes))
        nodes.append(await open_node(name, FACTORIES[request.param], tmp_path, clock, agent(**settings)))
        return nodes[-1]

    yield make
    for node in nodes:
        node.provider.may_stop.set()
        await node.manager.close()
    for node in nodes:
        await node.store.close()


async def test_there_are_never_more_instances_than_the_agent_may_have(new_node: NewNode) -> None:
    """Each node sees the same want at the same moment."""
    nodes = [await new_node(min_agents=4, max_agents=4) for _ in range(3)]
    for _ in range(4):
        await asyncio.gather(*(node.manager.look() for node in nodes))
    rows = await nodes[0].rows()
    assert sorted(row.place for row in rows) == [0, 1, 2, 3]
    assert sum(len(node.provider.running) for node in nodes) == 4
    assert len({row.url for row in rows}) == 4


async def test_nodes_share_what_is_to_be_started(new_node: NewNode) -> None:
    nodes = [await new_node(min_agents=6, max_agents=6) for _ in range(3)]
    for node in nodes:
        await node.manager._rows.renew_node(node.clock(), is_draining=False)
    await asyncio.gather(*(node.look() for node in nodes))
    for node in nodes:
        await node.look()
    load = Counter(row.node for row in await nodes[0].rows())
    assert load == {"a": 2, "b": 2, "c": 2}


async def test_calls_of_every_node_see_all_instances_in_the_order_of_their_places(new_node: NewNode) -> None:
    first = await new_node(min_agents=2)
    second = await new_node(min_agents=2)
    await first.until("ready", "ready")
    await second.pool.refresh()
    assert first.listed == second.listed == [row.url for row in await first.rows()]
    assert all(second.health.is_watched(url) for url in second.listed)


async def test_an_instance_is_listed_from_its_beginning(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    node.health.answer = ProbeResult.REFUSED
    await node.look(2)
    assert await node.states() == ["starting"]
    (url,) = node.listed
    assert node.pool.is_starting(url)
    waiting = asyncio.create_task(node.pool.wait_started(url))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    node.health.answer = ProbeResult.READY
    await node.until("ready")
    assert await waiting is True


async def test_whoever_waits_for_an_instance_that_fails_learns_it(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    node.health.answer = ProbeResult.NOT_READY
    await node.look(2)
    (url,) = node.listed
    waiting = asyncio.create_task(node.pool.wait_started(url))
    await asyncio.sleep(0)
    (instance,) = node.provider.running.values()
    node.provider.end(instance, 3)
    await node.until()
    assert await waiting is False
    await node.look()  # so that others know why
    status = await node.pool.status(node.pool.agents()[0])
    assert status.troubles["a"].words == "exit status 3, before it was ready"
    assert node.pool.trouble("support.acme") == "exit status 3, before it was ready"


async def test_an_instance_that_is_never_ready_is_stopped(new_node: NewNode) -> None:
    node = await new_node(min_agents=1, start_limit=0.05)
    node.health.answer = ProbeResult.NOT_READY
    await node.look()
    assert len(node.provider.started) == 1
    await node.until()
    assert node.provider.running == {}
    await node.look()
    assert node.pool.trouble("support.acme") == "it was not ready in time"


@pytest.mark.parametrize("seen", [Health.UNREACHABLE, Health.UNKNOWN])
async def test_an_instance_that_runs_and_does_not_answer_is_replaced_but_not_during_a_session(
    new_node: NewNode, monkeypatch: pytest.MonkeyPatch, seen: Health, clock: Clock
) -> None:
    monkeypatch.setattr(own_instance, "SILENT_S", 0.0)
    node = await new_node(min_agents=1)
    await node.until("ready")
    (before,) = await node.rows()
    session = await admit(node, before.url)
    await node.look()
    node.health.seen = seen
    await node.look(3)
    assert await node.rows() == [before]
    await hang_up(node, session)
    await node.until()
    node.health.seen = Health.READY
    clock.now += 2
    await node.until("ready")
    (after,) = await node.rows()
    assert after.id != before.id


async def test_after_a_failure_nothing_is_started_until_the_pause_is_over(
    new_node: NewNode, clock: Clock
) -> None:
    node = await new_node(min_agents=1)
    node.provider.trouble = "bot: No such file or directory"
    for started, after_s in ((1, 0.0), (1, 0.9), (2, 0.2), (2, 1.9), (3, 0.2), (3, 3.9), (4, 0.2)):
        clock.now += after_s
        await node.look(2)
        assert len(node.provider.started) == started
    assert await node.states() == []


async def test_a_node_that_cannot_start_an_agent_leaves_it_to_others(new_node: NewNode) -> None:
    first, second = await new_node(min_agents=2), await new_node(min_agents=2)
    first.provider.trouble = "bot: No such file or directory"
    await first.look()
    await second.look()
    await first.look()
    await second.look(2)
    assert [row.node for row in await first.rows()] == ["b", "b"]


async def test_the_instances_of_a_node_that_died_are_replaced(new_node: NewNode, clock: Clock) -> None:
    first, second = await new_node(min_agents=2), await new_node(min_agents=2)
    await first.until("ready", "ready")
    await second.look()
    gone = set(first.listed)
    await first.manager.close()
    clock.now += NODE_LEASE_S - 1
    await second.look()
    assert set(second.listed) == gone
    clock.now += 2
    await second.until("ready", "ready")
    assert not gone & set(second.listed)
    assert {row.node for row in await second.rows()} == {"b"}


async def test_a_node_that_was_cut_off_stops_what_there_is_no_place_for_when_it_has_no_session(
    new_node: NewNode, clock: Clock
) -> None:
    first, second = await new_node(min_agents=2, max_agents=2), await new_node(min_agents=2, max_agents=2)
    await first.until("ready", "ready")
    busy, _ = first.listed
    session = await admit(first, busy)
    await second.look()
    clock.now += NODE_LEASE_S + 1
    await second.until("ready", "ready")
    await first.look(3)
    assert len(first.provider.running) == 1, "the one with a session"
    assert first.listed == second.listed
    assert busy not in first.listed
    await hang_up(first, session)
    await first.look(2)
    assert first.provider.running == {}


async def test_rows_that_the_store_has_lost_are_written_again(new_node: NewNode) -> None:
    node = await new_node(min_agents=2)
    await node.until("ready", "ready")
    before = await node.rows()
    for row in before:
        await node.store.key_values.delete(INSTANCE_KIND, row.key)
    await node.look(2)
    assert [(row.id, row.key, row.state) for row in await node.rows()] == [
        (row.id, row.key, row.state) for row in before
    ]
    assert len(node.provider.running) == 2


async def test_another_worker_goes_on_with_the_rows_and_what_runs(new_node: NewNode) -> None:
    node = await new_node(min_agents=2, recycle_after_sessions=3)
    await node.until("ready", "ready")
    session = await admit(node, node.listed[0])
    await node.look()
    before = await node.rows()
    await node.restart()
    await node.look(2)
    assert await node.rows() == before
    assert len(node.provider.started) == 2
    assert list(node.provider.served.values()) == [1], "a session is counted once"
    await hang_up(node, session)


async def test_rows_whose_instance_is_not_there_are_removed_by_the_next_worker(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    await node.until("ready")
    node.provider.running.clear()
    await node.restart()
    node.configure(agent())
    await node.until()


async def test_a_place_is_free_only_when_nothing_of_the_instance_runs(new_node: NewNode) -> None:
    node = await new_node(min_agents=1, max_agents=1)
    await node.until("ready")
    node.provider.may_stop.clear()
    (instance,) = node.provider.running.values()
    node.provider.end(instance, 1)
    await node.until("closing")
    node.clock.now += 5
    await node.look(3)
    assert len(node.provider.started) == 1
    assert node.listed == []
    node.provider.may_stop.set()
    await node.until("ready")
    assert len(node.provider.started) == 2


async def test_an_instance_is_not_stopped_while_a_session_has_a_slot_on_it(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    await node.until("ready")
    (url,) = node.listed
    session = await admit(node, url)
    node.configure(agent())
    await node.look(4)
    assert await node.states() == ["ready"]
    await hang_up(node, session)
    await node.until()
    assert node.provider.running == {}


async def test_a_session_that_takes_a_slot_as_the_instance_leaves_is_waited_for(new_node: NewNode) -> None:
    """It has read the list before, and the manager the sessions."""
    node = await new_node(min_agents=1)
    await node.until("ready")
    (url,) = node.listed
    (own,) = node.manager._all()
    session = await admit(node, url)
    await node.manager._close(own)
    assert await node.pool.may_be_used(url)
    assert await node.states() == ["leaving"]
    assert len(node.provider.running) == 1
    await hang_up(node, session)
    await node.look(2)
    assert url not in node.listed


async def test_a_session_that_comes_too_late_learns_that_the_instance_is_stopped(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    await node.until("ready")
    (url,) = node.listed
    (own,) = node.manager._all()
    await node.manager._close(own)
    await eventually(lambda: not node.provider.running, "it is stopped")
    await admit(node, url)
    assert not await node.pool.may_be_used(url)
    assert await node.pool.may_be_used("http://10.9.9.9:8080"), "nobody started that one"


async def test_idle_instances_stop_and_the_last_places_go_first(new_node: NewNode) -> None:
    node = await new_node(min_agents=3)
    await node.until("ready", "ready", "ready")
    first = node.listed[0]
    node.configure(agent(min_agents=1))
    await node.until("ready")
    assert node.listed == [first]


async def test_callers_who_find_no_slot_get_instances_from_whichever_node(new_node: NewNode) -> None:
    first, second = await new_node(max_agents=2), await new_node(max_agents=2)
    await first.look()
    await second.look()
    writing = asyncio.create_task(second.pool.write_demand())
    woken = asyncio.Event()
    async with second.pool.demand(second.pool.agents()[0], woken.set):
        await eventually(lambda: second.pool._written.get("support.acme", (0, 0))[0] == 1, "it is written")
        await first.look()
        await second.look()
        assert len(first.listed) == 1
        await asyncio.wait_for(woken.wait(), 60)
    await eventually(lambda: not second.pool._written, "nobody waits")
    writing.cancel()


async def test_instances_of_former_settings_are_replaced(new_node: NewNode) -> None:
    node = await new_node(min_agents=1, environment={"MODEL": "a"})
    await node.until("ready")
    (before,) = await node.rows()
    node.configure(agent(min_agents=1, environment={"MODEL": "b"}))
    await node.until("ready", "ready")
    await node.until("ready")
    (after,) = await node.rows()
    assert before.spec != after.spec
    assert node.provider.started[1].agent.environment == {"MODEL": "b"}


async def test_other_numbers_are_no_other_settings(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    await node.until("ready")
    before = await node.rows()
    node.configure(agent(min_agents=1, max_agents=9, cooldown=5, recycle_above_mb=500))
    await node.look(3)
    assert await node.rows() == before


async def test_the_instances_of_an_agent_that_was_removed_stop_without_a_session(new_node: NewNode) -> None:
    node = await new_node(min_agents=2)
    await node.until("ready", "ready")
    session = await admit(node, node.listed[0])
    node.configure()
    await node.until("leaving")
    await hang_up(node, session)
    await node.until()


async def test_an_instance_that_uses_too_much_memory_is_replaced_between_two_sessions(
    new_node: NewNode,
) -> None:
    node = await new_node(min_agents=1, recycle_above_mb=100)
    await node.until("ready")
    (before,) = await node.rows()
    session = await admit(node, before.url)
    node.provider.memory_bytes = 200_000_000
    await node.look(4)
    assert await node.rows() == [before]
    await hang_up(node, session)
    await node.look(2)
    node.provider.memory_bytes = 0
    await node.until("ready")
    (after,) = await node.rows()
    assert after.id != before.id


async def test_a_draining_node_starts_nothing_and_its_instances_leave(new_node: NewNode) -> None:
    first, second = await new_node(min_agents=2), await new_node(min_agents=2)
    await first.until("ready", "ready")
    await second.look()
    session = await admit(first, first.listed[0])
    first.manager.is_draining = True
    await first.look(2)
    await second.until("leaving", "ready")
    assert {row.node for row in await second.rows() if row.state.is_listed} == {"b"}
    await hang_up(first, session)
    await first.look(3)
    assert first.provider.running == {}


async def test_a_gateway_that_ends_stops_everything_and_leaves_no_row(new_node: NewNode) -> None:
    node = await new_node(min_agents=3)
    await node.until("ready", "ready", "ready")
    await node.manager.stop_all(1.0)
    assert node.provider.running == {}
    await node.pool.refresh()
    assert node.pool.table.nodes == {}
    assert node.pool.table.instances == ()


async def test_the_status_of_an_agents_pool(new_node: NewNode) -> None:
    node = await new_node(min_agents=2, buffer=1)
    await node.until("ready", "ready")
    await admit(node, node.listed[0])
    await node.look()
    await admit(node, node.listed[1])
    status = await node.pool.status(node.pool.agents()[0])
    assert (status.needed, status.ready, status.starting, status.leaving) == (3, 2, 0, 0)
    assert status.troubles == {}


async def test_a_gateway_that_ends_does_not_wait_for_ever_for_what_cannot_be_ended(
    new_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_manager, "KILL_S", 0.05)
    node = await new_node(min_agents=1)
    await node.until("ready")
    node.provider.may_stop.clear()
    await node.manager.stop_all(0.0)
    assert len(node.provider.running) == 1


async def test_agents_of_another_regions_gateway_are_not_started_here(new_node: NewNode) -> None:
    node = await new_node()
    table = agent(min_agents=1, region="eu-central")
    regions = [
        {"code": "us-west", "display_name": "West"},
        {"code": "eu-central", "display_name": "Europe", "url": "https://eu.example.com"},
    ]
    node.directory.configure(Settings.model_validate({"agents": [table], "regions": regions}))
    await node.look(2)
    assert node.provider.started == []
    regions[1].pop("url")
    node.directory.configure(Settings.model_validate({"agents": [table], "regions": regions}))
    await node.until("ready")


async def test_rows_of_a_later_version_of_the_gateway_are_understood(new_node: NewNode) -> None:
    node = await new_node(min_agents=1)
    await node.until("ready")
    (row,) = await node.rows()
    values = node.store.key_values
    for kind, key in ((INSTANCE_KIND, row.key), (NODE_KIND, "a")):
        stored = await values.get(kind, key, node.clock())
        assert stored is not None
        later = json.dumps({**json.loads(stored.value), "colour": "green"})
        await values.put(kind, key, later, now=node.clock())
    await node.pool.refresh()
    assert node.listed == [row.url]
