# SPDX-License-Identifier: BSD-2-Clause
"""How a far end left, and the call's end that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames


@dataclass(frozen=True, slots=True)
class Disconnect:
    """How a far end left (RFC 6455 §7.1.5 and §7.1.6)."""

    code: int
    """Its close code; NO_STATUS for a close frame without one, ABNORMAL if there was no close frame."""
    reason: str = ""
    violation_code: int | None = None
    """The close code due to a far end that broke the protocol; None for every other."""
    has_ended: bool = False
    """Whether the far end ended its stream in order (a TCP FIN), though it sent no close frame."""

    @property
    def is_clean(self) -> bool:
        """Whether the far end closed as one does at the end of a call."""
        return self.code in (frames.NORMAL_CLOSURE, frames.GOING_AWAY, frames.NO_STATUS)

    @property
    def has_code(self) -> bool:
        """Whether the far end sent a close code, which may be passed on to the other side."""
        return self.violation_code is None and self.code not in (frames.NO_STATUS, frames.ABNORMAL)

    @property
    def detail(self) -> str:
        """The far end's close code and reason, in words for the operator; empty for a lost connection."""
        if self.violation_code is not None:
            return self.reason
        if self.code == frames.ABNORMAL:
            return ""
        if self.code == frames.NO_STATUS:
            return "closed without a code"
        return f"closed with {self.code}" + (f": {self.reason}" if self.reason else "")


CONNECTION_LOST = Disconnect(frames.ABNORMAL)
"""The connection was lost without a close frame."""

CONNECTION_ENDED = Disconnect(frames.ABNORMAL, has_ended=True)
"""The far end ended the connection in order, without a close frame: its process ended, or left this call."""


class AgentDisconnected(CallEnded):
    """The end of a call whose agent ended its connection without a close frame.

    It is the agent's own end if the instance still answers, and a loss if not (docs/resume.md). Until that
    is known it counts as a loss.
    """

    def __init__(self) -> None:
        super().__init__(Reasons.agent_lost)


def agent_left() -> CallEnded:
    """Return the end of a call whose agent ended its connection, while its instance still answers."""
    return CallEnded(Reasons.agent_ended, "it ended its connection without a close frame")


def agent_died() -> CallEnded:
    """Return the end of a call whose agent ended its connection, and whose instance does not answer."""
    return CallEnded(Reasons.agent_lost, "its connection ended, and the instance does not answer")


def disconnect_of(exc: Exception | None) -> Disconnect:
    """Return how a far end left, from what a protocol's `connection_lost` was given.

    A write that failed with EPIPE says that the far end had ended its stream before.
    """
    return CONNECTION_ENDED if exc is None or isinstance(exc, BrokenPipeError) else CONNECTION_LOST


def reason_for_carrier(disconnect: Disconnect) -> CallEnded:
    """Return the call's end if the carrier's side leaves first."""
    if disconnect.violation_code == frames.MESSAGE_TOO_BIG:
        reason = Reasons.too_large
    elif disconnect.violation_code is not None:
        reason = Reasons.carrier_protocol_error
    else:
        reason = Reasons.caller_hangup if disconnect.is_clean else Reasons.carrier_lost
    return CallEnded(reason, disconnect.detail)


def reason_for_agent(disconnect: Disconnect) -> CallEnded:
    """Return the call's end if the agent's side leaves first."""
    if disconnect.violation_code is not None:
        reason = Reasons.agent_protocol_error
    elif disconnect.is_clean:
        reason = Reasons.agent_ended
    elif disconnect.has_ended:
        return AgentDisconnected()
    elif disconnect.code == frames.ABNORMAL:
        reason = Reasons.agent_lost
    else:
        reason = Reasons.agent_failed
    return CallEnded(reason, disconnect.detail)
