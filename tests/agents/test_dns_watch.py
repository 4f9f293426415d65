# SPDX-License-Identifier: BSD-2-Clause
"""Instances at the addresses of a name, by a real name server: what comes and goes, and servers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog

from gateway.agents import dns_watch, retry_pauses
from gateway.agents.directory import AgentDirectory
from gateway.agents.dns_watch import DnsName
from gateway.agents.found_instances import FoundInstances
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.source_report import SourceReport
from gateway.agents.source_watches import SourceWatches
from gateway.config import AgentSettings, Settings
from gateway.config.source_urls import DnsSource, parse_source
from gateway.dns.address_records import LookUpFailed, Records
from gateway.simulator.waiting import WAIT_S
from tests.harness.name_server import AAAA, SERVFAIL, NameServer, name_server

HOST = "support.default.svc"
SOURCE = f"dns://{HOST}:8080"
FIRST, SECOND, SIXTH = "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://[fd00::1]:8080"
REGIONS = [
    {"code": "us-west", "display_name": "West"},
    {"code": "eu", "display_name": "Europe", "url": "http://eu.test"},
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses and TTLs short."""
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_pauses, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(dns_watch, "SHORTEST_TTL_S", 0.01)


def settings(server: NameServer, *agents: AgentSettings) -> Settings:
    """Return settings with these agents, and the name server."""
    return Settings.model_validate(
        {
            "server": {"nameservers": [server.address]},
            "regions": REGIONS,
            "agents": [agent.model_dump() for agent in agents],
        }
    )


def support(*instances: str, name: str = "support", region: str = "") -> AgentSettings:
    """Return an agent with these instances."""
    return AgentSettings(name=name, organization="acme", region=region, instances=list(instances) or [SOURCE])


@asynccontextmanager
async def watching(config: Settings) -> AsyncIterator[AgentDirectory]:
    """Run the watches of a worker with this configuration."""
    directory = AgentDirectory(config)
    found = FoundInstances(directory, InstanceHealth(()))
    watches = SourceWatches(directory, found, config.server.nameservers)
    try:
        await watches.start()
        yield directory
    finally:
        await watches.stop()


def instances(directory: AgentDirectory, name: str = "support") -> list[str]:
    """Return the instances that calls see."""
    agent = directory.find(f"{name}.acme")
    assert agent is not None
    return agent.instances


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await asyncio.sleep(0.005)


async def test_a_gateway_that_has_started_knows_all_addresses_of_the_name() -> None:
    async with (
        name_server(records={HOST: ["10.0.0.2", "fd00::1", "10.0.0.1"]}) as server,
        watching(settings(server, support())) as directory,
    ):
        assert instances(directory) == [FIRST, SECOND, SIXTH]


@pytest.mark.parametrize(("scheme", "expected"), [("dns4", [FIRST]), ("dns6", [SIXTH])])
async def test_a_scheme_of_one_family_finds_that_family(scheme: str, expected: list[str]) -> None:
    async with name_server(records={HOST: ["10.0.0.1", "fd00::1"]}) as server:
        source = SOURCE.replace("dns", scheme)
        async with watching(settings(server, support(source))) as directory:
            assert instances(directory) == expected


async def test_addresses_that_come_and_go_are_seen_when_the_ttl_is_over() -> None:
    async with (
        name_server(records={HOST: ["10.0.0.1"]}) as server,
        watching(settings(server, support())) as directory,
    ):
        server.records[HOST] = ["10.0.0.2"]
        await until(lambda: instances(directory) == [SECOND])


@pytest.mark.parametrize("fault", ["servfail", "nxdomain", "empty", "garbage"])
async def test_a_name_that_stops_answering_keeps_its_addresses_and_says_so_once(fault: str) -> None:
    async with name_server(records={HOST: ["10.0.0.1"]}) as server:
        with structlog.testing.capture_logs() as lines:
            async with watching(settings(server, support())) as directory:
                if fault == "servfail":
                    server.fails = lambda name, kind: SERVFAIL
                elif fault == "garbage":
                    server.garbage = b"\xff" * 20
                else:
                    server.records = {} if fault == "nxdomain" else {HOST: []}
                await until(lambda: bool(directory.source_faults.get(SOURCE)))
                async with asyncio.timeout(WAIT_S):
                    await server.asked(6)
                assert instances(directory) == [FIRST]
                server.fails, server.garbage = (lambda name, kind: None), None
                server.records = {HOST: ["10.0.0.1", "10.0.0.2"]}
                await until(lambda: not directory.source_faults)
                assert instances(directory) == [FIRST, SECOND]
    events = [line["event"] for line in lines if "source" in line]
    assert events == ["instances found", "source does not answer", "instances found", "source answers again"]


