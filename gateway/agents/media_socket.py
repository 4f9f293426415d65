# SPDX-License-Identifier: BSD-2-Clause
"""The connection of a session to its agent's media socket (docs/reference/agent-container.md, `WS /ws`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from websockets.uri import WebSocketURI, parse_uri

from gateway.agents.instance_health import InstanceHealth
from gateway.config import AgentSettings, Limits
from gateway.config.agent_paths import PLACEHOLDER
from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.outgoing_leg import connect_leg_with
from serializers.translation.translator import Translator

SESSION_HEADER = "x-daily-session-id"
RESUMED_HEADER = "x-patchbay-resumed"
"""The number of agents that the call has lost so far; the first agent gets no such header."""

MAX_CACHED: Final = 1024
"""Instances whose URLs are parsed once, and media paths whose patterns are made once."""


@dataclass(frozen=True, slots=True)
class MediaTarget:
    """The request for a call's media socket.

    `path`: with its escapes. `query`: without the question mark; "" for none. `is_shared`: other calls of the
    agent have the same path. `headers`: instead of those of an agent of one's own.
    """

    path: str
    query: str
    is_shared: bool = True
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def uri(self, instance: str) -> WebSocketURI:
        """Return the URL for a call on the instance."""
        if not self.is_shared:
            return replace(_uri(instance, ""), path=self.path, query=self.query)
        uri = _uri(instance, self.path)
        return replace(uri, query=self.query) if self.query else uri


def media_target(
    agent: AgentSettings, query: str, *, session_id: str, carrier: str, call_id: str | None
) -> MediaTarget:
    """Return the request for the media socket of a call, with the placeholders of `media_path` filled in.

    `carrier`: as in the path of the carrier's own socket. `call_id`: None for a client that names no call.
    """
    path = agent.media_path
    is_shared = "{" not in path
    if not is_shared:
        is_hidden = agent.hide_call_id or call_id is None or not call_id.strip(".")  # no segment . or ..
        call = session_id if is_hidden else call_id
        values = {"session": session_id, "carrier": carrier, "call_id": call}
        path = PLACEHOLDER.sub(lambda match: quote(str(values[match[1]]), safe=""), path)
    return MediaTarget(path, query, is_shared)


def is_media_path(media_path: str, names: list[str]) -> bool:
    """Return True if a path is that of a media socket, whatever its placeholders stand for, or below it.

    `names`: of the path's segments, decoded and in small letters, without empty ones.
    """
    pattern = _segments(media_path)
    if len(names) < len(pattern) or not all(map(re.Pattern.fullmatch, pattern, names)):
        return False
    # A path of which anything can be the beginning has nothing below it: everything would be.
    return len(names) == len(pattern) or (bool(pattern) and not media_path.startswith("/{"))


@lru_cache(MAX_CACHED)
def _segments(media_path: str) -> tuple[re.Pattern[str], ...]:
    # What follows a semicolon is cut off of both: some servers do.
    parts = [part.partition(";")[0] for part in media_path.split("/") if part]
    literals = [PLACEHOLDER.split(part)[::2] for part in parts]
    return tuple(
        re.compile(".*".join(re.escape(unquote(literal).lower()) for literal in each), re.DOTALL)
        for each in literals
    )


@lru_cache(MAX_CACHED)
def _uri(instance: str, path: str) -> WebSocketURI:
    return replace(parse_uri(f"ws{instance.removeprefix('http')}"), path=path)


async def connect_agent(
    health: InstanceHealth,
    limits: Limits,
    instance: str,
    session_id: str,
    target: MediaTarget,
    *,
    resumed: int = 0,
    on_disconnect: Callable[[Disconnect], None],
    translator: Translator | None = None,
) -> Leg:
    """Connect to the agent on `instance` once that is ready. Bound the wait with `asyncio.timeout`.

    Returns the agent's leg, which keeps what it receives until a relay takes it over. `resumed`: the number
    of agents that the call has lost. `translator`: see `connect_leg_with`.

    Raises CallEnded: agent_unreachable, overloaded.
    """
    await health.wait_until_started(instance)
    headers = {SESSION_HEADER: session_id}
    if resumed:
        headers[RESUMED_HEADER] = str(resumed)
    leg, _ = await connect_leg_with(
        target.uri(instance),
        target.headers or headers.items(),
        max_message_bytes=limits.max_message_bytes,
        max_buffered_bytes=limits.max_early_bytes,
        on_disconnect=on_disconnect,
        translator=translator,
    )
    health.mark_connected(instance)
    return leg
