# SPDX-License-Identifier: BSD-2-Clause
"""From the answer to the first sound, with a cold instance: what `admit_at = "document"` saves.

    python -m benchmarks.warm_start

A real gateway, and two kinds of instances. Some sleep until their first request, as those behind an activator
do: it holds the request until the instance runs, `start_s` later. Others are processes that the gateway
starts itself, which take as long, and the start of Python besides. A carrier asks for a call's document,
connects the call for a while, and opens the stream: that is the answer. The agent speaks as soon as it has
the call's `start`. `calls` calls at once (`started` of those whose processes start), each with an agent of
its own, so that none waits for another.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import WSMsgType, web

from benchmarks.cold_bot import sound_of
from gateway.simulator.call_signing import TwilioSigner
from gateway.simulator.free_ports import LOOPBACK
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.waiting import WAIT_S, eventually

ADMITTED_AT: Final = ("stream", "document")

HOST: Final = "voice.example.com"
ACCOUNT: Final = "AC00000000000000000000000000000001"
SIGNER: Final = TwilioSigner("an-auth-token")
STREAM_URL: Final = re.compile(r'<Stream [^>]*url="([^"]+)"')
ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plan:
    """What is measured. `start_s`: seconds that a cold instance takes to start.

    `connected_s`: seconds from the request for the document until the stream: what a carrier takes to connect
    a call.
    """

    calls: int = 10
    started: int = 4
    start_s: float = 1.5
    connected_s: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass
class ColdInstance:
    """An instance that starts with its first request. `takes_s`: its start."""

    takes_s: float
    woken: asyncio.Future[None] | None = None

    def sleep(self) -> None:
        """Be cold again."""
        self.woken = None

    async def started(self) -> None:
        """Wait until it runs, as a request does that an activator holds."""
        if self.woken is None:
            loop = asyncio.get_running_loop()
            self.woken = loop.create_future()
            loop.call_later(self.takes_s, self.woken.set_result, None)
        await asyncio.shield(self.woken)

    async def answer_ready(self, _: web.Request) -> web.Response:
        """Answer `/readyz`."""
        await self.started()
        return web.Response()

    async def serve_call(self, request: web.Request) -> web.WebSocketResponse:
        """Take a call: speak once its `start` is there."""
        await self.started()
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT and '"start"' in message.data:
                await socket.send_str(sound_of(json.loads(message.data)["streamSid"]))
        return socket


@asynccontextmanager
async def serving(instance: ColdInstance) -> AsyncIterator[str]:
    """Serve an instance; yield its URL."""
    app = web.Application()
    app.add_routes([web.get("/readyz", instance.answer_ready), web.get("/ws", instance.serve_call)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0)
    await site.start()
    try:
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Carrier:
    """A carrier's calls to one gateway."""

    http: aiohttp.ClientSession
    port: int

    async def call(self, agent: str, connected_s: float) -> float:
        """Place a call. Return the seconds from the answer, which opens the stream, to the first sound."""
        call_id = f"CA{uuid.uuid4().hex}"
        asked = asyncio.get_running_loop().time()
        stream = await self._document(agent, call_id)
        await asyncio.sleep(asked + connected_s - asyncio.get_running_loop().time())
        answered = time.perf_counter()
        headers = {"Host": HOST, **SIGNER.sign_upgrade(stream)}
        url = f"ws://{LOOPBACK}:{self.port}{urlsplit(stream).path}"
        async with asyncio.timeout(WAIT_S), self.http.ws_connect(url, headers=headers) as socket:
            for message in opening(call_id):
                await socket.send_str(message)
            while '"media"' not in await socket.receive_str():
                pass
            return time.perf_counter() - answered

    async def _document(self, agent: str, call_id: str) -> str:
        path = f"/xml/twilio?agent={agent}&org=acme"
        fields = [("CallSid", call_id), ("AccountSid", ACCOUNT), ("From", "+14155550100")]
        headers = {
            "Host": HOST,
            "Content-Type": "application/x-www-form-urlencoded",
            **SIGNER.sign_request(f"https://{HOST}{path}", fields, b""),
        }
        url = f"http://{LOOPBACK}:{self.port}{path}"
        async with self.http.post(url, data=urlencode(fields), headers=headers) as answer:
            text = await answer.text()
            found = STREAM_URL.search(text)
            if answer.status != 200 or found is None:
                raise RuntimeError(f"no stream: {answer.status} {text}")
            return found[1]


