# SPDX-License-Identifier: BSD-2-Clause
"""An agent whose instances are found, and what finds them fails: calls go on, and the next one works."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.simulator.waiting import WAIT_S, eventually
from tests.faults.case import Case
from tests.faults.launcher import Launcher
from tests.faults.many_calls import warm_with
from tests.faults.suite_settings import LIMITS, agents_at
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
from tests.harness.name_server import REFUSED, NameServer, name_server

TURN_FRAMES = 10
"""Frames after which both are seen to hear each other."""


def agents(source: str) -> list[dict[str, Any]]:
    """Return the suite's agents, with what is found in place of their instance."""
    return [{**agent, "instances": [source]} for agent in agents_at("http://127.0.0.1:1")]


async def goes_on(fault: Case, talk: Any) -> None:
    """Assert that both sides of the call hear each other after the fault; hang up."""
    await talk.recorder.until(talk.recorder.audio_frames + TURN_FRAMES)
    await talk.agent_recorder.until(talk.agent_recorder.audio_frames + TURN_FRAMES)
    fault.note_received(talk.recorder, with_close=False)
    fault.heard = "sound, without a pause"
    await talk.hang_up()
    await fault.over("caller_hangup", "caller")


def away(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the lines that say that a source does not answer."""
    return [line for line in gateway.log_lines() if line["event"] == "source does not answer"]


@asynccontextmanager
async def found_by_name(
    start_gateway: Callable[..., Gateway], port: AgentPort
) -> AsyncIterator[tuple[Gateway, NameServer]]:
    async with name_server(records={"support.test": ["127.0.0.1"]}) as names:
        gateway = await asyncio.to_thread(
            start_gateway,
            server={"nameservers": [names.address]},
            agents=agents(f"dns4://support.test.:{port.number}"),
            limits=LIMITS,
        )
        yield gateway, names
        await gateway.callers_leave()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("answers nothing", {"is_silent": True}),
        ("answers garbage", {"garbage": b"\xff\xff\x00\x01\x00\x00\x00\x00\x00\x00"}),
        ("refuses to answer", {"fails": lambda name, kind: REFUSED}),
        ("knows the agent's name no more", {"records": {}}),
    ],
)
async def test_the_name_server(
    case: Callable[..., Case],
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
    words: str,
    change: dict[str, Any],
) -> None:
    async with found_by_name(start_gateway, support_port) as (gateway, names):
        before = await warm_with(support, gateway, bases, support_port)
        fault = case(
            f"its instances are found by name, and the name server {words}", of=gateway, before=before
        )
        async with fault:
            talk = await fault.talk(support)
            fault.strike()
            for name, value in change.items():
                setattr(names, name, value)
            await eventually(lambda: away(gateway), "it says that the source does not answer")
            await goes_on(fault, talk)
        assert len(away(gateway)) == 1


@asynccontextmanager
async def found_in_kubernetes(
    launcher: Launcher, folder: Path, port: AgentPort
) -> AsyncIterator[tuple[Gateway, KubernetesServer]]:
    async with kubernetes_server() as api:
        found = endpoint_slice("support-1", endpoint("127.0.0.1", "pod-1"))
        found["ports"] = [{"name": "http", "port": port.number, "protocol": "TCP"}]
        await api.put(found)
        write_kubeconfig(folder / "kubeconfig", api.url)
        lines = f'export KUBECONFIG={shlex.quote(str(folder / "kubeconfig"))}\nexec "$@"'
        gateway = await asyncio.to_thread(
            launcher._through, lines, agents=agents("kubernetes://default/support:http"), limits=LIMITS
        )
        yield gateway, api
        await gateway.callers_leave()


async def hangs(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(WAIT_S)
    raise web.HTTPInternalServerError


async def closes(_: web.Request) -> web.StreamResponse:
    """Answer with an empty watch."""
    return web.json_response(None)


@pytest.mark.parametrize(
    ("words", "on_list", "on_watch"),
    [
        ("says that the version has expired (410), and refuses the list", refusing(403, "Forbidden"), None),
        ("fails", refusing(500, "InternalError"), refusing(500, "InternalError")),
        ("hangs", hangs, hangs),
        ("closes each watch at once, and refuses the list", refusing(429, "TooManyRequests"), closes),
    ],
)
async def test_the_kubernetes_api(
    case: Callable[..., Case],
    launcher: Launcher,
    tmp_path: Path,
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
    words: str,
    on_list: Any,
    on_watch: Any,
) -> None:
    async with found_in_kubernetes(launcher, tmp_path, support_port) as (gateway, api):
        before = await warm_with(support, gateway, bases, support_port)
        fault = case(f"its instances are found in Kubernetes, whose API {words}", of=gateway, before=before)
        async with fault:
            talk = await fault.talk(support)
            fault.strike()
            api.on_list, api.on_watch = on_list, on_watch
            asked = len(api.requests)
            await api.send({"type": "ERROR", "object": status(410, "Expired")})
            async with asyncio.timeout(WAIT_S):
                await api.until(lambda: len(api.requests) > asked)
            await goes_on(fault, talk)
