# SPDX-License-Identifier: BSD-2-Clause
"""Calls that reach the demonstration agent (docs/reference/agent-container.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway.simulator.call_plan import CallReport
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.waiting import WAIT_S
from gateway.simulator.wav import Recording


async def test_the_caller_is_greeted_and_hears_its_own_words_again(
    agent: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with agent() as host:
        plans = [
            plan(f"ws://{host}/ws", carrier, answer_wait=5.0)
            for carrier in ("twilio", "telnyx", "plivo", "exotel")
        ]
        for report in await asyncio.gather(*(place_call(one) for one in plans)):
            assert_greeted_and_repeated(report)


def assert_greeted_and_repeated(report: CallReport) -> None:
    assert report.error is None
    assert not report.complaints
    assert report.marks == ("greeting",)
    assert report.lost_frames == 0
    assert report.delay_p50_ms is not None
    assert report.setup_ms is not None
    assert report.audible_ms > 0
    assert (report.close_code, report.ended_by) == (1000, "caller")


@pytest.mark.parametrize("carrier", ["twilio", "exotel"])
async def test_what_is_heard_is_what_was_said(
    carrier: str, agent: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with agent(greets=False) as host:  # a busy one may pause within a word
        report = await place_call(plan(f"ws://{host}/ws", carrier, answer_wait=1.0, pause=1.0))
    spoken = report.sent_audio.strip(b"\0")
    assert len(spoken) > 3000
    assert spoken in report.played_audio
    assert (
        abs(len(report.sent_audio) - len(report.played_audio)) < 2 * 8 * 100
    )  # both directions span the call


async def test_star_interrupts_the_agent(agent: Callable[..., Any], plan: Callable[..., Any]) -> None:
    async with agent(greets=False, delay=10.0) as host:  # it has not said anything by then
        report = await place_call(plan(f"ws://{host}/ws", "plivo", digits="*"))
    assert [event.kind for event in report.events].count("clear") == 1
    assert report.lost_frames is None or report.lost_frames > 0


async def test_star_and_hash_end_the_call(agent: Callable[..., Any], plan: Callable[..., Any]) -> None:
    async with agent() as host:
        report = await place_call(plan(f"ws://{host}/ws", "twilio", digits="12#*#"))
    assert (report.close_code, report.ended_by, report.error) == (1000, "far side", None)


async def test_a_stranger_gets_everything_back_at_once(agent: Callable[..., Any]) -> None:
    async with agent() as host, connect(f"ws://{host}/ws?body=eyJhIjoxfQ==") as stranger:
        messages: list[str | bytes] = ["hello", b"\x00\x01", '{"event":"media"}', "[]", b""]
        for message in messages:
            await stranger.send(message)
            assert await _next(stranger) == message


async def test_an_opening_of_nobody_is_given_back_whole(agent: Callable[..., Any]) -> None:
    async with agent() as host, connect(f"ws://{host}/ws") as stranger:
        await stranger.send('{"event":"connected"}')
        await stranger.send('{"event":"start","start":{}}')
        assert await _next(stranger) == '{"event":"connected"}'
        assert await _next(stranger) == '{"event":"start","start":{}}'


async def test_an_opening_that_makes_no_sense_is_refused_in_words(agent: Callable[..., Any]) -> None:
    start = {"streamSid": "MZ1", "callSid": "CA1", "mediaFormat": {"encoding": "audio/x-unheard-of"}}
    async with agent() as host, connect(f"ws://{host}/ws") as carrier:
        await carrier.send(json.dumps({"event": "start", "start": start}))
        await asyncio.wait_for(carrier.wait_closed(), WAIT_S)
    assert carrier.close_code == 1008
    assert carrier.close_reason


async def test_a_message_it_cannot_read_does_not_end_the_call(
    agent: Callable[..., Any], word: Recording
) -> None:
    start = {"streamId": "s", "callId": "c"}
    async with agent() as host, connect(f"ws://{host}/ws") as carrier:
        await carrier.send(json.dumps({"event": "start", "start": start}))
        await carrier.send("nonsense")
        await carrier.send('{"event":"dtmf","dtmf":{"digit":"*"}}')
        messages = [json.loads(await _next(carrier))]
        while messages[-1]["event"] != "clearAudio":
            messages.append(json.loads(await _next(carrier)))
    assert carrier.close_code == 1000


async def test_no_more_calls_than_sessions(agent: Callable[..., Any]) -> None:
    async with agent(sessions=1) as host, aiohttp.ClientSession() as http:
        assert await _status(http, f"http://{host}/readyz") == 200
        async with connect(f"ws://{host}/ws") as first:
            assert await _status(http, f"http://{host}/readyz") == 503
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{host}/ws")
            assert refused.value.response.status_code == 503
            await first.send("still here")
            assert await _next(first) == "still here"
        assert await _status(http, f"http://{host}/livez") == 200
        async with asyncio.timeout(WAIT_S):
            while await _status(http, f"http://{host}/readyz") != 200:
                pass


async def test_an_agent_may_take_calls_alone(agent: Callable[..., Any]) -> None:
    async with (
        agent() as host,
        aiohttp.ClientSession() as http,
        http.post(f"http://{host}/bot", json={}) as answer,
    ):
        assert answer.status == 501
        assert "/ws" in (await answer.json())["error"]


async def test_a_bots_session_lasts_as_long_as_its_request(agent: Callable[..., Any]) -> None:
    async with agent(bot=0.0) as host, aiohttp.ClientSession() as http:
        async with http.post(f"http://{host}/bot", json={"customer": 4711}) as answer:
            assert (answer.status, await answer.json()) == (200, {})
        async with http.post(f"http://{host}/bot", data=b"{") as answer:
            assert answer.status == 422


async def test_a_bot_whose_client_leaves_gives_its_place_back(agent: Callable[..., Any]) -> None:
    async with agent(bot=3600.0, sessions=1) as host, aiohttp.ClientSession() as http:
        running = asyncio.create_task(http.post(f"http://{host}/bot", json={}))
        async with asyncio.timeout(WAIT_S):
            while await _status(http, f"http://{host}/readyz") != 503:
                pass
        async with http.post(f"http://{host}/bot", json={}) as answer:
            assert answer.status == 503
        running.cancel()
        async with asyncio.timeout(WAIT_S):
            while await _status(http, f"http://{host}/readyz") != 200:
                pass


async def _next(connection: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(connection.recv(), WAIT_S)


async def _status(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(url) as answer:
        return answer.status