def opening(call_id: str) -> list[str]:
    """Return Twilio's opening of a stream (docs/reference/carriers.md §2.2)."""
    stream = f"MZ{uuid.uuid4().hex}"
    start = {
        "accountSid": ACCOUNT,
        "streamSid": stream,
        "callSid": call_id,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    connected = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    begins = {"event": "start", "sequenceNumber": "1", "start": start, "streamSid": stream}
    return [json.dumps(connected), json.dumps(begins)]


def row(name: str, figures: Sequence[float]) -> str:
    """Return a row of the table: median and range, in ms."""
    middle, low, high = (round(1000 * s) for s in (statistics.median(figures), min(figures), max(figures)))
    return f"| {name} | {len(figures)} | {middle:,} ms | {low:,} to {high:,} ms |"


def started_agent(name: str, at: str, plan: Plan) -> dict[str, Any]:
    """Return the settings of an agent whose one process is started for each call."""
    return {
        "name": name,
        "organization": "acme",
        "command": [sys.executable, "-m", "benchmarks.cold_bot", "{port}", str(plan.start_s)],
        "cwd": str(ROOT),
        "max_agents": 1,
        "buffer": 0,
        "stop_timeout": 0,
        "admit_at": at,
        "hold": "none",
    }


async def measure(directory: Path, plan: Plan) -> list[str]:
    """Return the rows of the table."""
    rows = []
    sleepers = {
        f"{at}-{number}": ColdInstance(plan.start_s) for at in ADMITTED_AT for number in range(plan.calls)
    }
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        urls = [await stack.enter_async_context(serving(instance)) for instance in sleepers.values()]
        agents = [
            {"name": name, "organization": "acme", "instances": [url], "admit_at": name.partition("-")[0]}
            | {"hold": "none", "health_interval": 0}
            for name, url in zip(sleepers, urls, strict=True)
        ]
        agents += [
            started_agent(f"{at}-process-{number}", at, plan)
            for at in ADMITTED_AT
            for number in range(plan.started)
        ]
        accounts = [{"carrier": "twilio", "account": ACCOUNT, "auth_tokens": [SIGNER.key]}]
        settings = {
            "server": {"public_url": f"https://{HOST}", "pool_folder": str(directory / "pool")},
            "organizations": [{"name": "acme", "carriers": accounts}],
            "agents": agents,
        }
        with GatewayProcess(directory, settings) as gateway:
            carrier = Carrier(http, gateway.port)

            async def turn(names: Iterable[str], connected_s: float, *, cold: bool = True) -> list[float]:
                for name in names:
                    if cold and name in sleepers:
                        sleepers[name].sleep()
                figures = await asyncio.gather(*(carrier.call(name, connected_s) for name in names))
                await eventually(lambda: not gateway.get("/status")[1]["sessions"]["active"], "all are over")
                return list(figures)

            sleeping = {at: [name for name in sleepers if name.startswith(at)] for at in ADMITTED_AT}
            processes = {at: [f"{at}-process-{n}" for n in range(plan.started)] for at in ADMITTED_AT}
            for kind, names in (("woken", sleeping), ("started", processes)):
                for connected_s in plan.connected_s:
                    for at in ADMITTED_AT:
                        figures = await turn(names[at], connected_s)
                        rows.append(
                            row(f"{kind}, stream after {connected_s:g} s, `admit_at = {at}`", figures)
                        )
            for at in ADMITTED_AT:
                figures = await turn(sleeping[at], plan.connected_s[0], cold=False)
                rows.append(
                    row(f"runs already, stream after {plan.connected_s[0]:g} s, `admit_at = {at}`", figures)
                )
    return rows


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory(prefix="patchbay-warm-") as directory:
        rows = asyncio.run(measure(Path(directory), Plan()))
    print("| Instance | n | Median | Range |\n| --- | --- | --- | --- |", *rows, sep="\n")


if __name__ == "__main__":
    main()
