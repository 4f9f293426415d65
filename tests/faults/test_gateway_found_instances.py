# SPDX-License-Identifier: BSD-2-Clause
"""What finds the instances of an agent fails: they stay, and calls come and go as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.simulator.waiting import WAIT_S
from tests.faults.case import Case
from tests.faults.suite_settings import LIMITS, agents_at, warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway
from tests.harness.kubernetes_server import (
    KubernetesServer,
    endpoint,
    endpoint_slice,
    kubernetes_server,
    refusing,
    status,
    write_kubeconfig,
)
from tests.harness.name_server import SERVFAIL, NameServer, name_server

Cases = Callable[..., Case]
HOST = "agent.test"


async def assert_calls_go_on(fault: Case, support: Agent) -> None:
    """Place a call after the fault; it goes as any."""
    talk = await fault.talk(support)
    await talk.recorder.until(talk.recorder.audio_frames + 10)
    fault.note_received(talk.recorder, with_close=False)
    await talk.hang_up()
    await fault.over("caller_hangup", "caller")


def is_silent(server: NameServer) -> None:
    server.is_silent = True


def answers_garbage(server: NameServer) -> None:
    server.garbage = b"\xff" * 30


def fails(server: NameServer) -> None:
    server.fails = lambda name, kind: SERVFAIL


def has_lost_the_name(server: NameServer) -> None:
    server.records = {}


@pytest.mark.parametrize(
    ("words", "happens"),
    [
        ("answers nothing", is_silent),
        ("answers garbage", answers_garbage),
        ("fails", fails),
        ("has lost the agent's name", has_lost_the_name),
    ],
)
async def test_the_name_server_of_found_instances(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support_port: AgentPort,
    agent_at: Any,
    words: str,
    happens: Callable[[NameServer], None],
) -> None:
    async with name_server(records={HOST: ["127.0.0.1"]}) as server:
        gateway = await asyncio.to_thread(
            start_gateway,
            server={"nameservers": [server.address]},
            agents=agents_at(f"dns4://{HOST}:{support_port.number}"),
            limits=LIMITS,
        )
        before = await warmed(gateway, bases, support_port)
        support = await agent_at(support_port)
        async with case(f"the name server of found instances {words}", of=gateway, before=before) as fault:
            happens(server)
            fault.strike()
            async with asyncio.timeout(WAIT_S):
                await server.asked(2)
            await assert_calls_go_on(fault, support)


async def expires(server: KubernetesServer) -> None:
    await server.send({"type": "ERROR", "object": status(410, "Expired")})


async def closes_at_once(server: KubernetesServer) -> None:
    async def closes(_: web.Request) -> web.StreamResponse:
        return web.Response(text="")

    server.on_watch = closes
    await expires(server)


async def hangs(server: KubernetesServer) -> None:
    async def waits(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.on_list = server.on_watch = waits
    await expires(server)


async def refuses(server: KubernetesServer) -> None:
    server.on_list = server.on_watch = refusing(403, "Forbidden")
    await expires(server)


@pytest.mark.parametrize(
    ("words", "happens"),
    [
        ("says that the version has expired (410)", expires),
        ("closes each watch at once", closes_at_once),
        ("hangs", hangs),
        ("refuses (403)", refuses),
    ],
)
async def test_the_kubernetes_api(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support_port: AgentPort,
    agent_at: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    happens: Any,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    async with kubernetes_server() as server:
        write_kubeconfig(tmp_path / "config", server.url)
        server.slices["a"] = endpoint_slice("a", endpoint("127.0.0.1", "p1"), ports=None)
        gateway = await asyncio.to_thread(
            start_gateway,
            agents=agents_at(f"kubernetes://default/support:{support_port.number}"),
            limits=LIMITS,
        )
        before = await warmed(gateway, bases, support_port)
        support = await agent_at(support_port)
        async with case(f"the Kubernetes API {words}", of=gateway, before=before) as fault:
            async with asyncio.timeout(WAIT_S):
                await server.until(lambda: bool(server.watches))
            seen = len(server.requests)
            await happens(server)
            fault.strike()
            async with asyncio.timeout(WAIT_S):
                await server.until(lambda: len(server.requests) > seen)
            await assert_calls_go_on(fault, support)
