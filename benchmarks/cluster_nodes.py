# SPDX-License-Identifier: BSD-2-Clause
"""Nodes that need each other: one dies, one stops a call of another, one gets a call's next socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.cluster_calls import frame, opening, until_free, until_heard
from benchmarks.cluster_servers import KEY, RedisServer, Site, elsewhere, nodes
from benchmarks.load import Load
from gateway.simulator.server_process import StartError

STANDING = 30  # calls of each node
DEATH_S = 40.0
STOPS = 15  # of each kind


@dataclass(frozen=True, slots=True)
class Death:
    """Seconds from the kill until the places were free, and until every session was over.

    `is_elsewhere`: whether the nodes took each other for other machines.
    """

    places_s: float
    sessions_s: float
    is_elsewhere: bool


def death(server: RedisServer, load: Load, sites: Sequence[Site]) -> Death:
    """Kill the first of three nodes, with calls up at each. Raises StartError."""
    server.client.flushall()
    prefixes = [elsewhere(f"bench-{number}") for number in range(len(sites))]
    sites = [replace(site, prefix=prefix) for site, prefix in zip(sites, prefixes, strict=True)]
    with nodes(sites) as running:
        for number, (contender, _) in enumerate(running):
            options = ("--set", str(number + 4), "--keep", "--silent", *contender.load_options)
            if load.run(contender.url, STANDING, [], seconds=0.1, spin=False, options=options) is None:
                raise StartError(load.last_error)
        owners = {each: server.client.hget(each, "owner") for each in sessions(server)}
        with contextlib.suppress(ProcessLookupError):
            for pid in running[0][1]:
                os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        places_s = sessions_s = 0.0
        while not sessions_s:
            if time.monotonic() > began + DEATH_S:
                raise StartError("a node that was killed keeps its places")
            time.sleep(0.02)
            if not places_s and server.active() == STANDING * (len(sites) - 1):
                places_s = time.monotonic() - began
                lost = [each for each in owners if server.client.hget(each, "state") == "failed"]
                if len(lost) == STANDING:
                    sessions_s = time.monotonic() - began
        for number, (contender, _) in list(enumerate(running))[1:]:
            options = ("--set", str(number + 4), *contender.load_options)
            load.run(contender.url, STANDING, [], seconds=0, spin=False, options=options)
    return Death(places_s, sessions_s, bool(prefixes[0]))


def sessions(server: RedisServer) -> list[str]:
    """Return the keys of all sessions."""
    return list(server.client.scan_iter("{patchbay}:session:*", count=1000))


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Milliseconds on the same node and on another. `answered`: until the request was answered; `ended`:
    until the caller's socket was closed.
    """

    answered: tuple[list[float], list[float]]
    ended: tuple[list[float], list[float]]


class Api:
    """One connection to a node's API."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str) -> dict[str, object]:
        """Return the answer's body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(answer.partition("content-length:")[2].split()[0]))
        if not answer.startswith("http/1.1 2"):
            raise StartError(f"{method} {path}: {answer.splitlines()[0]}")
        found: dict[str, object] = json.loads(body)
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


def stops(server: RedisServer, sites: Sequence[Site]) -> RoundTrips:
    """Stop calls of the first node through it and through the second, in turns. Raises StartError."""
    server.client.flushall()
    found = RoundTrips(([], []), ([], []))

    async def measure(ports: Sequence[int]) -> None:
        apis = [Api(port) for port in ports]
        for number in range(2 * STOPS + 2):
            at = number % 2
            async with connect(
                f"ws://127.0.0.1:{ports[0]}/ws/twilio", compression=None, ping_interval=None
            ) as caller:
                for message in opening(10_000 + number):
                    await caller.send(message)
                await until_heard(caller)
                (session,) = await asyncio.to_thread(server.active_sessions)
                path = f"/v1/sessions/{session}/stop"
                closed = asyncio.create_task(until_closed(caller))
                began = time.perf_counter()
                await apis[at].ask("POST", path)
                answered = time.perf_counter() - began
                ended = await closed - began
                if number >= 2:
                    found.answered[at].append(answered * 1e3)
                    found.ended[at].append(ended * 1e3)
            await asyncio.to_thread(until_free, server)
        for api in apis:
            api.close()

    with nodes(sites) as running:
        asyncio.run(measure([contender.port for contender, _ in running]))
    return found


async def until_closed(caller: ClientConnection) -> float:
    """Read what comes, and return when the socket was closed."""
    async for _ in caller:
        pass
    return time.perf_counter()


def second_sockets(server: RedisServer, sites: Sequence[Site]) -> tuple[list[float], list[float]]:
    """Return the milliseconds without sound as a call's socket breaks, and its next one comes.

    To the same node, and to another. Raises StartError.
    """
    server.client.flushall()
    gaps: tuple[list[float], list[float]] = [], []

    async def measure(ports: Sequence[int]) -> None:
        for number in range(2 * STOPS + 2):
            at, call = number % 2, f"CA{20_000 + number:032}"
            first, second = f"MZ1{number:031}", f"MZ2{number:031}"
            caller = await dialled(ports[0], opening(number, call=call, stream=first))
            caller.transport.abort()  # as a carrier's node dies
            began = time.perf_counter()
            again = await dialled(ports[at], opening(number, call=call, stream=second))
            gap = time.perf_counter() - began
            if number >= 2:
                gaps[at].append(gap * 1e3)
            await again.send(frame(3, second))
            await again.recv()
            await again.close()
            await asyncio.to_thread(until_free, server)

    with nodes(sites) as running:
        asyncio.run(measure([contender.port for contender, _ in running]))
    return gaps


async def dialled(port: int, messages: Sequence[str]) -> ClientConnection:
    """Open a carrier's socket, say what it says first, and wait for sound. Raises StartError."""
    caller = await connect(f"ws://127.0.0.1:{port}/ws/twilio", compression=None, ping_interval=None)
    for message in messages:
        await caller.send(message)
    async with asyncio.timeout(10):
        await until_heard(caller)
    return caller
