# SPDX-License-Identifier: BSD-2-Clause
"""The holding sound of a caller while somebody is called who may take the call.

The agent stays connected and hears the caller; whatever it says is heard, and the sound goes on afterwards:

    wait until the caller has heard the agent out → play the agent's `hold` → the agent speaks → …
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from gateway.calls.hold_audio import HeldStream
from gateway.calls.services import CallServices
from gateway.config import AgentSettings
from gateway.media.audio_player import AudioPlayer
from gateway.media.playback_wait import PlaybackMarks
from gateway.media.relay import Relay

LONGEST_S: Final = 300.0
"""How long the sound plays if nobody stops it: longer than a consultation lasts."""


class ConsultationHold:
    """The holding sound on one relay, from its start until `stop`, or the end of the relay."""

    __slots__ = ("_clip", "_dialect", "_player", "_relay", "_start", "_task")

    def __init__(
        self, services: CallServices, agent: AgentSettings, stream: HeldStream, relay: Relay
    ) -> None:
        """Begin. `stream`: the carrier's."""
        # Ringback is right here even if the call was one out: the called person hears somebody else ringing.
        self._clip = services.hold_audio.clip_of(agent, stream, answered=False)
        self._dialect = stream.dialect
        self._start = stream.start
        self._relay = relay
        self._player: AudioPlayer | None = None
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop: the carrier discards what it has not played. May be called again."""
        self._task.cancel()
        self._silence()

    async def _run(self) -> None:
        """Play while the agent is silent. Raises nothing but a cancellation."""
        loop, relay = asyncio.get_running_loop(), self._relay
        marks = PlaybackMarks(self._dialect, self._start)
        until = loop.time() + LONGEST_S
        try:
            while self._clip is not None and not relay.ended.done() and (left_s := until - loop.time()) > 0:
                played: asyncio.Future[None] = loop.create_future()
                relay.finish_playback(marks, left_s, partial(_finish, played))
                await played
                if relay.ended.done():
                    return
                spoken: asyncio.Future[None] = loop.create_future()
                relay.on_next_sound(partial(self._interrupted, spoken))
                self._player = AudioPlayer(relay.carrier, self._dialect, self._start, self._clip, wait_s=0)
                waiting: list[asyncio.Future[Any]] = [spoken, relay.ended]
                await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                self._silence()
        finally:
            relay.on_next_sound(None)
            self._silence()

    def _interrupted(self, spoken: asyncio.Future[None]) -> None:
        """Make room for the agent's message that is about to be passed on."""
        if self._player is not None:
            self._player.stop(before_message=True)
            self._player = None
        _finish(spoken)

    def _silence(self) -> None:
        if self._player is not None:
            self._player.stop()
            self._player = None


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
