# SPDX-License-Identifier: BSD-2-Clause
"""Daily for tests: rooms and meeting tokens as docs.daily.co describes them, and every way to fail at it.

It keeps the rooms that exist and the tokens it gave out, refuses what Daily would refuse, and fails on
request: `daily.next("create_room", stalls)`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.harness.agent import AgentPort

API_KEY = "daily-key-of-the-domain"
DOMAIN = "acme-calls"
ROOM_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
SIP_KEYS = {"display_name", "video", "sip_mode", "num_endpoints", "codecs", "provider"}
ROOM_PROPERTIES: dict[str, type | tuple[type, ...]] = {
    "nbf": int,
    "exp": int,
    "eject_at_room_exp": bool,
    "eject_after_elapsed": int,
    "max_participants": int,
    "enable_chat": bool,
    "enable_dialout": bool,
    "enable_knocking": bool,
    "enable_prejoin_ui": bool,
    "enable_recording": str,
    "start_audio_off": bool,
    "start_video_off": bool,
    "geo": str,
    "sip": (dict, type(None)),
}
TOKEN_PROPERTIES: dict[str, type | tuple[type, ...]] = {
    "room_name": str,
    "nbf": int,
    "exp": int,
    "eject_at_token_exp": bool,
    "eject_after_elapsed": int,
    "is_owner": bool,
    "user_name": str,
    "user_id": str,
    "enable_recording": str,
    "start_audio_off": bool,
    "start_video_off": bool,
    "permissions": dict,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came. `operation`: as in `start`, create_room say."""

    operation: str
    path: str
    headers: dict[str, str]
    body: Any


Behaviour = Callable[["DailyServer", web.Request, Callable[[], web.Response]], Awaitable[web.StreamResponse]]
"""How one request is answered; the last argument does what Daily would, and gives its answer."""


