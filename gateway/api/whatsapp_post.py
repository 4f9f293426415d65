# SPDX-License-Identifier: BSD-2-Clause
"""Events of WhatsApp, as they came, to an agent's `POST /whatsapp` (agent-container.md)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
from starlette.responses import Response

from gateway.agents.readiness import Readiness
from gateway.api.known_call import joined
from gateway.api.operation import Context
from gateway.calls.bots import NotReady
from gateway.carriers.meta_proof import SIGNATURE
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.shortage import is_ours

JSON: Final = "application/json"
MAX_ANSWER_BYTES: Final = 65_536
"""Of what the agent answers, which Meta does not read."""
MAX_STATUS: Final = 599


@dataclass(frozen=True, slots=True)
class Told:
    """What an instance answered."""

    status: int
    content_type: str | None
    body: bytes

    def response(self) -> Response:
        """The same, for Meta."""
        return Response(self.body, self.status, media_type=self.content_type)

    @property
    def good(self) -> bool:
        """Whether the instance took it."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


async def pass_to_any(context: Context, agent: AgentSettings) -> Told:
    """What is about no call, to the instance that is most likely to be there. Raises CallEnd."""
    services = context.services
    ranked = sorted(agent.instances, key=services.probes.readiness)
    failure: CallEnd = NotReady()
    for instance in ranked:
        if services.probes.readiness(instance) is Readiness.STARTING:
            continue
        try:
            return await post_within(context, services.settings.limits.agent_connect_timeout, instance, None)
        except CallEnd as end:
            failure = end
            if end.ending is not Endings.agent_unreachable:  # else nothing was sent
                break
    raise failure


async def post_within(context: Context, patience_s: float, instance: str, session_id: str | None) -> Told:
    """The same, for `patience_s` seconds."""
    try:
        async with asyncio.timeout(patience_s):
            return await post(context, instance, session_id)
    except TimeoutError:
        raise CallEnd(Endings.agent_stalled, f"/whatsapp did not answer within {patience_s:g} s") from None


async def post(context: Context, instance: str, session_id: str | None) -> Told:
    """The event, as it came; for as long as the caller lets it. Raises CallEnd."""
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
            if not HTTPStatus.OK <= answer.status <= MAX_STATUS:
                raise CallEnd(Endings.agent_failed, f"/whatsapp answered {answer.status}")
            return Told(answer.status, _printable(answer.headers.get("Content-Type")), body)
    except aiohttp.ClientConnectorError as error:
        if is_ours(error.os_error):
            raise CallEnd(Endings.overloaded) from None
        services.probes.unreachable(instance)
        raise CallEnd(Endings.agent_unreachable) from None
    except (aiohttp.ClientError, OSError) as error:
        words = f"the request to /whatsapp broke off: {type(error).__name__}"
        raise CallEnd(Endings.agent_lost, words) from None


def _printable(header: str | None) -> str | None:
    return header if header and header.isascii() and header.isprintable() else None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise CallEnd(Endings.agent_failed, f"/whatsapp answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
