# SPDX-License-Identifier: BSD-2-Clause
"""The calls that are running in this worker, by session id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gateway.calls.command_bus import CallCommand
from gateway.calls.termination import Termination
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded
from serializers.events import Start


class ActiveCall(Protocol):
    """One running call, as far as anything outside of it may act on it."""

    @property
    def session_id(self) -> str:
        """The id of the session that the call is."""

    @property
    def termination(self) -> Termination:
        """The call's end; setting it interrupts the step that the call is in."""

    def handle(self, command: CallCommand) -> bool:
        """Take note of a command for this call. False if it cannot be followed in the call's present
        state.
        """

    def can_attach(self, agent: str, start: Start) -> bool:
        """Whether the call could continue on another carrier stream, for `agent` (AGENT.ORG), opened by
        `start`.
        """

    def attach_stream(self, leg: Leg, start: Start) -> bool:
        """Continue on another carrier stream, whose opening was read. False if the call cannot; `leg` is
        unchanged.
        """


class ActiveCalls:
    """The registry of running calls. It belongs to one worker's event loop."""

    def __init__(self) -> None:
        self.draining = False
        """Whether the worker takes no more calls."""
        self._calls: dict[str, list[ActiveCall]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def __iter__(self) -> Iterator[ActiveCall]:
        """Iterate over a copy: calls may end meanwhile."""
        return iter([call for calls in self._calls.values() for call in calls])

    def add(self, call: ActiveCall) -> None:
        """Register a call under its present session id."""
        self._calls.setdefault(call.session_id, []).append(call)

    def remove(self, call: ActiveCall) -> None:
        """Forget a call, which still has the session id it is registered under. No effect if it is not
        there.
        """
        calls = self._calls.get(call.session_id, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._calls.pop(call.session_id, None)

    def terminate(self, session_id: str, end: CallEnded) -> bool:
        """End the call that is this session. False if there is none."""
        call = self.get(session_id)
        if call is not None:
            call.termination.set(end)
        return call is not None

    def get(self, session_id: str) -> ActiveCall | None:
        """Return the call that is this session, or None.

        For a moment two calls can have one id: a second carrier socket becomes the session before the store
        refuses it. The first one registered is returned.
        """
        calls = self._calls.get(session_id)
        return calls[0] if calls else None
