# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp for tests: what Meta sends (docs/reference/carriers.md §7), and agents that answer it."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from tests.harness.agent import Agent, AgentCall
from tests.harness.bot_requests import answer_of, body_of
from tests.harness.http_requests import HttpAnswer, send

SECRET, OLD_SECRET = "the-apps-secret", "the-apps-old-secret"
AGREES = answer_of(200, '{"status":"success"}', "Connection: close")


def signed(raw: bytes, secret: str = SECRET) -> dict[str, str]:
    """As Meta signs an event."""
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()}


def call(event: str, call_id: str = "wacid.1", **more: Any) -> dict[str, Any]:
    told = {"id": call_id, "from": "14155550100", "to": "14155550199", "event": event, **more}
    if event == "connect":
        told["session"] = {"sdp": "v=0\r\n", "sdp_type": "offer"}
    return told


def event(*calls: dict[str, Any], **value: Any) -> dict[str, Any]:
    """What Meta sends."""
    inside = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, **value}
    if calls:
        inside["calls"] = list(calls)
    changes = [{"field": "calls", "value": inside}]
    return {"object": "whatsapp_business_account", "entry": [{"id": "0", "changes": changes}]}


async def agrees(agent: Agent, heard: AgentCall) -> None:
    """As an agent should: takes the event, and says so at once."""
    heard.body = await body_of(heard)  # type: ignore[attr-defined]
    heard.send(AGREES)
    heard.half_close()
    agent.calls.put_nowait(heard)


def answers(status: int, body: str = "{}") -> Any:
    async def answer(agent: Agent, heard: AgentCall) -> None:
        heard.body = await body_of(heard)  # type: ignore[attr-defined]
        heard.send(answer_of(status, body, "Connection: close"))
        heard.half_close()
        agent.other_calls.put_nowait(heard)

    return answer


async def next_whatsapp_event(agent: Agent) -> AgentCall:
    found = await agent.call()
    assert found.path == "/whatsapp"
    return found


async def send_event(url: str, body: Any, **headers: str) -> HttpAnswer:
    """Meta tells of something."""
    raw = json.dumps(body).encode()
    return await send(url, raw=raw, **(signed(raw) | headers))
