# SPDX-License-Identifier: BSD-2-Clause
"""Connects a session to its agent's media socket (agent-container.md, `WS /ws`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from gateway.media.dial import dial
from gateway.media.ends import Gone
from gateway.media.leg import Leg

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

SESSION_HEADER = "x-daily-session-id"
RESUMED_HEADER = "x-patchbay-resumed"
"""Which replacement of a lost agent this one is, counted from 1; no header for the first agent."""


async def connect_agent(
    board: Switchboard,
    instance: str,
    session_id: str,
    body: str | None,
    *,
    resumed: int = 0,
    on_gone: Callable[[Gone], None],
) -> Leg:
    """The held leg of an agent on `instance`, once that is ready; the caller bounds the wait.

    Raises CallEnd: agent_unreachable, overloaded.
    """
    await board.probes.wait_until_started(instance)
    query = f"?body={quote(body, safe='')}" if body else ""
    headers = {SESSION_HEADER: session_id}
    if resumed:
        headers[RESUMED_HEADER] = str(resumed)
    limits = board.settings.limits
    return await dial(
        f"ws{instance.removeprefix('http')}/ws{query}",
        headers,
        max_message_bytes=limits.max_message_bytes,
        early_bytes=limits.max_early_bytes,
        on_gone=on_gone,
    )
