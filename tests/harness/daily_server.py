# SPDX-License-Identifier: BSD-2-Clause
"""A fake Daily: rooms and meeting tokens as docs.daily.co describes them, and every failure.

It keeps the rooms that exist and the tokens it gave out, refuses what Daily would refuse, and fails on
request: `daily.next("create_room", stalls)`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.harness.agent import AgentPort
from tests.harness.failing_server import Behaviour, FailingServer, fails

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
    """A recorded request. `operation`: for example create_room."""

    operation: str
    path: str
    headers: dict[str, str]
    body: Any


class DailyServer(FailingServer[Seen]):
    """Daily on a port of its own. `sip_prefix`: how it prints SIP endpoints, "" or "sip:"."""

    def __init__(
        self, port: AgentPort | None = None, *, api_key: str = API_KEY, sip_prefix: str = ""
    ) -> None:
        super().__init__(port)
        self._api_key = api_key
        self._sip_prefix = sip_prefix
        self.rooms: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}

    @property
    def api_url(self) -> str:
        return f"{self.root}/v1"

    def token(self, *, is_owner: bool) -> str:
        """Return the one meeting token of an owner, or of a guest."""
        (token,) = [each for each, properties in self.tokens.items() if properties["is_owner"] is is_owner]
        return token

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        """Return an error as documented (docs.daily.co, "Errors")."""
        kind = "server-error" if code is None else code
        body = {"error": kind, "info": text} if text else {"error": kind}
        return web.json_response(body, status=status, headers=headers)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/rooms", self.handler("create_room", self._create_room))
        app.router.add_delete("/v1/rooms/{name}", self.handler("delete_room", self._delete_room))
        app.router.add_post("/v1/meeting-tokens", self.handler("create_token", self._create_token))

    def handler(
        self, operation: str, act: Callable[[web.Request, Any], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Serve one kind of request: record it, and answer with the test's behaviour or with `act`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            text = await request.text()
            try:
                body = json.loads(text) if text else None
                refused = self._unauthorized(request)
            except ValueError:
                body, refused = text, self.error(400, "json-parsing-error", "the body is not JSON")
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append(Seen(operation, request.path, headers, body))

            def as_daily() -> web.Response:
                return refused or act(request, body)

            return await self.respond(operation, request, as_daily)

        return handle

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            return self.error(400, "authorization-header-error", "bad Authorization header format")
        return None if key == self._api_key else self.error(401, "authentication-error")

    def _create_room(self, _: web.Request, body: Any) -> web.Response:
        if not isinstance(body, dict) or body.keys() - {"name", "privacy", "properties"}:
            return self.error(400, "invalid-request-error", "unknown parameter")
        name, privacy = body.get("name", f"random{len(self.rooms)}"), body.get("privacy", "public")
        properties = body.get("properties", {})
        if not isinstance(name, str) or not ROOM_NAME.fullmatch(name):
            return self.error(400, "invalid-request-error", "invalid room name")
        if name in self.rooms:
            return self.error(400, "invalid-request-error", f"a room named {name} already exists")
        if privacy not in ("public", "private"):
            return self.error(400, "invalid-request-error", "privacy must be public or private")
        if wrong := wrong_property(properties, ROOM_PROPERTIES):
            return self.error(400, "invalid-request-error", wrong)
        config = dict(properties)
        if sip := config.get("sip"):
            if sip.keys() - SIP_KEYS or sip.get("sip_mode") != "dial-in":
                return self.error(400, "invalid-request-error", "invalid property sip")
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
            return self.error(400, "invalid-request-error", "unknown parameter")
        properties = body.get("properties", {})
        if wrong := wrong_property(properties, TOKEN_PROPERTIES):
            return self.error(400, "invalid-request-error", wrong)
        token = f"eyJhbGciOiJIUzI1NiJ9.{len(self.tokens):08}.c2lnbmF0dXJl"
        self.tokens[token] = properties
        return web.json_response({"token": token})

    def _delete_room(self, request: web.Request, _: Any) -> web.Response:
        name = request.match_info["name"]
        if self.rooms.pop(name, None) is None:
            return self.error(404, "not-found", f"room {name} not found")
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


def rate_limits(retry_after: str | None = "7") -> Behaviour:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    return fails(429, "rate-limit-error", **headers)
