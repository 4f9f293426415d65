# SPDX-License-Identifier: BSD-2-Clause
"""A web client starts a real Pipecat bot through the API, talks to it, and reaches its routes meanwhile.

The bot is protobuf_bot.py, the client protobuf_client.py: both speak Pipecat's protobuf frames, over
/ws/generic (docs/reference/public-api.md, "Start", "Media sockets", "Session API").
"""

from __future__ import annotations

import asyncio
import base64
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from gateway.simulator.waiting import POLL_S
from gateway.simulator.wav import read_speech
from tests.harness.gateway import Gateway

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-interop" / "bin" / "python"
EVENT_TIMEOUT_S = 60.0
"""Seconds that any step of the client may take: its libraries are large, and not cached at first."""

BOT_FRAME_BYTES = 640
"""Bytes that Pipecat sends at a time, 40 ms of 16 bits at 8000 Hz; it buffers less than that."""

SAID = read_speech("caller").pcm[: 38 * BOT_FRAME_BYTES]
"""Frames of one and a half seconds."""

BODY = {"customer": 4711}


class Client:
    """A client of the bot's: a process of its own that tells what comes to it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for the client's next event, which must be this one."""
        assert self._process.stdout is not None
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            line = await self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"event": "gone"}
        assert told["event"] == name, told
        return told


class Api:
    """The gateway's API, as a program with these keys calls it."""

    def __init__(self, gateway: Gateway, http: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{gateway.port}"
        self._http = http

    async def __call__(
        self, method: str, path: str, json: Any = None, *, key: str = "pk_acme"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self._http.request(method, self._url + path, json=json, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture(scope="module")
def bot(protobuf_bot: str) -> str:
    return protobuf_bot


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], bot: str) -> Gateway:
    """A gateway: talk.acme has one slot, and requires a token."""
    return start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=[
            {
                "name": "talk",
                "organization": "acme",
                "instances": [bot],
                "sessions_per_instance": 1,
                "websocket_auth": "token",
            }
        ],
    )


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    timeout = aiohttp.ClientTimeout(total=EVENT_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        yield Api(gateway, http)


@pytest.fixture
async def client(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Run clients. Each gets the socket's URL, and the token if the URL has none."""
    sound = tmp_path / "said"
    sound.write_bytes(SAID)
    async with AsyncExitStack() as running:

        async def run(url: str, token: str = "") -> Client:
            gateway.upgrades += 1
            return await running.enter_async_context(_client(url, token, sound))

        yield run


@asynccontextmanager
async def _client(url: str, token: str, sound: Path) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        HERE / "protobuf_client.py",
        url,
        token,
        sound,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_client_talks_to_the_bot_it_started_and_reaches_its_routes(
    api: Api, client: Callable[..., Any], bot: str, gateway: Gateway
) -> None:
    status, started = await api("POST", "/v1/public/talk/start", {"transport": "websocket", "body": BODY})
    assert status == 200
    session, token = started["sessionId"], started["token"]
    routes = f"/v1/public/talk/sessions/{session}"
    url = f"{started['wsUrl']}?body={quote(started['body'])}"
    before = await calls_of(bot)
    assert session not in {call["session"] for call in before}  # it starts when the socket comes

    talking = await client(url, token)
    await talking.event("open")
    heard = base64.b64decode((await talking.event("heard"))["pcm"])
    assert heard[: len(SAID)] == SAID
    assert await calls_of(bot) == [*before, {"session": session, "body": BODY, "over": False}]

    # While the call runs: the bot's own routes, and what one of them does to the call.
    assert await api("GET", f"{routes}/heard") == (200, {"session": session, "heard_bytes": len(SAID)})
    assert await api("POST", f"{routes}/tell", {"price": "4 €"}) == (200, {"told": {"price": "4 €"}})
    assert (await talking.event("told"))["message"] == {"price": "4 €"}
    assert (await api("GET", f"{routes}/no-such-route"))[0] == 404

    # The token opened one socket; in no place does it open another.
    for again in (await client(url, token), await client(f"{started['wsUrl']}/{token}")):
        assert (await again.event("refused"))["status"] == 403

    stopped = await api("DELETE", f"/v1/agents/talk/sessions/{session}", key="sk_acme")
    assert stopped == (200, {"status": "terminated", "session_id": session})
    assert (await talking.event("closed"))["code"] == 1000
    await over(bot)
    _, shown = await api("GET", f"/v1/sessions/{session}?wait_for_completion=true", key="sk_acme")
    assert (shown["status"], shown["failed_at"]) == ("ended", None)
    assert (await api("GET", f"{routes}/heard"))[0] == 404
    (record,) = gateway.sessions(session)
    assert (record["reason"], record["side"]) == ("stopped", "gateway")


async def test_place_is_free_for_the_next_client(api: Api, client: Callable[..., Any], bot: str) -> None:
    for _ in range(2):
        _, started = await api("POST", "/v1/public/talk/start", {"transport": "websocket"})
        talking = await client(f"{started['wsUrl']}?token={quote(started['token'])}")
        await talking.event("open")
        await talking.event("heard")
        call = (await calls_of(bot))[-1]
        assert (call["session"], call["body"]) == (started["sessionId"], None)
        status, _ = await api("POST", f"/v1/sessions/{started['sessionId']}/stop", key="sk_acme")
        assert status == 200
        assert (await talking.event("closed"))["code"] == 1000
        await over(bot)


async def calls_of(bot: str) -> list[dict[str, Any]]:
    """Return every call that the bot was given."""
    async with aiohttp.ClientSession() as http, http.get(f"{bot}/calls") as answer:
        calls: list[dict[str, Any]] = await answer.json()
    return calls


async def over(bot: str) -> None:
    """Wait until the bot is done with all its calls."""
    async with asyncio.timeout(EVENT_TIMEOUT_S):
        while not all(call["over"] for call in await calls_of(bot)):
            await asyncio.sleep(POLL_S)