class DailyServer:
    """Daily on a port of its own. `sip_prefix`: how it prints SIP endpoints, "" or "sip:"."""

    def __init__(
        self, port: AgentPort | None = None, *, api_key: str = API_KEY, sip_prefix: str = ""
    ) -> None:
        self._own = AgentPort() if port is None else None
        self._port = port or self._own
        self._api_key = api_key
        self._sip_prefix = sip_prefix
        self._next: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None
        self.rooms: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.seen: list[Seen] = []
        self.stopping = asyncio.Event()

    @property
    def api_url(self) -> str:
        assert self._port is not None
        return f"{self._port.url}/v1"

    def next(self, operation: str, *behaviours: Behaviour) -> None:
        """The next requests of this kind are answered so, one each; after them as Daily should."""
        self._next[operation] += behaviours

    def asked(self, operation: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.operation == operation]

    async def start(self) -> DailyServer:
        assert self._port is not None
        app = web.Application()
        app.router.add_post("/v1/rooms", self.handler("create_room", self._create_room))
        app.router.add_delete("/v1/rooms/{name}", self.handler("delete_room", self._delete_room))
        app.router.add_post("/v1/meeting-tokens", self.handler("create_token", self._create_token))
        self.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._port.listen()).start()
        return self

    def add_routes(self, app: web.Application) -> None:
        """More of Daily, where a test needs it."""

    async def stop(self) -> None:
        self.stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._own is not None:
            self._own.free()

    def handler(
        self, operation: str, act: Callable[[web.Request, Any], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Serves one kind of request: keeps it, and answers as the test wants, or as `act` does."""

        async def handle(request: web.Request) -> web.StreamResponse:
            text = await request.text()
            try:
                body = json.loads(text) if text else None
                refused = self._unauthorized(request)
            except ValueError:
                body, refused = text, error(400, "json-parsing-error", "the body is not JSON")
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append(Seen(operation, request.path, headers, body))

            def as_daily() -> web.Response:
                return refused or act(request, body)

            waiting = self._next[operation]
            return await waiting.popleft()(self, request, as_daily) if waiting else as_daily()

        return handle

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            return error(400, "authorization-header-error", "bad Authorization header format")
        return None if key == self._api_key else error(401, "authentication-error")

    def _create_room(self, _: web.Request, body: Any) -> web.Response:
        if not isinstance(body, dict) or body.keys() - {"name", "privacy", "properties"}:
            return error(400, "invalid-request-error", "unknown parameter")
        name, privacy = body.get("name", f"random{len(self.rooms)}"), body.get("privacy", "public")
        properties = body.get("properties", {})
        if not isinstance(name, str) or not ROOM_NAME.fullmatch(name):
            return error(400, "invalid-request-error", "invalid room name")
        if name in self.rooms:
            return error(400, "invalid-request-error", f"a room named {name} already exists")
        if privacy not in ("public", "private"):
            return error(400, "invalid-request-error", "privacy must be public or private")
        if wrong := wrong_property(properties, ROOM_PROPERTIES):
            return error(400, "invalid-request-error", wrong)
        config = dict(properties)
        if sip := config.get("sip"):
            if sip.keys() - SIP_KEYS or sip.get("sip_mode") != "dial-in":
                return error(400, "invalid-request-error", "invalid property sip")
            config["sip_uri"] = {
                "endpoint": f"{self._sip_prefix}1234567890.{len(self.rooms)}@{DOMAIN}.sip.test"
            }
        self.rooms[name] = {
            "id": f"00000000-0000-4000-8000-{len(self.seen):012}",
            "name": name,
            "api_created": True,
            "privacy": privacy,
            "url": f"https://{DOMAIN}.daily.test/{name}",
            "created_at": "2026-01-01T00:00:00.000Z",
            "config": config,
        }
        return web.json_response(self.rooms[name])

    def _create_token(self, _: web.Request, body: Any) -> web.Response:
        if not isinstance(body, dict) or body.keys() - {"properties"}:
            return error(400, "invalid-request-error", "unknown parameter")
        properties = body.get("properties", {})
        if wrong := wrong_property(properties, TOKEN_PROPERTIES):
            return error(400, "invalid-request-error", wrong)
        token = f"eyJhbGciOiJIUzI1NiJ9.{len(self.tokens):08}.c2lnbmF0dXJl"
        self.tokens[token] = properties
        return web.json_response({"token": token})

    def _delete_room(self, request: web.Request, _: Any) -> web.Response:
        name = request.match_info["name"]
        if self.rooms.pop(name, None) is None:
            return error(404, "not-found", f"room {name} not found")
        return web.json_response({"deleted": True, "name": name})


def wrong_property(properties: Any, known: dict[str, type | tuple[type, ...]]) -> str:
    if not isinstance(properties, dict):
        return "properties must be an object"
    for key, value in properties.items():
        if key not in known:
            return f"unknown property '{key}'"
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is int):
            return f"invalid value for property '{key}'"
    return ""


def error(status: int, kind: str, info: str = "", **headers: str) -> web.Response:
    """An error in Daily's shape (docs.daily.co, "Errors")."""
    body = {"error": kind, "info": info} if info else {"error": kind}
    return web.json_response(body, status=status, headers=headers)


# How one request may be answered instead


def fails(status: int, kind: str = "server-error", info: str = "", **headers: str) -> Behaviour:
    """With an error of Daily's; header names may be written with underscores."""

    async def answer(daily: DailyServer, request: web.Request, act: Any) -> web.Response:
        return error(status, kind, info, **{name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def rate_limits(retry_after: str | None = "7") -> Behaviour:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    return fails(429, "rate-limit-error", **headers)


def says(body: Any, *, status: int = 200, makes: bool = False, **headers: str) -> Behaviour:
    """With any JSON, or with text as it is; `makes`: having done what was asked."""

    async def answer(daily: DailyServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
        if makes:
            act()
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html", headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return answer


async def stalls(daily: DailyServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
    """Not at all."""
    await daily.stopping.wait()
    return web.Response(status=503)


async def stalls_having_made(
    daily: DailyServer, request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and says nothing of it."""
    act()
    return await stalls(daily, request, act)


async def resets(daily: DailyServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
    """With a TCP reset."""
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response(status=503)


async def resets_having_made(
    daily: DailyServer, request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and resets the connection."""
    act()
    return await resets(daily, request, act)


async def trickles(daily: DailyServer, request: web.Request, act: Callable[[], Any]) -> web.StreamResponse:
    """Answers without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while not daily.stopping.is_set():
        await response.write(b" " * 65536)
    return response
