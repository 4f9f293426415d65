# SPDX-License-Identifier: BSD-2-Clause
"""Another media stream for a call whose carrier was lost: docs/sockets.md.

    the carrier is lost → the agent's leg is buffered → the carrier opens another stream → it is attached

The first socket may only seem to be open: then the arrival of the second one shows that it is dead. In either
case the relay has released the agent's leg before, and what the agent says meanwhile is buffered on that leg.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from gateway.calls.services import CallServices
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from serializers.events import Start

POLL_S: Final = 0.1
"""How often a call that waits for a stream looks whether it still may wait."""


class CarrierReconnect:
    """The data of a bridged call by which it can continue on another stream of its carrier.

    `agent_stream_id`: the stream's id as the agent knows it. `times`: how often a stream was attached.
    `carrier_has_ended`: the carrier has reported the end of the call, so no stream will come.
    `leg`: of the stream that was attached and is not bridged yet; None if there is none.
    `replaces_open`: whether another stream may replace one that is not lost.
    `start`: the opening of the latest stream; None for a generic client.
    """

    __slots__ = (
        "_attached",
        "_notice",
        "_requested_agent",
        "agent_stream_id",
        "carrier_has_ended",
        "leg",
        "replaces_open",
        "start",
        "times",
    )

    def __init__(self, requested_agent: AgentSettings, start: Start | None, *, replaces_open: bool) -> None:
        """`requested_agent`: whom the call was for, even if it overflowed to another agent."""
        self._requested_agent = requested_agent.service_host
        self._attached: asyncio.Event | None = None  # exists while the call waits or a stream is attached
        self._notice: asyncio.Task[None] | None = None
        self.agent_stream_id = start.stream_id if start is not None else None
        self.carrier_has_ended = False
        self.leg: Leg | None = None
        self.replaces_open = replaces_open
        self.start = start
        self.times = 0

    def accepts(self, agent: str, start: Start | None) -> bool:
        """Return True if a stream for `agent` (AGENT.ORG) can continue the call: same agent, same codec."""
        if self.leg is not None or agent != self._requested_agent:
            return False
        if start is None or self.start is None:
            return start is self.start
        return start.audio == self.start.audio

    def attach(self, leg: Leg, start: Start | None) -> None:
        """Attach the leg of another stream, whose opening was read."""
        self.leg = leg
        self.start = start
        self._attached = self._attached or asyncio.Event()
        self._attached.set()

    def take_leg(self) -> Leg:
        """Return the attached leg, which belongs to the caller of this from now on."""
        assert self.leg is not None, "no stream is attached"
        leg, self.leg = self.leg, None
        return leg

    async def wait_for_stream(
        self, services: CallServices, session_id: str, relay: Relay, lost: CallEnded
    ) -> None:
        """Wait until another stream is attached. `relay` is the one that ended, with `lost`.

        Raises CallEnded: the reason of `lost` if no stream comes in time, max_duration.
        """
        attached = self._attached = self._attached or asyncio.Event()
        try:
            if not attached.is_set():
                timeout_s = services.settings.limits.reconnect_timeout
                self._notice = asyncio.create_task(_announce(services, session_id, attached, timeout_s))
                await _wait(attached, relay, lost, timeout_s)
            self.times += 1
        finally:
            attached.set()  # this ends the announcement, too
            self._attached = None


async def wait_message_end(agent: Leg, timeout_s: float) -> None:
    """Wait for the end of a message of which the lost carrier has got the beginning.

    Raises CallEnded(agent_stalled).
    """
    try:
        async with asyncio.timeout(timeout_s):
            await agent.wait_message_end()
    except TimeoutError:
        raise CallEnded(Reasons.agent_stalled, f"half a message for {timeout_s:g} s") from None


async def _wait(attached: asyncio.Event, relay: Relay, lost: CallEnded, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not attached.is_set():
        now = loop.time()
        if now >= relay.end_by:
            raise CallEnded(Reasons.max_duration, f"{relay.limits.max_duration_s:g} s")
        if now >= deadline:
            raise CallEnded(lost.reason, f"{lost.detail}, and no other came within {timeout_s:g} s")
        with suppress(TimeoutError):
            async with asyncio.timeout(min(POLL_S, deadline - now, relay.end_by - now)):
                await attached.wait()


async def _announce(
    services: CallServices, session_id: str, attached: asyncio.Event, timeout_s: float
) -> None:
    """Let every worker know that the call waits for a stream, until `attached` is set.

    A worker that writes the next document of this call needs to know it (gateway/api/webhooks/documents.py).
    """
    with suppress(StoreFailed):
        await services.streams.mark_lost(session_id, timeout_s)
        await attached.wait()
        await services.streams.unmark_lost(session_id)
