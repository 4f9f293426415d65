# SPDX-License-Identifier: BSD-2-Clause
"""A call before it is bridged, and what its bridge is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.calls.active import ActiveCall
from gateway.calls.authorization import NO_CREDENTIALS, Credentials
from gateway.calls.command_bus import QUESTIONS, CallCommand
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.remote_call import RemoteCall
from gateway.calls.stream_ownership import StreamOwnership
from gateway.config import AgentSettings, Limits
from gateway.media.leg import Leg
from gateway.media.relay_options import RelayLimits
from gateway.model.reasons import CallEnded
from gateway.model.session import Traffic
from gateway.websocket import frames
from serializers.dialect import Dialect
from serializers.events import Start


class CallSetup:
    """One call in the states before `bridged`: the legs that are open, and what the steps have learned.

    `credentials`: what the upgrade proved. `continued`: the call that goes on with this one's socket, for a
    media token that was used before. `ownership`: of the carrier's stream, for a call with a call
    token. `instance`: the URL of the instance whose slot was acquired, "" before.
    `only_continues`: the worker drains, and takes this socket for a call that it has, or not at all.
    `max_duration_s`, `idle_timeout_s`: as requested for the session when it was created, None for the
    agent's. `command`: what is about to be done with the carrier's call. `carrier_has_ended`: the carrier has
    reported the end of the call, so no other stream will come.
    """

    __slots__ = (
        "agent_leg",
        "carrier_has_ended",
        "carrier_leg",
        "command",
        "continued",
        "credentials",
        "hold_audio",
        "idle_timeout_s",
        "instance",
        "max_duration_s",
        "only_continues",
        "ownership",
    )

    was_bridged: Final = False
    first_sound_at: Final[float | None] = None
    agent_lost_at: Final[float | None] = None
    is_telephony: Final = False  # asked of a call alone whose agent was connected

    def __init__(self) -> None:
        self.carrier_leg: Leg | None = None
        self.agent_leg: Leg | None = None
        self.hold_audio: HoldAudio | None = None
        self.instance = ""
        self.credentials: Credentials = NO_CREDENTIALS
        self.continued: ActiveCall | RemoteCall | None = None
        self.ownership: StreamOwnership | None = None
        self.max_duration_s: float | None = None
        self.only_continues = False
        self.idle_timeout_s: float | None = None
        self.command: CallCommand | None = None
        self.carrier_has_ended = False

    @property
    def is_admitted(self) -> bool:
        """Whether the session has its slot already, as that of an outbound call has when its stream comes."""
        return self.ownership is not None and self.ownership.is_admitted

    @property
    def is_dialed(self) -> bool:
        """Whether the session is an outbound call's."""
        return self.ownership is not None and self.ownership.is_admitted and not self.ownership.is_awaited

    @property
    def traffic(self) -> Traffic:
        """The traffic on the carrier's leg."""
        scanner = self.carrier_leg.scanner if self.carrier_leg is not None else None
        return Traffic(frames_in=scanner.frames, bytes_in=scanner.bytes) if scanner else Traffic()

    def handle(self, command: CallCommand) -> bool:
        """Take note of a command: there is no relay yet that it could change. False if it is a question."""
        if command is CallCommand.CARRIER_ENDED:
            self.carrier_has_ended = True
        elif command in QUESTIONS or command in (CallCommand.HOLD, CallCommand.RESUME):
            return False  # nobody has said anything yet
        elif command is not CallCommand.CHECK_CARRIER:
            self.command = None if command is CallCommand.REVOKED else command
        return True

    def can_attach(self, agent: str, start: Start | None) -> bool:
        """Return False: a call that is not bridged has nothing to continue on another stream."""
        return False

    def attach_stream(self, leg: Leg, start: Start | None) -> bool:
        """Return False, as `can_attach` does."""
        return False

    def stop_hold_audio(self) -> None:
        """Stop what the caller hears."""
        if self.hold_audio is not None:
            self.hold_audio.stop()

    async def close(self, end: CallEnded, received_close: tuple[int, str] | None) -> None:
        """Close the legs that are open, the agent's first. Does not wait for the far ends."""
        if self.agent_leg is not None:
            self.agent_leg.close(*received_close or (agent_close_code(end), end.public_detail))
        if self.carrier_leg is not None:
            self.carrier_leg.close(*received_close or (end.public_reason.close_code, end.public_detail))

    def release(self) -> None:
        """Drop the legs and the hold audio, which refer back to the call."""
        self.carrier_leg = self.agent_leg = self.hold_audio = self.continued = None


def agent_close_code(end: CallEnded) -> int:
    """Return the close code that an agent gets: it learns only whether the session failed."""
    return frames.INTERNAL_ERROR if end.reason.failed else frames.NORMAL_CLOSURE


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The settings of a bridge, given once the agent is connected and never changed.

    `requested_agent`: the agent that the call was for; `agent`: the agent that has it, another one after an
    overflow. `instance`: the agent's URL. `query`: of the agent's media socket. `dialect`, `start`: None for
    a generic client. `has_media_token`: the call came with a media token, which may open its next socket.
    `max_duration_s`, `idle_timeout_s`: None for the agent's own.
    """

    requested_agent: AgentSettings
    agent: AgentSettings
    instance: str
    query: str
    dialect: Dialect | None
    start: Start | None
    ownership: StreamOwnership | None
    has_media_token: bool
    max_duration_s: float | None
    idle_timeout_s: float | None

    def relay_limits(self, agent: AgentSettings, limits: Limits) -> RelayLimits:
        """Return the limits of a relay to this agent, which is another one after a fail-over."""
        longest_s = agent.max_session_duration
        return RelayLimits(
            max_duration_s=min(self.max_duration_s or longest_s, longest_s),
            idle_s=self.idle_timeout_s or agent.idle_timeout,
            stall_s=limits.stall_timeout,
            close_s=limits.close_timeout,
            max_message_bytes=limits.max_message_bytes,
            ping_s=limits.ping_interval,
            agent_silence_s=limits.agent_silence,
        )
