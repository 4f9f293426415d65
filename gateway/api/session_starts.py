# SPDX-License-Identifier: BSD-2-Clause
"""Starting a session of the session resource: its words for what starting.py does."""

from __future__ import annotations

from urllib.parse import quote

from gateway.api.operation import Context
from gateway.api.session_models import DailyTransport, NewSession, TransportView
from gateway.api.starting import Begun, Wish, agent_of, begin
from gateway.api.strict_json import dump
from gateway.api.times import rfc3339_or_none
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings


def service_host(agent: str, organization: str) -> str:
    """`AGENT.ORG` of an agent that may be named by its name alone."""
    return agent if "." in agent else f"{agent}.{organization}"


async def start(context: Context, wanted: NewSession) -> tuple[str, TransportView]:
    """Starts what is wanted: the session's id, and how its caller comes to it, secrets included.

    Raises Refusal, CallEnd, StoreFailed; what was made for it is gone then.
    """
    transport = wanted.transport
    rooms = transport if isinstance(transport, DailyTransport) else None
    wish = Wish(
        agent=_agent(context, wanted.agent),
        transport=transport.type,
        body=wanted.body,
        room_properties=rooms.room_properties if rooms else None,
        token_properties=rooms.token_properties if rooms else None,
        metadata=None if wanted.metadata is None else dump(wanted.metadata).decode(),
        idle_timeout=wanted.idle_timeout_seconds,
        max_duration=wanted.max_duration_seconds,
    )
    begun = await begin(context.services, wish, context.request.scope.get("server"))
    return begun.session_id, TransportView(
        type=transport.type,
        url=begun.room_url or _socket_url(begun),
        token=begun.room_token or begun.ws_token,
        expires_at=rfc3339_or_none(begun.expires_at),
    )


def _agent(context: Context, named: str) -> AgentSettings:
    """The agent of the caller's organisation; another's is as unknown as one that is not there."""
    own = context.caller.organization
    name, _, organization = service_host(named, own).partition(".")
    if organization != own:
        raise CallEnd(Endings.unknown_agent, "there is no agent of this name")
    return agent_of(context.services, own, name)


def _socket_url(begun: Begun) -> str | None:
    """Where the socket goes, whole: with the body to which its token is bound."""
    if begun.ws_url is None or begun.body is None:
        return begun.ws_url
    return f"{begun.ws_url}?body={quote(begun.body, safe='')}"
