# SPDX-License-Identifier: BSD-2-Clause
"""Who is not let in: too slow, too much, too many; and what is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.agent import Agent
from tests.harness.caller import Caller, dial, open_socket
from tests.harness.gateway import Gateway, eventually
from tests.harness.openings import talk
from tests.harness.peer import WAIT_S
from tests.harness.telephony import assert_agent_heard, connect, hang_up

HEAD = b"GET /livez HTTP/1.1\r\nHost: api.example.com\r\n"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {
        "support": {"sessions_per_instance": 10},
        "limits": {
            "handshake_timeout": 0.3,
            "connections_per_address": 6,
            "max_calls": 2,
            "ping_interval": 0,
        },
    }


async def said(gateway: Gateway, raw: bytes, *, slowly: bool = False) -> bytes:
    """What is answered to these bytes, until the connection is closed; `slowly`: a byte at a time."""
    reader, writer = await open_socket(gateway.port)
    try:
        for at in range(0, len(raw), 1 if slowly else 1 << 14):
            writer.write(raw[at : at + (1 if slowly else 1 << 14)])
            await asyncio.sleep(0.02 if slowly else 0)
            if reader.at_eof():
                break
    except ConnectionError:
        pass
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    except ConnectionError:
        return b"reset"
    finally:
        writer.transport.abort()


async def tries(gateway: Gateway, agent: str = "support.acme") -> Caller:
    """An upgrade that may be refused; one that is not is to be counted and left by the caller."""
    caller = await dial(gateway.port, f"/ws/twilio/{agent}")
    if caller.status != 101:
        await caller.leave()
    return caller


def reasons(gateway: Gateway) -> dict[str, int]:
    """Why somebody was turned away, as far as it was told."""
    found: dict[str, int] = {}
    for line in gateway.log_lines():
        if line["event"] == "turned away at the door":
            found[line["why"]] = found.get(line["why"], 0) + line["times"]
    return found


@pytest.mark.parametrize("raw", [b"", b"GET /livez HT", HEAD, b"\r\n\r\n"])
async def test_who_does_not_finish_its_head_is_told_so(gateway: Gateway, raw: bytes) -> None:
    answer = await said(gateway, raw)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer


async def test_a_byte_at_a_time_is_too_slow(gateway: Gateway) -> None:
    answer = await said(gateway, HEAD + b"X-Slow: 1234\r\n\r\n", slowly=True)
    assert b" 408 " in answer or answer == b"reset"
    assert b" 200 " not in answer


async def test_a_second_request_has_the_same_time(gateway: Gateway) -> None:
    answer = await said(gateway, HEAD + b"\r\n" + HEAD)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


LARGE = {
    "one header": HEAD + b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n",
    "one that never ends": HEAD + b"X-Long: " + b"a" * 400_000,
    "many headers": HEAD + b"".join(b"X-%04d: %s\r\n" % (n, b"a" * 90) for n in range(700)) + b"\r\n",
    "a long URL": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "an upgrade": HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "trailers": b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\nX-Long: " + b"a" * 400_000,
    "an extension of a chunk": b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 400_000,
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=LARGE)
async def test_a_head_that_is_too_large(gateway: Gateway, raw: bytes) -> None:
    answer = await said(gateway, raw)
    # Who still sends when the connection closes may see no more of it than that.
    assert b" 431 " in answer or b" 401 " in answer or answer == b"reset"
    assert gateway.get("/livez")[0] == 200


async def test_a_large_body_is_no_large_head(gateway: Gateway) -> None:
    body = json.dumps({"body": "a" * 200_000}).encode()
    head = b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    assert b" 401 " in (await said(gateway, head + length + body))[:20]


async def test_more_calls_than_it_may_carry(gateway: Gateway, support: Agent) -> None:
    calls = [await connect(gateway, support) for _ in range(2)]
    refused = await tries(gateway)
    assert refused.refusal == (503, "overloaded")
    assert refused.headers["retry-after"] == "5"
    # Those that run go on, and requests are answered.
    for call in calls:
        await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk("twilio")])
    assert gateway.get("/livez")[0] == 200
    await hang_up(calls[0])
    calls[0] = await eventually_connected(gateway, support)
    for call in calls:
        await hang_up(call)
    await eventually(lambda: "there are 2 calls" in reasons(gateway), "it is told")


async def eventually_connected(gateway: Gateway, support: Agent) -> Any:
    """A call as soon as there is room: the end of another frees it a moment later."""
    while True:
        caller = await tries(gateway)
        if caller.status == 101:
            await caller.leave()
            await eventually(lambda: gateway.status()["calls"] <= 1, "it is gone")
            gateway.upgrades += 1
            return await connect(gateway, support)
        assert caller.refusal == (503, "overloaded")


async def test_more_connections_than_one_address_may_have(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)  # counts as one
    held = [await open_socket(gateway.port) for _ in range(5)]
    for _, writer in held:
        writer.write(HEAD)
    answer = await said(gateway, b"")
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "rate_limited"
    for _, writer in held:
        writer.transport.abort()
    await hang_up(call)
    # All are given back: as many as before find room again.
    again: list[Caller] = []

    async def one_more() -> bool:
        reader, writer = await open_socket(gateway.port)
        writer.write(HEAD + b"\r\n")
        answered = await reader.readuntil(b"\r\n")
        again.append(Caller(reader, writer, masks=True))
        return answered.startswith(b"HTTP/1.1 200")

    answers: list[bool] = []
    while answers[-6:] != [True] * 6:
        answers.append(await one_more())
        if not answers[-1]:
            assert len(answers) < 200
            while again:
                await again.pop().leave()
    for caller in again:
        await caller.leave()


async def test_too_many_begin_at_once(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(limits={"upgrades_per_second": 3}, agents=[])
    answers = [await tries(gateway, "nobody.acme") for _ in range(20)]
    gateway.upgrades = sum(answer.status == 404 for answer in answers)
    assert {answer.status for answer in answers} == {404, 503}
    assert gateway.upgrades >= 3
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.refusal for answer in refused} == {(503, "overloaded")}
    await eventually(
        lambda: sum(reasons(gateway).values()) == len(refused), "each is counted, in a few lines"
    )


async def test_who_leaves_counts_no_more(start_gateway: Callable[..., Gateway]) -> None:
    """Refused upgrades, aborted ones and requests give their places back."""
    gateway = start_gateway(limits={"max_calls": 1, "connections_per_address": 2}, agents=[])
    for _ in range(20):
        caller = await tries(gateway, "nobody.acme")
        gateway.upgrades += caller.status == 404
        assert caller.status in (404, 503, 429, 0)
    await eventually(lambda: gateway.status()["calls"] == 0, "nobody is left")
    assert gateway.upgrades >= 2
