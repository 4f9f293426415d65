# SPDX-License-Identifier: BSD-2-Clause
"""The calls that are active in this worker, by session id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gateway.calls.command_bus import CallCommand
from gateway.calls.state import CallState
from gateway.calls.termination import Termination
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded
from gateway.model.session import Traffic
from serializers.events import Start


class PassedFrames(Protocol):
    """The numbers of frames that the legs of one call have passed to each other."""

    @property
    def traffic(self) -> Traffic:
        """The frames and bytes of all relays of the call."""

    @property
    def first_sound_at(self) -> float | None:
        """When the agent's first audio passed, in Unix seconds; None if none has."""


class ActiveCall(Protocol):
    """One active call, as everything outside of it sees it."""

    @property
    def session_id(self) -> str:
        """The id of the call's session."""

    @property
    def state(self) -> CallState:
        """The state of the call."""

    @property
    def termination(self) -> Termination:
        """The call's end; setting it interrupts the step that the call is in."""

    @property
    def bridge(self) -> PassedFrames | None:
        """The call's bridge; None before the call is bridged, and for one whose frames pass elsewhere."""

    def handle(self, command: CallCommand) -> bool:
        """Take note of a command for this call.

        Return False if it cannot be followed in the present state.
        """

    def can_attach(self, agent: str, start: Start | None) -> bool:
        """Return True if the call could continue on another stream of its carrier.

        The stream is for `agent` (AGENT.ORG), and `start` opened it; None for a generic client's.
        """

    def attach_stream(self, leg: Leg, start: Start | None) -> bool:
        """Continue on another stream of the carrier, whose opening was read; `start` as in `can_attach`.

        Return False, and leave `leg` unchanged, if the call cannot.
        """


class ActiveCalls:
    """The registry of active calls. It belongs to one worker's event loop."""

    def __init__(self) -> None:
        self.draining = False
        """Whether the worker is about to stop: it accepts no more calls, but the next streams of its own."""
        self._calls: dict[str, list[ActiveCall]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def __iter__(self) -> Iterator[ActiveCall]:
        """Iterate over a copy, because calls may end meanwhile."""
        return iter([call for calls in self._calls.values() for call in calls])

    def add(self, call: ActiveCall) -> None:
        """Register a call under its present session id."""
        self._calls.setdefault(call.session_id, []).append(call)

    def remove(self, call: ActiveCall) -> None:
        """Remove a call, which must still have the session id that it was registered under.

        No effect if it is not registered.
        """
        calls = self._calls.get(call.session_id, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._calls.pop(call.session_id, None)

    def terminate(self, session_id: str, end: CallEnded) -> bool:
        """Set the end of the session's call. Return False if this worker has no such call."""
        call = self.get(session_id)
        if call is not None:
            call.termination.set(end)
        return call is not None

    def get(self, session_id: str) -> ActiveCall | None:
        """Return the session's call, or None.

        For a moment two calls can have one id: a second stream gets the session's id before the store refuses
        it. The call that was registered first is returned.
        """
        calls = self._calls.get(session_id)
        return calls[0] if calls else None
