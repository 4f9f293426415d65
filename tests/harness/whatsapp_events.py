# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp: Meta's events (docs/reference/carriers.md §7), and agents that answer them."""

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
    """Return the header with which Meta signs an event."""
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()}


def call(event: str, call_id: str = "wacid.1", **more: Any) -> dict[str, Any]:
    """Return one call of an event."""
    content = {"id": call_id, "from": "14155550100", "to": "14155550199", "event": event, **more}
    if event == "connect":
        content.setdefault("session", {"sdp": "v=0\r\n", "sdp_type": "offer"})
    return content


def outbound_call(event: str, call_id: str = "wacid.out", **more: Any) -> dict[str, Any]:
    """Return one event of a call that the agent placed; `connect` has the called party's answer."""
    if event == "connect":
        more.setdefault("session", {"sdp": "v=0\r\n", "sdp_type": "answer"})
    return call(event, call_id, direction="BUSINESS_INITIATED", **more)


def event(*calls: dict[str, Any], **value: Any) -> dict[str, Any]:
    """Return Meta's event for calls."""
    inside = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, **value}
    if calls:
        inside["calls"] = list(calls)
    changes = [{"field": "calls", "value": inside}]
    return {"object": "whatsapp_business_account", "entry": [{"id": "0", "changes": changes}]}


async def agrees(agent: Agent, request: AgentCall) -> None:
    """Accept the event, and answer at once, as an agent should."""
    request.body = await body_of(request)  # type: ignore[attr-defined]
    request.send(AGREES)
    request.half_close()
    agent.calls.put_nowait(request)


def answers(status: int, body: str = "{}") -> Any:
    """Return an answer with this status."""

    async def answer(agent: Agent, request: AgentCall) -> None:
        request.body = await body_of(request)  # type: ignore[attr-defined]
        request.send(answer_of(status, body, "Connection: close"))
        request.half_close()
        agent.other_calls.put_nowait(request)

    return answer


async def next_whatsapp_event(agent: Agent) -> AgentCall:
    """Wait for the next event that the agent accepts."""
    request = await agent.call()
    assert request.path == "/whatsapp"
    return request


async def send_event(url: str, body: Any, **headers: str) -> HttpAnswer:
    """Send an event as Meta does."""
    raw = json.dumps(body).encode()
    return await send(url, raw=raw, **(signed(raw) | headers))
