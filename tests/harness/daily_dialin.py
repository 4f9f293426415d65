# SPDX-License-Identifier: BSD-2-Clause
"""A caller on hold at Daily: the webhook, and the agent's answer (docs/reference/carriers.md §6)."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.harness.bot_requests import BotCall
from tests.harness.daily_numbers_server import signed
from tests.harness.http_requests import HttpAnswer, send

SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OLD_SECRET = "b2xkc2VjcmV0b2xkc2VjcmV0b2xkc2VjcmV0b2xkISE="


async def send_dialin(url: str, call: Any, *, secret: str = SECRET, **headers: str) -> HttpAnswer:
    """Send the webhook with which Daily reports a caller."""
    raw = json.dumps(call).encode()
    return await send(url, raw=raw, **(signed(secret, raw) | headers))


async def take_off_hold(bot: BotCall, sip_uri: str) -> int:
    """Connect the caller to the room, as Pipecat does (docs/reference/carriers.md §6.5).

    Return the HTTP status of Daily's answer.
    """
    settings = bot.json["dialin_settings"]
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{bot.json['daily_api_url']}/dialin/pinlessCallUpdate",
            headers={"Authorization": f"Bearer {bot.json['daily_api_key']}"},
            json={"callId": settings["call_id"], "callDomain": settings["call_domain"], "sipUri": sip_uri},
        ) as answer,
    ):
        return answer.status


def dialin_log_lines(lines: list[Any]) -> list[Any]:
    """Return the log lines about dial-ins."""
    return [line for line in lines if line["event"].startswith("dialin")]
