# SPDX-License-Identifier: BSD-2-Clause
"""A client that sees an answer's head sees its body as well, if that is short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.server.joined_answer import JoinedAnswer
from gateway.simulator.waiting import WAIT_S
from tests.harness.gateway import Gateway

TIMES = 100


class Written:
    """A transport that remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 7


@pytest.fixture
async def answer() -> tuple[Any, Written]:
    written: Any = Written()
    return JoinedAnswer(written, asyncio.get_running_loop()), written


async def test_head_and_body_are_one_write(answer: tuple[Any, Written]) -> None:
    joined, written = answer
    joined.write(b"head ")
    assert written.writes == []
    joined.write(b"body ")
    joined.write(b"more")
    assert written.writes == [b"head body ", b"more"]
    await asyncio.sleep(0)
    assert len(written.writes) == 2


async def test_a_head_whose_body_takes_its_time_does_not_wait(answer: tuple[Any, Written]) -> None:
    joined, written = answer
    joined.write(b"head")
    await asyncio.sleep(0)
    assert written.writes == [b"head"]
    joined.write(b"body")
    assert written.writes == [b"head", b"body"]


async def test_a_head_without_a_body_is_sent_before_the_connection_closes(
    answer: tuple[Any, Written],
) -> None:
    joined, written = answer
    joined.write(b"head")
    joined.close()
    assert (written.writes, written.is_closed) == ([b"head"], True)
    await asyncio.sleep(0)
    assert written.writes == [b"head"]


async def test_a_client_is_asked_for_the_body_of_its_request_at_once(answer: tuple[Any, Written]) -> None:
    joined, written = answer
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(written.writes) == 1
    joined.write(b"head ")
    joined.write(b"body")
    assert written.writes[1:] == [b"head body"]


async def test_everything_else_is_the_transports(answer: tuple[Any, Written]) -> None:
    assert answer[0].get_write_buffer_size() == 7


async def test_the_first_bytes_of_an_answer_are_all_of_it(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(agents=[{"name": "support", "organization": "acme"}])
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(WAIT_S):
        for _ in range(TIMES):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.read(65_536)).endswith(b'{"status":"alive"}')
        writer.write(b"HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        both = await reader.read()
    first, _, second = both.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 404")
    assert second.startswith(b"HTTP/1.1 200")
    assert second.endswith(b'{"status":"alive"}')
    writer.close()