async def test_a_family_that_fails_keeps_its_addresses_while_the_other_goes_on() -> None:
    async with (
        name_server(records={HOST: ["10.0.0.1", "fd00::1"]}) as server,
        watching(settings(server, support())) as directory,
    ):
        server.fails = lambda name, kind: SERVFAIL if kind == AAAA else None
        server.records = {HOST: ["10.0.0.2"]}
        await until(lambda: instances(directory) == [SECOND, SIXTH])
        assert "SERVFAIL" in directory.source_faults[SOURCE]


async def test_a_gateway_starts_although_a_name_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.agents.source_watches.FIRST_ANSWER_S", 0.05)
    async with (
        name_server(is_silent=True) as server,
        asyncio.timeout(WAIT_S),
        watching(settings(server, support())) as directory,
    ):
        assert instances(directory) == []
        assert directory.source_faults == {SOURCE: "no answer within 0.05 s"}


async def test_two_agents_share_one_watch() -> None:
    async with name_server(records={HOST: ["10.0.0.1"]}, ttl=600) as server:
        both = settings(server, support(), support(name="sales"))
        async with watching(both) as directory:
            assert instances(directory) == instances(directory, "sales") == [FIRST]
    assert len(server.questions) == 2  # A and AAAA, once


async def test_another_configuration_adds_and_removes_sources() -> None:
    other = "dns://sales.default.svc:8080"
    records = {HOST: ["10.0.0.1"], "sales.default.svc": ["10.0.0.2"]}
    async with name_server(records=records) as server, watching(settings(server, support())) as directory:
        directory.configure(settings(server, support(other)))
        directory.refresh(())
        await until(lambda: instances(directory) == [SECOND])
        server.questions.clear()
        async with asyncio.timeout(WAIT_S):
            await server.asked(2)
        assert {name for name, _ in server.questions} == {"sales.default.svc"}
        assert SOURCE not in directory.source_faults


async def test_sources_of_stored_agents_are_watched_on_while_the_configuration_is_read_again() -> None:
    async with (
        name_server(records={HOST: ["10.0.0.1"]}, ttl=600) as server,
        watching(settings(server)) as directory,
    ):
        directory.refresh([support()])
        await until(lambda: instances(directory) == [FIRST])
        directory.configure(settings(server))  # for a moment without the agents of the store
        directory.refresh([support()])
        await asyncio.sleep(0)
        assert instances(directory) == [FIRST]
        directory.refresh(())
        await until(lambda: not directory.replace_found(SOURCE, ()))
    assert len(server.questions) == 2


async def test_an_agent_of_another_regions_gateway_is_not_watched_here() -> None:
    async with (
        name_server(records={HOST: ["10.0.0.1"]}) as server,
        watching(settings(server, support(region="eu"))) as directory,
    ):
        assert instances(directory) == []
        assert not directory.source_faults
    assert not server.questions


async def test_without_sources_there_is_no_watch() -> None:
    async with name_server() as server:
        before = asyncio.all_tasks()
        async with watching(settings(server, support(FIRST))):
            assert asyncio.all_tasks() == before


@pytest.mark.parametrize(("ttl_s", "expected"), [(0, 5.0), (30, 30.0), (86_400, 60.0)])
def test_the_ttl_has_bounds(ttl_s: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_watch, "SHORTEST_TTL_S", 5.0)
    source = parse_source(SOURCE)
    assert isinstance(source, DnsSource)
    name = DnsName(source)
    name.read([Records(("10.0.0.1",), ttl_s), Records()], SourceReport(SOURCE, lambda urls: None, {}))
    assert name.ttl_s == expected


def test_a_first_answer_of_one_family_alone_counts() -> None:
    taken: list[str] = []
    faults: dict[str, str] = {}
    source = parse_source(SOURCE)
    assert isinstance(source, DnsSource)
    report = SourceReport(SOURCE, taken.extend, faults)
    DnsName(source).read([Records(("10.0.0.1",), 5), LookUpFailed("it failed")], report)
    assert taken == [FIRST]
    assert faults == {SOURCE: "it failed"}


@pytest.mark.parametrize("module", ["aiodns", "kubernetes_asyncio"])
async def test_a_library_that_is_missing_is_told(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("gateway.agents.source_watches.watch_source", missing)
    async with name_server() as server, watching(settings(server, support())) as directory:
        assert directory.source_faults[SOURCE].startswith(f"{module} is not installed")


async def test_a_watch_that_fails_by_itself_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    began = asyncio.Event()

    async def fails(report: SourceReport, _: object) -> None:
        if not began.is_set():
            began.set()
            raise ZeroDivisionError
        report.found([FIRST])
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.agents.source_watches.watch_source", fails)
    async with name_server() as server, watching(settings(server, support())) as directory:
        await until(lambda: instances(directory) == [FIRST])
        assert not directory.source_faults
