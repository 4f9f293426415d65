# SPDX-License-Identifier: BSD-2-Clause
"""What a far end's leaving means for the call."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames


@dataclass(frozen=True, slots=True)
class Disconnect:
    """How a far end left. `code` is its close code, ABNORMAL where there was no close frame.

    `offence`: the close code that is due to a far end that broke the protocol, else None.
    """

    code: int
    reason: str = ""
    offence: int | None = None

    @property
    def clean(self) -> bool:
        """Whether it left as one leaves."""
        return self.code in (frames.NORMAL_CLOSURE, frames.GOING_AWAY, frames.NO_STATUS)

    @property
    def said(self) -> bool:
        """Whether it gave a code, which may be passed on."""
        return self.offence is None and self.code not in (frames.NO_STATUS, frames.ABNORMAL)

    @property
    def detail(self) -> str:
        """What it said, for the operator; nothing where it said nothing."""
        if self.offence is not None:
            return self.reason
        if self.code == frames.ABNORMAL:
            return ""
        if self.code == frames.NO_STATUS:
            return "closed without a code"
        return f"closed with {self.code}" + (f": {self.reason}" if self.reason else "")


CONNECTION_LOST = Disconnect(frames.ABNORMAL)
"""The connection was lost."""


def reason_for_carrier(gone: Disconnect) -> CallEnded:
    """The call's end where the carrier's side left first."""
    if gone.offence == frames.MESSAGE_TOO_BIG:
        reason = Reasons.too_large
    elif gone.offence is not None:
        reason = Reasons.carrier_protocol_error
    else:
        reason = Reasons.caller_hangup if gone.clean else Reasons.carrier_lost
    return CallEnded(reason, gone.detail)


def reason_for_agent(gone: Disconnect) -> CallEnded:
    """The call's end where the agent's side left first."""
    if gone.offence is not None:
        reason = Reasons.agent_protocol_error
    elif gone.clean:
        reason = Reasons.agent_ended
    else:
        reason = Reasons.agent_lost if gone.code == frames.ABNORMAL else Reasons.agent_failed
    return CallEnded(reason, gone.detail)
