# SPDX-License-Identifier: BSD-2-Clause
"""Another socket of the carrier's for a call that runs: docs/sockets.md.

    the carrier is lost → the agent's side is held → a second socket of the call comes → (the call couples it)

Where the first socket only seems to live, the second one's coming is what tells. The relay has given the
agent's side back by then; what the agent says meanwhile is kept on it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from gateway.calls.active import ActiveCalls
from gateway.calls.control import hangup_after_playback
from gateway.calls.hidden_call_id import hide_call_id
from gateway.carriers.registry import CARRIERS
from gateway.config import AgentSettings, Limits
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from serializers.dialect import Dialect
from serializers.events import Start
from serializers.transforms import Transform
from texml.document import Redirect

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

LOOK_S: Final = 0.1
"""How often a call that waits sees whether there is any sense in it still."""


class StreamAttached(Exception):  # noqa: N818 - not an error: the socket is another call's now
    """A call has handed its socket over to the one that it continues, and nothing is left of it."""


def may_reconnect(limits: Limits, agent: AgentSettings, carrier: str) -> bool:
    """Whether the carrier may open a second socket for a call, by itself or because a document has it."""
    profile = CARRIERS[carrier].profile
    comes = profile.reconnects or (profile.requests_next_document and isinstance(agent.after, Redirect))
    return comes and limits.reconnect_timeout > 0


class CarrierReconnect:
    """What a running call keeps for the case that its carrier opens another socket for it.

    `agent`: who has the call. `start`: how its latest stream opened. `told`: the stream's id as the agent
    knows it. `times`: how often another socket came. `over`: whether the carrier has said that the call is.
    """

    __slots__ = (
        "_come",
        "_telling",
        "_timeout_s",
        "_wanted",
        "agent",
        "dialect",
        "over",
        "start",
        "times",
        "told",
    )

    def __init__(
        self, wanted: AgentSettings, agent: AgentSettings, dialect: Dialect, start: Start, *, timeout_s: float
    ) -> None:
        """`wanted`: whom the call was for, also where it flowed over to `agent`."""
        self._wanted = wanted.service_host
        self._timeout_s = timeout_s
        self._come: asyncio.Event | None = None
        self._telling: asyncio.Task[None] | None = None
        self.agent = agent
        self.dialect = dialect
        self.start = start
        self.told = start.stream_id
        self.times = 0
        self.over = False

    def fits(self, agent: str, start: Start) -> bool:
        """Whether a stream can go on with this one: for the same `agent` (AGENT.ORG), in the same codec."""
        return agent == self._wanted and start.audio == self.start.audio

    def came(self, start: Start) -> None:
        """The second socket is there, and its opening was read."""
        self.start = start
        self._come = self._come or asyncio.Event()
        self._come.set()

    async def second(
        self, services: CallServices, active: ActiveCalls, session_id: str, relay: Relay, lost: CallEnded
    ) -> None:
        """Waits until it has come. `relay`: the one that is over, by `lost`.

        Raises CallEnded where there is no sense in waiting any longer: `lost`, in more words, or why not.
        """
        come = self._come = self._come or asyncio.Event()
        try:
            if not come.is_set():
                self._telling = asyncio.create_task(self._tell(services, session_id, come))
                await self._wait(active, relay, lost, come)
            self.times += 1
        finally:
            come.set()
            self._come = None

    async def _wait(self, active: ActiveCalls, relay: Relay, lost: CallEnded, come: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        while not come.is_set():
            now = loop.time()
            if active.draining:
                raise CallEnded(Reasons.draining, f"{lost.detail}, and no other is taken any more")
            if now >= relay.end_by:
                raise CallEnded(Reasons.max_duration, f"{relay.limits.max_duration_s:g} s")
            if now >= until:
                raise CallEnded(lost.reason, f"{lost.detail}, and no other came within {self._timeout_s:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, until - now, relay.end_by - now)):
                    await come.wait()

    async def _tell(self, services: CallServices, session_id: str, over: asyncio.Event) -> None:
        """Has all workers know that the call waits, as long as it does: for its document (documents.py)."""
        with suppress(StoreFailed):
            await services.streams.mark_lost(session_id, self._timeout_s)
            await over.wait()
            await services.streams.unmark_lost(session_id)

    def filters(self) -> tuple[Transform, Transform] | None:
        """What agent and carrier are coupled through; None: bytes."""
        if self.told != self.start.stream_id:
            return self.dialect.renaming_transforms(self.told, self.start.stream_id)
        return self.dialect.transforms() if self.agent.media == "messages" else None

    async def whole(self, agent: Leg, timeout_s: float) -> None:
        """Waits for the end of a message of the agent's that the first socket had begun to hear.

        Raises CallEnded(agent_stalled).
        """
        try:
            async with asyncio.timeout(timeout_s):
                await agent.wait_message_end()
        except TimeoutError:
            raise CallEnded(Reasons.agent_stalled, f"half a message for {timeout_s:g} s") from None

    def opening(self, carrier: Leg, session_id: str) -> bytes:
        """The second socket's opening, which the agent has no use for, as another agent would be told it."""
        if self.agent.hide_call_id:
            hide_call_id(carrier, self.dialect, self.start.call_id, session_id)
        return carrier.take_opening()

    async def hang_up(self, services: CallServices) -> None:
        """The agent has ended a call whose carrier has no socket just now: what is done else when it does."""
        farewell = hangup_after_playback(services, self.agent, self.dialect, self.start)
        if farewell is not None:
            await farewell.hang_up()
