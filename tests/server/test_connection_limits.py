# SPDX-License-Identifier: BSD-2-Clause
"""Connections and calls that exceed a limit: too slow, too large, too many, and how they are answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_agent_heard, assert_no_slots_taken, connect, hang_up
from tests.harness.caller import Caller, answered, dial, open_socket
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, talk
from tests.harness.websocket_peer import read_before_reset

HEAD = b"GET /livez HTTP/1.1\r\nHost: api.example.com\r\n"


# Each limit has a gateway of its own, so that no test exceeds the limit of another.


@pytest.fixture(scope="module")
def with_limits(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Callable[..., Gateway]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent |= {"sessions_per_instance": 10}
    return lambda **limits: start_gateway(limits=limits, agents=[agent])


@pytest.fixture(scope="module")
def hasty(with_limits: Callable[..., Gateway]) -> Gateway:
    """A gateway whose head timeout no client can meet."""
    return with_limits(handshake_timeout=0.3)


@pytest.fixture(scope="module")
def patient(with_limits: Callable[..., Gateway]) -> Gateway:
    """A gateway whose head timeout a client meets that sends at once, also on a busy machine."""
    return with_limits(handshake_timeout=2.5)


@pytest.fixture(scope="module")
def narrow(with_limits: Callable[..., Gateway]) -> Gateway:
    return with_limits(connections_per_address=6)


@pytest.fixture(scope="module")
def small(with_limits: Callable[..., Gateway]) -> Gateway:
    return with_limits(max_calls=2)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return everything up to the end of the connection, or "reset" if it was reset before anything came."""
    received = b""
    try:
        async with asyncio.timeout(WAIT_S):
            while part := await reader.read(1 << 16):
                received += part
    except ConnectionError:
        received += read_before_reset(reader)
        return received or b"reset"
    return received


async def exchange(gateway: Gateway, raw: bytes) -> bytes:
    """Send bytes on a new connection, and return the answer up to its end."""
    reader, writer = await open_socket(gateway.port)
    for at in range(0, len(raw), 1 << 14):
        writer.write(raw[at : at + (1 << 14)])
        await asyncio.sleep(0)
    try:
        return await read_to_end(reader)
    finally:
        writer.transport.abort()


async def try_to_call(gateway: Gateway, agent: str = "support.acme") -> Caller:
    """Request a media socket that may be refused. The test counts it and hangs up if it is not."""
    caller = await dial(gateway.port, f"/ws/twilio/{agent}")
    if caller.status != 101:
        await caller.leave()
    return caller


def rejections(gateway: Gateway) -> dict[str, int]:
    """Return how many connections and calls were rejected, by cause, as the log says."""
    found: dict[str, int] = {}
    for line in gateway.log_lines():
        if line["event"] == "turned away at the door":
            found[line["why"]] = found.get(line["why"], 0) + line["times"]
    return found


@pytest.mark.parametrize("raw", [b"", b"GET /livez HT", HEAD, b"\r\n\r\n"])
async def test_a_client_that_does_not_finish_its_head_gets_408(hasty: Gateway, raw: bytes) -> None:
    answer = await exchange(hasty, raw)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer


async def test_a_head_that_comes_byte_by_byte_is_too_slow(hasty: Gateway) -> None:
    """A byte does not prolong the wait for the rest of the head."""
    reader, writer = await open_socket(hasty.port)
    writer.write(HEAD + b"X-Slow: ")

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(POLL_S)

    dripping = asyncio.create_task(drip())
    answer = await read_to_end(reader)
    dripping.cancel()
    writer.transport.abort()
    assert b" 408 " in answer or answer == b"reset"
    assert b" 200 " not in answer


async def test_the_second_request_of_a_connection_has_the_same_timeout(patient: Gateway) -> None:
    answer = await exchange(patient, HEAD + b"\r\n" + HEAD)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


LARGE = {
    "one header": HEAD + b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n",
    "one that never ends": HEAD + b"X-Long: " + b"a" * 400_000,
    "many headers": HEAD + b"".join(b"X-%04d: %s\r\n" % (n, b"a" * 90) for n in range(700)) + b"\r\n",
    "a long URL": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "an upgrade": HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "many short headers": HEAD + b"X: a\r\n" * 201 + b"\r\n",
    "trailers": b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\nX-Long: " + b"a" * 400_000,
    "an extension of a chunk": b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 400_000,
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=LARGE)
async def test_a_head_that_is_too_large_gets_431(gateway: Gateway, raw: bytes) -> None:
    answer = await exchange(gateway, raw)
    # A client that still sends when the connection closes may get a reset in place of the answer.
    assert b" 431 " in answer or b" 401 " in answer or answer == b"reset"
    assert gateway.get("/livez")[0] == 200


async def test_a_line_between_two_requests_does_not_keep_a_connection_open(hasty: Gateway) -> None:
    """It ends the time-out of an idle connection, and is the head of a request that does not come."""
    reader, writer = await open_socket(hasty.port)
    writer.write(HEAD + b"\r\n")
    async with asyncio.timeout(WAIT_S):
        head, _ = await answered(reader, to_the_end=False)
    assert head.startswith(b"HTTP/1.1 200 ")
    writer.write(b"\r\n")
    assert b" 408 " in await read_to_end(reader)
    writer.transport.abort()


