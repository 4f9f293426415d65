# SPDX-License-Identifier: BSD-2-Clause
"""Calls at gateways of one cluster: what a set-up and a message cost, and who gets a place."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.cluster_servers import AGENT, LosingProxy, RedisServer, Site, gateway, nodes
from benchmarks.load import Load, Report
from benchmarks.processes import ahead_of_all
from gateway.simulator.server_process import StartError

ARRIVALS, PLACES = 500, 50
SET_UPS, SET_UP_RATE = 240, 120
P99_RATE, P99_CALLS = 100, 400
TALKING = 200  # calls whose relay is measured
TURN_S, TURN_WARM_UP_S = 0.35, 0.25
SETTLE_S = 0.5
HEARD_S = 30.0
FRAME = "/" * 216


@dataclass(slots=True)
class Pair:
    """What is compared: `before` and `after` are the windows of A beside each of B. Both of one unit."""

    before: list[float]
    other: list[float]
    after: list[float]

    def ratios(self) -> list[float]:
        """Return each B over the mean of its neighbours."""
        rows = zip(self.before, self.other, self.after, strict=True)
        return [other / statistics.mean((before, after)) for before, other, after in rows]


def carried(report: Report | None, load: Load) -> Report:
    """Return the report. Raises StartError if the run failed."""
    if report is None:
        raise StartError(load.last_error or "a run failed")
    return report


def set_up_costs(load: Load, sqlite: Site, redis: Site, turns: int, *, hold_s: float) -> Pair:
    """Compare the CPU of set-ups, in microseconds, of a gateway on SQLite and of one on Redis, in turns.

    `hold_s`: calls are ended after so many seconds, and their ends counted too; 0 leaves them up.
    """
    with ExitStack() as stack:
        pair = [gateway(name, site) for name, site in (("SQLite", sqlite), ("Redis", redis))]
        pids = [stack.enter_context(each.running()) for each in pair]
        for each in pids:
            ahead_of_all(each)

        def cost(at: int) -> float:
            options = ["--rate", str(SET_UP_RATE), "--settle", str(SETTLE_S)]
            if hold_s:
                options += ["--hold", str(hold_s)]
            report = load.run(
                pair[at].url,
                SET_UPS,
                pids[at],
                seconds=0,
                spin=False,
                options=(*pair[at].load_options, *options),
            )
            return carried(report, load).open_cpu_us_per_call

        return in_turns(cost, turns)


def in_turns(measure: Callable[[int], float], turns: int) -> Pair:
    """Measure A and B in turns; the first of each is not counted."""
    measure(0)
    measure(1)
    found = Pair([], [], [])
    before = measure(0)
    for _ in range(turns):
        other, after = measure(1), measure(0)
        found.before.append(before)
        found.other.append(other)
        found.after.append(after)
        before = after
    return found


def set_up_p99s(load: Load, sqlite: Site, cluster: Sequence[Site], turns: int) -> Pair:
    """Compare the p99 of set-ups, in milliseconds, at one node on SQLite and at three on Redis, in turns."""
    with ExitStack() as stack:
        one = gateway("SQLite", sqlite)
        ahead_of_all(stack.enter_context(one.running()))
        three = stack.enter_context(nodes(cluster))
        for _, pids in three:
            ahead_of_all(pids)
        also = ",".join(str(contender.port) for contender, _ in three[1:])

        def p99(at: int) -> float:
            contender = three[0][0] if at else one
            options = [*contender.load_options, "--rate", str(P99_RATE), "--hold", "0.5"]
            if at:
                options += ["--also", also]
            report = load.run(contender.url, P99_CALLS, [], seconds=0, spin=False, options=options)
            return carried(report, load).set_up_us.p99 / 1000

        return in_turns(p99, turns)


def relay_costs(load: Load, sqlite: Site, redis: Site, turns: int) -> Pair:
    """Compare the CPU of a relayed message, in microseconds, with calls that stand, in turns."""
    with ExitStack() as stack:
        pair = [gateway(name, site) for name, site in (("SQLite", sqlite), ("Redis", redis))]
        pids = [stack.enter_context(each.running()) for each in pair]
        for each in pids:
            ahead_of_all(each)

        def cost(at: int) -> float:
            options = ("--set", str(at), "--keep", "--warm-up", str(TURN_WARM_UP_S))
            report = load.run(
                pair[at].url,
                TALKING,
                pids[at],
                seconds=TURN_S,
                options=(*pair[at].load_options, *options),
            )
            return carried(report, load).cpu_per_million

        found = in_turns(cost, turns)
        for at in (0, 1):
            options = ("--set", str(at), *pair[at].load_options)
            load.run(pair[at].url, TALKING, pids[at], seconds=0, options=options)
        return found


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What became of calls that arrived at once. `taken`: places that the store counts; `lost`: replies."""

    heard: int
    refused: int
    failed: int
    taken: int
    lost: int


