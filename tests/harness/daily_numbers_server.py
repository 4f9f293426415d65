# SPDX-License-Identifier: BSD-2-Clause
"""A fake Daily with numbers and callers: the configuration of numbers, and the callers on hold.

As docs/reference/carriers.md §6.1 to §6.4 describe it. Webhooks are tried as they are set, if they are on
this machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from gateway.simulator.waiting import WAIT_S
from tests.harness.daily_server import DOMAIN, DailyServer, wrong_property

DOMAIN_ID = "22222222-2222-4222-8222-222222222222"
DIALIN_FIELDS: dict[str, type | tuple[type, ...]] = {
    "phone_number": str,
    "room_creation_api": str,
    "name_prefix": str,
    "hmac": str,
    "hold_music_url": str,
    "timeout_config": dict,
}


class DailyWithNumbers(DailyServer):
    """Daily on a port of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pinless: list[dict[str, Any]] = []
        """The domain's `pinless_dialin`."""
        self.configs: dict[str, dict[str, Any]] = {}
        """`/domain-dialin-config`, by id."""
        self.shows_hmac = True
        self.probed: list[tuple[str, int]] = []
        """The probed webhooks, each with the status of its answer; 0 for none."""
        self.held: dict[str, str] = {}
        """The callers on hold: `callId`, and the domain's id on the SIP network."""
        self.patched: dict[str, str] = {}
        """The callers taken off hold: `callId`, and the SIP address of their room."""

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_get("/v1/", self.handler("get_domain", self._get_domain))
        app.router.add_post("/v1/", self._probing("set_domain", self._set_domain))
        configs = "/v1/domain-dialin-config"
        app.router.add_get(configs, self.handler("list_configs", self._list_configs))
        app.router.add_post(configs, self._probing("create_config", self._write_config))
        app.router.add_get(configs + "/{id}", self.handler("get_config", self._get_config))
        app.router.add_put(configs + "/{id}", self._probing("update_config", self._write_config))
        app.router.add_post("/v1/dialin/pinlessCallUpdate", self.handler("call_update", self._call_update))

    # Numbers (docs/reference/carriers.md §6.2)

    def _get_domain(self, _: web.Request, __: Any) -> web.Response:
        shown = [self._shown(entry) for entry in self.pinless]
        return web.json_response({"domain_name": DOMAIN, "config": {"pinless_dialin": shown, "lang": "en"}})

    def _set_domain(self, request: web.Request, body: Any) -> web.Response:
        entries = body.get("properties", {}).get("pinless_dialin")
        if not isinstance(entries, list):
            return self.error(400, "invalid-request-error", "pinless_dialin must be an array")
        for entry in entries:
            if wrong := _wrong_dialin(entry):
                return self.error(400, "invalid-request-error", wrong)
        self.pinless = [
            {**_with_hmac(entry), "sip_uri": f"static-address--{place}@{DOMAIN}.sip.test"}
            for place, entry in enumerate(entries)
        ]
        return self._get_domain(request, body)

    def _list_configs(self, request: web.Request, _: Any) -> web.Response:
        """Return the list as documented. `starting_after`: an id."""
        ids = list(self.configs)
        after = request.query.get("starting_after")
        first = ids.index(after) + 1 if after else 0
        page = ids[first : first + int(request.query.get("limit", 10))]
        data = [
            {
                **self.configs[each],
                "config": {"phone_number": self.configs[each]["config"].get("phone_number")},
            }
            for each in page
        ]
        return web.json_response({"total_count": len(ids), "data": data})

    def _get_config(self, request: web.Request, _: Any) -> web.Response:
        found = self.configs.get(request.match_info["id"])
        if found is None:
            return self.error(404, "not-found")
        return web.json_response({**found, "config": self._shown(found["config"])})

    def _write_config(self, request: web.Request, body: Any) -> web.Response:
        fields = {name: value for name, value in body.items() if name != "type"}
        config_id = request.match_info.get("id") or str(uuid.UUID(int=len(self.configs)))
        number = fields.get("phone_number")
        if "id" in request.match_info and config_id not in self.configs:
            return self.error(404, "not-found")
        if wrong := _wrong_dialin(fields):
            return self.error(400, "invalid-request-error", wrong)
        others = [each["config"] for key, each in self.configs.items() if key != config_id]
        if number in [each.get("phone_number") for each in [*others, *self.pinless]]:
            return self.error(400, "invalid-request-error", "phone_number is used by another config")
        kind = self.configs.get(config_id, body).get("type")
        self.configs[config_id] = {"id": config_id, "type": kind, "config": _with_hmac(fields)}
        return web.json_response(self.configs[config_id])

    def _shown(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if self.shows_hmac or name != "hmac"}

    def _probing(
        self, operation: str, act: Callable[[web.Request, Any], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Handle a request as `_handler` does, then probe its webhooks, whose answers change nothing."""
        handle = self.handler(operation, act)

        async def handle_and_probe(request: web.Request) -> web.StreamResponse:
            answer = await handle(request)
            if answer.status == 200:
                fields = [*self.pinless, *(each["config"] for each in self.configs.values())]
                for url in [each.get("room_creation_api", "") for each in fields]:
                    if url.startswith("http://127.0.0.1:"):  # the others are nobody's
                        self.probed.append((url, await _probe(url)))
            return answer

        return handle_and_probe

    # Calls (docs/reference/carriers.md §6.1, §6.3)

    def caller(self, **more: Any) -> dict[str, Any]:
        """Put a new caller on hold; return the content of its webhook."""
        call_id = str(uuid.uuid4())
        self.held[call_id] = DOMAIN_ID
        return {
            "From": "+14155550100",
            "To": "+14155550199",
            "callId": call_id,
            "callDomain": DOMAIN_ID,
            **more,
        }

    def _call_update(self, _: web.Request, body: Any) -> web.Response:
        if not isinstance(body, dict) or body.keys() != {"callId", "callDomain", "sipUri"}:
            return self.error(400, "invalid-request-error", "callId, callDomain and sipUri are needed")
        if self.held.get(body["callId"]) != body["callDomain"]:
            return self.error(400, "invalid-request-error", "no such call")
        rooms = [room["config"] for room in self.rooms.values() if "sip_uri" in room["config"]]
        endpoints = {f"sip:{config['sip_uri']['endpoint']}" for config in rooms}
        if body["sipUri"] not in endpoints:
            return self.error(400, "invalid-request-error", "no such SIP address")
        del self.held[body["callId"]]
        self.patched[body["callId"]] = body["sipUri"]
        return web.json_response({"ok": "true"})


def signed(secret: str, raw: bytes, *, at: float | None = None, unit: str = "ms") -> dict[str, str]:
    """Return the headers of a webhook that Daily signed with this `hmac`. `at`: Unix seconds."""
    now = time.time() if at is None else at
    timestamp = str(int(now * 1000) if unit == "ms" else int(now))
    digest = hmac.digest(base64.b64decode(secret), timestamp.encode() + b"." + raw, hashlib.sha256)
    return {"X-Pinless-Timestamp": timestamp, "X-Pinless-Signature": base64.b64encode(digest).decode()}


def _with_hmac(fields: dict[str, Any]) -> dict[str, Any]:
    return {"hmac": base64.b64encode(secrets.token_bytes(32)).decode(), **fields}


def _wrong_dialin(fields: Any) -> str:
    if wrong := wrong_property(fields, DIALIN_FIELDS):
        return wrong
    try:
        base64.b64decode(fields.get("hmac", ""), validate=True)
    except ValueError:
        return "hmac must be base64"
    return ""


async def _probe(url: str) -> int:
    """Send Daily's probe to a webhook that is being configured."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as http,
            http.post(url, json={"Test": "test"}) as answer,
        ):
            return answer.status
    except aiohttp.ClientError:
        return 0