async def test_requests_that_are_no_http_are_counted_in_the_log(gateway: Gateway) -> None:
    """A line for each would let anybody fill the log."""
    before = rejections(gateway).get("a request is no HTTP", 0)
    for _ in range(3):
        assert b" 400 " in await exchange(gateway, b"hello?\r\n\r\n")
    await eventually(
        lambda: rejections(gateway).get("a request is no HTTP", 0) == before + 3, "they are counted"
    )
    assert "Invalid HTTP request" not in gateway.log_text()


async def test_too_many_requests_at_once_on_one_connection_end_it(gateway: Gateway) -> None:
    answers = await exchange(gateway, (HEAD + b"\r\n") * 2000)
    assert answers.count(b"HTTP/1.1 ") <= 17 or answers == b"reset"
    await eventually(
        lambda: "too many requests at once on one connection" in rejections(gateway), "it is logged"
    )
    assert gateway.get("/livez")[0] == 200


async def test_a_few_requests_at_once_on_one_connection_are_answered(gateway: Gateway) -> None:
    last = HEAD + b"Connection: close\r\n\r\n"
    answers = await exchange(gateway, (HEAD + b"\r\n") * 15 + last)
    assert answers.count(b"HTTP/1.1 200 ") == 16


async def test_a_body_in_small_chunks_is_read_whole(gateway: Gateway) -> None:
    """It is fed to the parser a piece at a time, and the pieces are in order."""
    body = json.dumps({"body": "a" * 40_000}).encode()
    head = b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = await exchange(gateway, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 401 " in answer[:20]


async def test_a_large_body_does_not_count_as_head(gateway: Gateway) -> None:
    body = json.dumps({"body": "a" * 200_000}).encode()
    head = b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    assert b" 401 " in (await exchange(gateway, head + length + body))[:20]


async def test_a_call_beyond_max_calls_gets_503(small: Gateway, support: Agent) -> None:
    calls = [await connect(small, support) for _ in range(2)]
    refused = await try_to_call(small)
    assert refused.refusal == (503, "overloaded")
    assert refused.headers["retry-after"] == "5"
    # Running calls continue, and requests are answered.
    for call in calls:
        await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk("twilio")])
    assert small.get("/livez")[0] == 200
    await hang_up(calls[0])
    calls[0] = await eventually_connected(small, support)
    for call in calls:
        await hang_up(call)
    await eventually(lambda: "there are 2 calls" in rejections(small), "the rejection is logged")


async def eventually_connected(gateway: Gateway, support: Agent) -> Call:
    """Call until there is room: an ended call frees its place a moment later."""
    async with asyncio.timeout(WAIT_S):
        while (caller := await try_to_call(gateway)).status != 101:
            assert caller.refusal == (503, "overloaded")
    gateway.upgrades += 1
    gateway.callers.append(caller)
    sent = [caller.say(message) for message in opening("twilio")]
    taken = await support.call()
    await taken.opening(sent)
    return Call(caller, taken, sent)


async def test_a_connection_beyond_the_limit_of_its_address_gets_429(narrow: Gateway, support: Agent) -> None:
    call = await connect(narrow, support)  # counts as one connection
    others = [await open_socket(narrow.port) for _ in range(5)]
    for _, writer in others:
        writer.write(HEAD)
    answer = await exchange(narrow, b"")
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "rate_limited"
    for _, writer in others:
        writer.transport.abort()
    await hang_up(call)
    # Every closed connection stops counting: as many as before can connect again.
    again: list[Caller] = []

    async def one_more() -> bool:
        reader, writer = await open_socket(narrow.port)
        again.append(Caller(reader, writer, masks=True))
        writer.write(HEAD + b"\r\n")
        async with asyncio.timeout(WAIT_S):
            head, _ = await answered(reader, to_the_end=False)
        return head.startswith(b"HTTP/1.1 200")

    answers: list[bool] = []
    while answers[-6:] != [True] * 6:
        answers.append(await one_more())
        if not answers[-1]:
            assert len(answers) < 200
            while again:
                await again.pop().leave()
    for caller in again:
        await caller.leave()


async def test_calls_that_begin_too_fast_get_503(with_limits: Callable[..., Gateway]) -> None:
    gateway = with_limits(upgrades_per_second=3, max_calls=1000)
    # All are sent before the first has proven itself, so they count within the same second.
    callers = await asyncio.gather(*(try_to_call(gateway) for _ in range(20)))
    accepted = [caller for caller in callers if caller.status == 101]
    refused = [caller for caller in callers if caller.status != 101]
    gateway.upgrades = len(accepted)
    gateway.callers += accepted
    assert len(accepted) >= 3
    assert refused
    assert {caller.refusal for caller in refused} == {(503, "overloaded")}
    await eventually(
        lambda: sum(rejections(gateway).values()) == len(refused), "each rejection is counted in the log"
    )


async def test_ended_calls_and_closed_connections_stop_counting(with_limits: Callable[..., Gateway]) -> None:
    """Refused and aborted upgrades stop counting as connections and as calls."""
    gateway = with_limits(max_calls=1, connections_per_address=2)
    for _ in range(20):
        caller = await try_to_call(gateway, "nobody.acme")
        gateway.upgrades += caller.status == 404
        assert caller.status in (404, 503, 429, 0)
    await assert_no_slots_taken(gateway)
    assert gateway.upgrades >= 2
