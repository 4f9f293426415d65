# SPDX-License-Identifier: BSD-2-Clause
"""Forwarding of WhatsApp events to an agent's `POST /whatsapp` (docs/reference/agent-container.md)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from operator import itemgetter
from typing import Final

import aiohttp
from starlette.responses import Response

from gateway.agents.instance_health import Health
from gateway.api.framework.operation import Context
from gateway.api.webhooks.deduplication import joined
from gateway.calls.bot_session import NotReady
from gateway.carriers.whatsapp.auth import SIGNATURE
from gateway.config import AgentSettings
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons

JSON: Final = "application/json"
MAX_ANSWER_BYTES: Final = 65_536
"""The longest answer of an agent; Meta ignores it."""
MAX_STATUS: Final = 599


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """An instance's answer."""

    status: int
    content_type: str | None
    body: bytes

    def response(self) -> Response:
        """Return the answer as a response to Meta."""
        return Response(self.body, self.status, media_type=self.content_type)

    @property
    def accepted(self) -> bool:
        """Whether the instance accepted the event."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


async def pass_to_any(context: Context, agent: AgentSettings) -> ForwardResult:
    """Pass an event that is about no call to the instance that is most likely to answer. Raises CallEnded."""
    services = context.services
    failure: CallEnded = NotReady()
    for instance, health in sorted(services.calls.health.ranks(agent.instances), key=itemgetter(1)):
        if health is Health.STARTING:
            continue
        try:
            return await post_within(
                context, services.calls.settings.limits.agent_connect_timeout, instance, None
            )
        except CallEnded as end:
            failure = end
            if end.reason is not Reasons.agent_unreachable:  # else nothing was sent
                break
    raise failure


async def post_within(
    context: Context, timeout_s: float, instance: str, session_id: str | None
) -> ForwardResult:
    """Forward the event as `post` does, within `timeout_s` seconds. Raises CallEnded."""
    try:
        async with asyncio.timeout(timeout_s):
            return await post(context, instance, session_id)
    except TimeoutError:
        raise CallEnded(Reasons.agent_stalled, f"/whatsapp did not answer within {timeout_s:g} s") from None


async def post(context: Context, instance: str, session_id: str | None) -> ForwardResult:
    """Forward the event unchanged to an instance.

    Raises CallEnded if it does not answer. Set a time limit outside.
    """
    given = context.request.headers
    headers = {
        "Content-Type": _printable(given.get("Content-Type")) or JSON,
        "Accept-Encoding": "identity",
        "X-Request-Id": context.request_id,
    }
    if signature := _printable(joined(given, SIGNATURE)):
        headers[SIGNATURE] = signature
    if session_id is not None:
        headers["x-daily-session-id"] = session_id
    services = context.services
    try:
        async with services.http.post(
            f"{instance}/whatsapp", data=context.raw_body, headers=headers, allow_redirects=False
        ) as answer:
            body = await _read(answer)
            services.calls.health.mark_connected(instance)
            if not HTTPStatus.OK <= answer.status <= MAX_STATUS:
                raise CallEnded(Reasons.agent_failed, f"/whatsapp answered {answer.status}")
            return ForwardResult(answer.status, _printable(answer.headers.get("Content-Type")), body)
    except aiohttp.ClientConnectorError as error:
        if is_out_of_resources(error.os_error):
            raise CallEnded(Reasons.overloaded) from None
        services.calls.health.mark_unreachable(instance)
        raise CallEnded(Reasons.agent_unreachable) from None
    except (aiohttp.ClientError, OSError) as error:
        detail = f"the request to /whatsapp broke off: {type(error).__name__}"
        raise CallEnded(Reasons.agent_lost, detail) from None


def _printable(header: str | None) -> str | None:
    return header if header and header.isascii() and header.isprintable() else None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise CallEnded(Reasons.agent_failed, f"/whatsapp answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
