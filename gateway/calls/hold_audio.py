# SPDX-License-Identifier: BSD-2-Clause
"""The audio that a caller hears while there is no agent to talk to: ringback, a recording, or nothing.

`HoldAudioLibrary` has the clips of a worker's agents. A `HoldAudio` plays them to one caller, from the
opening of the stream until the agent's first sound. What the caller says meanwhile is buffered for the
agent, if its `keep_early_audio` asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.audio.clips import AudioClip, AudioSource, ClipCache
from gateway.audio.prompt import Prompt, read_prompt
from gateway.audio.tones import ToneName
from gateway.config import AgentSettings
from gateway.config.call_handling import Recording, Ringback
from gateway.media.audio_player import WAIT_S, AudioPlayer
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from serializers.dialect import Dialect, DialectError
from serializers.events import Start

MEDIA_EVENT: Final = "media"
"""The event of every carrier's audio messages (docs/reference/carriers.md §2.2, §3.2, §4.2, §5.2)."""

SILENCE_WAIT_S: Final = 1.0
"""How long after the opening silence begins, which only keeps a call alive.

Such a call ends after 1.6 s without audio (docs/reference/carriers.md §3.3).
"""


class HoldAudio:
    """The hold audio of one stream of one call."""

    __slots__ = ("_dialect", "_leg", "_library", "_limit_s", "_player", "_plays_on_relay", "_start")

    def __init__(self, library: HoldAudioLibrary, leg: Leg, dialect: Dialect, start: Start) -> None:
        """`leg` is the carrier's, and `start` the event that opened its stream."""
        self._library = library
        self._leg: Leg | None = leg
        self._dialect = dialect
        self._start = start
        self._player: AudioPlayer | None = None
        self._limit_s = 0.0
        self._plays_on_relay = False

    @property
    def is_audible(self) -> bool:
        """Whether the caller hears something now."""
        return self._player is not None and self._player.has_played

    def start(self, agent: AgentSettings, *, answered: bool) -> None:
        """Play the agent's hold audio, soon. `answered`: an outbound call; it must not hear ringback."""
        assert self._leg is not None
        self._limit_s = agent.hold_limit
        clip = self._library.clip_of(agent, self._dialect, self._start, answered=answered)
        if clip is not None:
            wait_s = SILENCE_WAIT_S if clip.is_silent else WAIT_S
            self._player = AudioPlayer(self._leg, self._dialect, self._start, clip, wait_s=wait_s)
        self._buffer_speech(agent.keep_early_audio)

    def resume(self, agent: AgentSettings, *, audible: bool, answered: bool) -> None:
        """Play on another stream of a call whose agent is connected, until the agent speaks.

        `audible`: the caller heard the agent's hold audio on the earlier stream, so it goes on; otherwise
        only silence is sent, if the carrier needs it to keep the call alive. `answered`: see `start`.
        """
        assert self._leg is not None
        self._plays_on_relay = True
        self._limit_s = agent.hold_limit
        library, dialect, start = self._library, self._dialect, self._start
        if audible:
            clip = library.clip_of(agent, dialect, start, answered=answered)
        else:
            clip = library.silence(dialect, start)
        if clip is not None:
            wait_s = SILENCE_WAIT_S if clip.is_silent else 0
            self._player = AudioPlayer(self._leg, dialect, start, clip, wait_s=wait_s)

    def discard_speech(self) -> None:
        """Discard what the caller says while the call is in a queue, because it is meant for no agent."""
        self._buffer_speech(0)

    def keep_speech(self, agent: AgentSettings) -> None:
        """Buffer what the caller says from now on: the call has a slot with this agent."""
        self._limit_s = agent.hold_limit
        self._buffer_speech(agent.keep_early_audio)

    def move_to(self, relay: Relay) -> None:
        """Go on playing through the relay. Call it before the relay starts.

        A clip that is audible goes on; one that has not begun to play does not begin any more.
        """
        self._leg = None
        if self._player is not None and (self._player.has_played or self._plays_on_relay):
            self._player.move_to(relay.carrier, limit_s=self._limit_s)
        else:
            self.stop()

    def stop(self, *, before_message: bool = False) -> None:
        """Stop playing; the carrier discards what it has not played. See AudioPlayer.stop."""
        if self._player is not None:
            self._player.stop(before_message=before_message)
            self._player = None

    async def play(self, recording: Recording) -> None:
        """Play a recording once, to its end, in place of the hold audio. For a call that is not bridged."""
        self.stop()
        clip = self._library.recording(recording, self._dialect, self._start)
        if clip is not None and self._leg is not None:
            self._player = AudioPlayer(self._leg, self._dialect, self._start, clip, wait_s=0, repeats=False)
            await self._player.finished

    def _buffer_speech(self, seconds: float | None) -> None:
        if self._leg is not None:
            max_frames = None if seconds is None else round(seconds * 1000 / self._dialect.frame_ms)
            self._leg.limit_buffered_audio(
                max_frames, lambda message: self._dialect.event_of(message) == MEDIA_EVENT
            )


class HoldAudioLibrary:
    """The hold audio of one worker's agents, decoded once and encoded once for each codec."""

    def __init__(self, agents: Iterable[AgentSettings]) -> None:
        """Read the agents' recordings. Raises PromptError if one cannot be played."""
        recordings = {
            value
            for agent in agents
            for value in (agent.hold, agent.overflow, agent.fallback)
            if isinstance(value, Recording)
        }
        self._prompts = {recording: read_prompt(Path(recording.file)) for recording in recordings}
        self._clips = ClipCache()

    def clip_of(
        self, agent: AgentSettings, dialect: Dialect, start: Start, *, answered: bool
    ) -> AudioClip | None:
        """Return what the agent's callers hear, or None for nothing, as in a codec without an encoder here.

        `answered`: an outbound call, which hears no ringback.
        """
        source: AudioSource = None
        if isinstance(agent.hold, Recording):
            source = self._prompt(agent.hold)
        elif isinstance(agent.hold, Ringback) and not answered:
            source = ringback_of(agent)
        elif not dialect.needs_audio:
            return None
        return self._clip(source, dialect, start)

    def silence(self, dialect: Dialect, start: Start) -> AudioClip | None:
        """Return the silence that keeps a call alive, or None if the carrier needs no audio."""
        return self._clip(None, dialect, start) if dialect.needs_audio else None

    def recording(self, recording: Recording, dialect: Dialect, start: Start) -> AudioClip | None:
        """Return a recording in the call's codec, or None if there is no encoder for it here."""
        return self._clip(self._prompt(recording), dialect, start)

    def _clip(self, source: AudioSource, dialect: Dialect, start: Start) -> AudioClip | None:
        try:
            return self._clips.clip(source, dialect, start)
        except DialectError:
            return None

    def _prompt(self, recording: Recording) -> Prompt:
        if recording not in self._prompts:  # of an agent in the store, which was not known at the start
            self._prompts[recording] = read_prompt(Path(recording.file))
        return self._prompts[recording]


def ringback_of(agent: AgentSettings) -> ToneName:
    """Return the ringback that the agent's callers know from their own network."""
    if agent.hold_tone != "auto":
        return agent.hold_tone
    if agent.region.startswith("eu"):
        return "eu"
    return "in" if agent.region == "ap-south" or agent.region.startswith("in-") else "us"