async def arrive(server: RedisServer, ports: Sequence[int], proxy: LosingProxy | None) -> Arrivals:
    """Let ARRIVALS calls come at once, in turns to each of the ports."""
    hang_up, decided = asyncio.Event(), asyncio.Queue[str]()

    async def call(number: int) -> None:
        decision = "failed"
        try:
            async with connect(
                f"ws://127.0.0.1:{ports[number % len(ports)]}/ws/twilio",
                compression=None,
                open_timeout=HEARD_S,
                ping_interval=None,
            ) as socket:
                for message in opening(number):
                    await socket.send(message)
                async with asyncio.timeout(HEARD_S):
                    await until_heard(socket)
                decision = "heard"
                decided.put_nowait(decision)
                await hang_up.wait()
                return
        except (ConnectionClosed, InvalidStatus):
            decision = "refused"
        except (OSError, TimeoutError):
            decision = "failed"
        finally:
            if decision != "heard":
                decided.put_nowait(decision)

    if proxy is not None:
        proxy.lost, proxy.armed = 0, True
    calls = [asyncio.create_task(call(number)) for number in range(ARRIVALS)]
    decisions = [await decided.get() for _ in range(ARRIVALS)]
    if proxy is not None:
        proxy.armed = False
    taken = await asyncio.to_thread(server.active)
    hang_up.set()
    await asyncio.gather(*calls)
    counted = {each: decisions.count(each) for each in ("heard", "refused", "failed")}
    return Arrivals(**counted, taken=taken, lost=0 if proxy is None else proxy.lost)


async def until_heard(caller: ClientConnection) -> None:
    """Wait for the agent's echo; other sound is the gateway's. Raises ConnectionClosed."""
    while FRAME not in str(await caller.recv()):
        pass


def opening(number: int, *, call: str = "", stream: str = "") -> list[str]:
    """Return what Twilio says first on a socket, and one frame of sound."""
    call, stream = call or f"CA{number:032}", stream or f"MZ{number:032}"
    media = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    start = {
        "accountSid": "AC0",
        "streamSid": stream,
        "callSid": call,
        "tracks": ["inbound"],
        "mediaFormat": media,
        "customParameters": {"_pipecatCloudServiceHost": AGENT},
    }
    return [
        json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),
        json.dumps({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": stream}),
        frame(2, stream),
    ]


def frame(number: int, stream: str) -> str:
    """Return 20 ms of sound as Twilio sends them."""
    media = {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": FRAME}
    return json.dumps({"event": "media", "sequenceNumber": str(number), "media": media, "streamSid": stream})


def arrivals(server: RedisServer, sites: Sequence[Site], rounds: int, *, every: int = 0) -> list[Arrivals]:
    """Let calls arrive at three nodes, `rounds` times. `every`: of so many scripts one reply is lost."""
    proxy = LosingProxy(server.port, every) if every else None
    if proxy is not None:
        sites = [replace(site, store=proxy.url) for site in sites]
    server.client.flushall()
    found = []
    try:
        with nodes(sites) as running:
            ports = [contender.port for contender, _ in running]
            for _ in range(rounds):
                found.append(asyncio.run(arrive(server, ports, proxy)))
                until_free(server)
    finally:
        if proxy is not None:
            proxy.close()
    return found


def until_free(server: RedisServer) -> None:
    """Wait until no call has a place any more. Raises StartError."""
    give_up = time.monotonic() + HEARD_S
    while server.active():
        if time.monotonic() > give_up:
            raise StartError("calls that ended keep their places")
        time.sleep(0.05)
