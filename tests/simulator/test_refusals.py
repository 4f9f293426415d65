# SPDX-License-Identifier: BSD-2-Clause
"""Calls that do not come about, or end badly: what the report says, in words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.simulator.fake_carrier import place_call


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Something that is no gateway: answers the upgrade with these bytes, or never (None)."""
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        over.set()


async def test_refused_with_a_status_and_its_words(plan: Callable[..., Any]) -> None:
    body = b'{"error": "no such agent is configured", "code": "404"}'
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with answering(answer) as url:
        report = await place_call(plan(url, "twilio"))
    assert report.refused == 404
    assert report.error == "refused with HTTP 404 Not Found: no such agent is configured"
    assert report.failed


async def test_nobody_listens(plan: Callable[..., Any]) -> None:
    with socket.socket() as kept:  # nobody else may listen there either
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        report = await place_call(plan(f"ws://127.0.0.1:{port}", "plivo"))
    assert report.error == "could not connect: Connection refused"
    assert report.refused is None


async def test_nobody_answers(plan: Callable[..., Any]) -> None:
    async with answering(None) as url:
        report = await place_call(plan(url, "telnyx", connect_timeout=0.1))
    assert report.error == "no answer within 0.1 s"


@pytest.mark.parametrize("answer", [b"220 mail.example.com ESMTP\r\n\r\n", b""])
async def test_no_web_server_at_all(answer: bytes, plan: Callable[..., Any]) -> None:
    async with answering(answer) as url:
        report = await place_call(plan(url, "exotel"))
    assert report.error is not None
    assert report.error.startswith("not a WebSocket server")


async def test_closed_by_the_far_side_with_an_error(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async def give_up(connection: Any, message: dict[str, Any]) -> None:
        if message["event"] == "media":
            await connection.close(1011, "agent_lost: no pulse")

    async with far_side(give_up) as gateway:
        report = await place_call(plan(gateway.url, "twilio"))
    assert (report.close_code, report.ended_by) == (1011, "far side")
    assert report.error == "the far side closed with 1011 (agent_lost: no pulse)"


async def test_lost_without_a_close(far_side: Callable[..., Any], plan: Callable[..., Any]) -> None:
    async def vanish(connection: Any, message: dict[str, Any]) -> None:
        if message["event"] == "media":
            connection.transport.abort()

    async with far_side(vanish) as gateway:
        report = await place_call(plan(gateway.url, "telnyx"))
    assert report.error == "the far side was lost without a close"


async def test_closed_in_order_before_the_caller_was_done(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async def goodbye(connection: Any, message: dict[str, Any]) -> None:
        if message["event"] == "media":
            await connection.close(1000, "agent_ended")

    async with far_side(goodbye) as gateway:
        report = await place_call(plan(gateway.url, "exotel"))
    assert (report.error, report.ended_by, report.close_reason) == (None, "far side", "agent_ended")


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("ftp://127.0.0.1/", "must begin with ws:// or wss://"),
        ("http://[::1/", "not a URL"),
        ("127.0.0.1:7860", "must begin with ws:// or wss://"),
        ("ws://", "names no host"),
        ("ws://127.0.0.1:seven", "not a URL"),
        ("ws://127.0.0.1:99999", "not a URL"),
        ("ws://[::1", "not a URL"),
        ("ws://127.0.0.1/ä", "characters"),
    ],
)
async def test_a_url_that_cannot_be_dialled(url: str, detail: str, plan: Callable[..., Any]) -> None:
    report = await place_call(plan(url, "twilio"))
    assert detail in (report.error or "")


async def test_a_carrier_that_is_none(plan: Callable[..., Any]) -> None:
    report = await place_call(plan("ws://127.0.0.1:1", "pigeon"))
    assert "no such carrier: pigeon" in (report.error or "")


def test_keys_that_no_telephone_has(plan: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no telephone has the keys x"):
        plan("ws://127.0.0.1:1", "twilio", digits="1x")
