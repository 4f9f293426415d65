# SPDX-License-Identifier: BSD-2-Clause
"""Two machines that are cut off from each other: a program for a network namespace of its own.

One passes on the socket of the other's call. `python -m tests.faults.cut_off DIRECTORY` prints what came of
it, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.simulator.free_ports import free_port
from gateway.simulator.waiting import WAIT_S, eventually
from tests.faults.conversation import REPLY, SOUND, Recorder, speak
from tests.faults.stream_token import url_with_token
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.api_requests import KEY, api_request
from tests.harness.call_assertions import assert_end_logged, assert_next_call_works
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import IDS, opening

TURN_FRAMES = 10
RECONNECT_S = 5.0
"""The default: TCP takes as long to find out, and the two machines do so at the same time."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def prepare() -> None:
    """Bring the namespace's loopback up, and let rules come before the addresses of this machine."""
    ip("link", "set", "lo", "up")
    ip("rule", "add", "pref", "10", "lookup", "local")
    ip("rule", "del", "pref", "0")


def cut(port: int, change: str = "add") -> None:
    """Let no packet from or to a port arrive."""
    for end in ("dport", "sport"):
        ip("rule", change, "pref", "1", "ipproto", "tcp", end, str(port), "blackhole")


def machine(directory: Path, host: str, number: int, port: int, agent: AgentPort) -> Gateway:
    """Start a machine's gateway at the internal address of `host` and `number`."""
    directory.mkdir()
    settings = {
        "server": {"node_url": f"http://{host}:{number}", "port": port},
        "store": {"url": f"sqlite:///{directory.parent}/patchbay.db"},
        "organizations": [{"name": "acme", "private_keys": [KEY]}],
        "agents": agents_at(agent.url),
        "limits": LIMITS | {"reconnect_timeout": RECONNECT_S},
    }
    return Gateway(directory, settings)


async def opens_socket(at: Gateway, url: str, stream: str) -> tuple[Caller, Recorder]:
    caller = await at.dial(url)
    assert caller.status == 101, caller.body
    for message in opening("plivo"):
        caller.say(message.replace(IDS["plivo"][1], stream))
    return caller, Recorder(caller)


async def story(directory: Path) -> dict[str, object]:
    port = AgentPort()
    agent = await Agent(port).start()
    inner = free_port()
    east = machine(directory / "east", "127.0.0.2", inner, free_port(), port).wait_until_ready()
    west = machine(directory / "west", "127.0.0.3", free_port(), free_port(), port).wait_until_ready()
    url = url_with_token(east)
    first, recorder = await opens_socket(east, url, "stream-1")
    taken = await agent.call()
    heard_by_agent = Recorder(taken)
    reply = asyncio.create_task(speak(taken, REPLY))
    await recorder.until(TURN_FRAMES)
    first.reset()
    caller, second = await opens_socket(west, url, "stream-2")
    voice = asyncio.create_task(speak(caller, SOUND))
    await second.until(TURN_FRAMES)
    await heard_by_agent.until(TURN_FRAMES)
    cut(inner)
    code, _ = await second.closed()
    voice.cancel()
    last, third = await opens_socket(east, url, "stream-3")
    await third.until(TURN_FRAMES)
    gap_ms = (third.first - second.last_sound) * 1000
    stop = f"/v1/sessions/{taken.session}/stop"
    assert await asyncio.to_thread(api_request, west, "POST", stop) == 200  # through the store
    await third.closed()
    reply.cancel()
    line = await assert_end_logged(east, 0, "stopped")
    cut(inner, "del")
    for each in (recorder, second, third, heard_by_agent):
        await each.stop()
    await assert_next_call_works(west, agent)
    for gateway in (east, west):
        await gateway.callers_leave()
        gateway.terminate()
        await eventually(lambda: gateway.process.poll() is not None, "it ends")  # noqa: B023
    await agent.stop()
    port.free()
    silent = [line["node"] for line in west.log_lines() if line["event"] == "a node does not answer"]
    return {"code": code, "gap_ms": gap_ms, "side": line["side"], "silent": silent, "last": last.status}


def main() -> None:
    prepare()
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as directory:

        async def run() -> dict[str, object]:
            async with asyncio.timeout(WAIT_S * 3):
                return await story(Path(directory))

        print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main()
