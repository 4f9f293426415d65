# SPDX-License-Identifier: BSD-2-Clause
"""A second stream that comes to another worker than the one that has the call (docs/sockets.md)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gateway.simulator.gateway_process import END_EVENTS
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent
from tests.harness.api_requests import stop_session
from tests.harness.caller import Connection, open_socket
from tests.harness.carrier_reconnect import (
    assert_another_session,
    assert_call_over,
    first_stream,
    only,
    opening,
)
from tests.harness.document_calls import DocumentCalls, Server, carrier_running
from tests.harness.gateway import Gateway


@pytest.fixture(scope="module")
def two_workers(start: Callable[..., Gateway]) -> Gateway:
    """A gateway of two workers. Every test leaves the agent's one place free."""
    return start(workers=2)


async def test_a_call_continues_whichever_worker_its_stream_comes_to(
    two_workers: Gateway, carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """The agent has one place, and is never asked again."""
    async with carrier_running(two_workers, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        for times in range(3 if carrier == "twilio" else 8):  # a document is asked for so often, and no more
            if times % 2:
                await stream.is_lost()
            await stream.goes_on()
            await stream.both_hear()
        await stream.hangs_up()


@only["telnyx"]
async def test_a_call_of_another_worker_that_cannot_continue_is_taken_over(
    two_workers: Gateway, carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """Also where the socket came to another worker than the call's, which would not have it."""
    async with carrier_running(two_workers, carrier_servers, carrier) as line:
        for _ in range(4):
            stream = await first_stream(line, agents[0])
            caller = await line.dial(stream.placed.stream_url)
            for message in opening(carrier, stream.placed.call_id, "stream-2"):
                caller.say(message.replace("PCMU", "PCMA"))
            await assert_call_over(stream, "taken_over", "carrier", 1000)
            await assert_another_session(stream, caller, agents[0])


@contextmanager
def frozen(gateway: Gateway, session: str) -> Iterator[None]:
    """The worker that carries a session does nothing meanwhile."""
    owner = gateway.sessions(session)[0]["owner"]
    pid = next(worker["pid"] for worker in gateway.workers() if worker["id"] == owner)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def to_one_that_runs(gateway: Gateway) -> Connection:
    """A connection to a worker that answers: of so many, the kernel gives one to each."""
    connections = [await open_socket(gateway.port) for _ in range(16)]

    async def answers(connection: Connection) -> Connection:
        reader, writer = connection
        writer.write(b"GET /livez HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length))
        return connection

    asking = [asyncio.create_task(answers(each)) for each in connections]
    async with asyncio.timeout(WAIT_S):
        first, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    matching = first.pop().result()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    for connection in connections:
        if connection is not matching:
            connection[1].transport.abort()
    return matching


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"], indirect=True)
async def test_a_frozen_worker_continues_the_call_when_it_wakes(
    two_workers: Gateway, carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """The carrier dialled again. Where its socket came, it was let go of; the frozen worker finds it."""
    async with carrier_running(two_workers, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        await stream.both_hear()
        first = stream.caller
        with frozen(two_workers, stream.session):
            before = len(two_workers.log_lines())
            stream.caller = await stream.comes_again(over=await to_one_that_runs(two_workers))

            def logged() -> bool:
                lines = two_workers.log_lines()[before:]
                return any(
                    entry["event"] == "a worker does not say whether it took a socket" for entry in lines
                )

            await eventually(logged, "the other worker has closed its copy of the socket")
        assert (await first.closed())[0] == 1000
        await stream.both_hear()
        await stream.hangs_up()
    assert agents[0].upgrades == 1


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"], indirect=True)
async def test_of_many_streams_at_once_one_has_the_call(line: DocumentCalls, support: Agent) -> None:
    """Whichever are handed over, refused or taken over: one session is left, with one socket."""
    placed = await line.place()
    callers = [await line.dial(placed.stream_url) for _ in range(6)]
    for number, caller in enumerate(callers):
        for message in opening(line.carrier, placed.call_id, f"stream-{number}"):
            caller.say(message)

    def told() -> int:
        lines = [entry for entry in line.gateway.log_lines() if entry.get("call_id") == placed.call_id]
        return sum(entry["event"] in (*END_EVENTS, "call continued") for entry in lines)

    def live() -> list[str]:
        own = [record for record in line.gateway.sessions() if record["call_id"] == placed.call_id]
        return [one["id"] for one in own if one["ended_at"] is None]

    await eventually(lambda: told() == 5 and len(live()) == 1, "all but one are over, or part of it")
    (session,) = live()
    await line.gateway.callers_leave()
    assert await asyncio.to_thread(stop_session, line.gateway, session) in (200, 409)
    await eventually(lambda: not live(), "it is over")
