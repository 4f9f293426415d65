# SPDX-License-Identifier: BSD-2-Clause
"""Three machines that share a Redis server and start an agent's instances: calls of every carrier on each of
them, one machine that dies, and what that is for the others and for its own calls. The story of compose.yaml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator.call_plan import CallPlan, CallReport
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.free_ports import free_port
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from gateway.simulator.wav import read_speech
from serializers.registry import DIALECTS
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer

KEY = "sk_acme"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
SPEECH = read_speech("caller")
WORDS = SPEECH.pcm[: 2 * SPEECH.sample_rate]
"""A second of speech."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_node(
    start_gateway: Callable[..., Gateway], redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Gateway]:
    """Start the gateway of a machine, by its internal host; again on the same port and folder."""
    folders = {host: tmp_path_factory.mktemp("pool") for host in HOSTS}
    internal = {host: free_port() for host in HOSTS}

    def start(host: str) -> Gateway:
        return start_gateway(
            store={"url": redis.url()},
            server={"node_url": f"http://{host}:{internal[host]}", "pool_folder": str(folders[host])},
            limits={"requests_per_second": 10_000, "requests_burst": 10_000},
            organizations=[{"name": "acme", "private_keys": [KEY]}],
            agents=[
                {
                    "name": "support",
                    "organization": "acme",
                    "command": [
                        *PATCHBAY,
                        "agent",
                        "--host",
                        "{host}",
                        "--port",
                        "{port}",
                        "--sessions",
                        "8",
                    ],
                    "cwd": str(Path(__file__).parents[2]),
                    "sessions_per_instance": 8,
                    "min_agents": 3,
                    "max_agents": 6,
                    "buffer": 0,
                    "stop_timeout": 0,
                    "websocket_auth": "none",
                }
            ],
        )

    return start


@pytest.fixture(scope="module")
def nodes(start_node: Callable[[str], Gateway]) -> dict[str, Gateway]:
    return {host: start_node(host) for host in HOSTS}


async def ask(gateway: Gateway, path: str) -> tuple[int, Any]:
    """One request with the private key; the status and the body."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.get(gateway.url + path) as answer,
    ):
        return answer.status, await answer.json()


async def until(gateway: Gateway, path: str, is_so: Callable[[Any], bool]) -> Any:
    """Ask until the answer is so; return it."""
    async with asyncio.timeout(2 * WAIT_S):
        while True:
            status, body = await ask(gateway, path)
            if status == 200 and is_so(body):
                return body
            await asyncio.sleep(POLL_S)


def instances_seen(gateway: Gateway, event: str) -> set[str]:
    """Return the URLs in a gateway's lines of an event about instances."""
    return {line["instance"] for line in gateway.log_lines() if line["event"] == event and "instance" in line}


def hosts(urls: set[str]) -> set[str]:
    """Return the hosts of URLs."""
    return {url.removeprefix("http://").partition(":")[0] for url in urls}


async def call(gateway: Gateway, carrier: str, words: bytes = WORDS, **how: Any) -> CallReport:
    """Place a carrier's call at a machine and talk until the agent has repeated everything."""
    plan = CallPlan(gateway.media_url, carrier, words, SPEECH.sample_rate, "support.acme", quiet=1.0, **how)
    gateway.upgrades += 1
    return await place_call(plan)


async def test_machines_share_started_agents_and_one_of_them_dies(
    nodes: dict[str, Gateway], start_node: Callable[[str], Gateway]
) -> None:
    doomed, first, last = nodes.values()

    # The machine that was there first has started all that is needed; the others place calls there.
    await eventually(lambda: len(instances_seen(doomed, "instance is ready")) == 3, "the agents are ready")

    # Every carrier, on every machine.
    reports = await asyncio.gather(*(call(node, carrier) for node in nodes.values() for carrier in DIALECTS))
    for report in reports:
        assert report.error is None
        assert report.agent_audible
        assert not report.complaints

    # A machine dies in the middle of calls.
    long_words = SPEECH.pcm
    talking = {
        host: asyncio.create_task(call(node, "twilio", long_words, reply_limit=60.0))
        for host, node in nodes.items()
    }
    await until(first, "/v1/sessions?status=running", lambda body: len(body["data"]) == len(HOSTS))
    _, running = await ask(first, "/v1/sessions?status=running")
    of_doomed = [each["id"] for each in running["data"] if await is_at(first, each["id"], HOSTS[0])]
    assert len(of_doomed) == 1
    doomed.process.kill()
    doomed.upgrades = len(doomed.ends())  # no line tells of the call that it has
    lost = await talking.pop(HOSTS[0])
    assert lost.error is not None
    for other in talking.values():  # nobody else hears of it
        report = await other
        assert report.error is None
        assert report.lost_frames == 0
    session = await until(last, f"/v1/sessions/{of_doomed[0]}", lambda body: body["status"] == "failed")
    assert session["end_reason"] == "gateway_lost"

    # Whoever calls again is answered; the others start what is missing once they know that it is.
    for node in (first, last):
        assert (await call(node, "telnyx")).error is None
    await eventually(
        lambda: (
            hosts(instances_seen(first, "instance is ready") | instances_seen(last, "instance is ready"))
            == {HOSTS[1], HOSTS[2]}
        ),
        "both start their share",
    )
    for node in (first, last):
        assert (await call(node, "exotel")).error is None

    # The machine comes back, and goes on with the instances that have outlived it.
    again = start_node(HOSTS[0])
    assert (await call(again, "plivo")).error is None
    await eventually(lambda: instances_seen(again, "instance is ready"), "it has its instances back")
    assert not instances_seen(again, "instance failed")


async def is_at(gateway: Gateway, session_id: str, host: str) -> bool:
    """Return True if a session is at the machine with this internal host."""
    status, session = await ask(gateway, f"/v1/sessions/{session_id}")
    assert status == 200
    return f"//{host}:" in (session["node"] or "")
