# SPDX-License-Identifier: BSD-2-Clause
"""The audio that a caller hears while there is no agent to talk to: ringback, a recording, or nothing.

`HoldAudioLibrary` has the clips of a worker's agents. A `HoldAudio` plays them to one caller, from the
opening of the stream until the agent's first sound. What the caller says meanwhile is buffered for the
agent, if its `keep_early_audio` asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
from serializers.events import AudioFormat, Start

MEDIA_EVENT: Final = "media"
"""The event of every carrier's audio messages (docs/reference/carriers.md §2.2, §3.2, §4.2, §5.2)."""

SILENCE_WAIT_S: Final = 1.0
"""How long after the opening silence begins, which only keeps a call alive.

Such a call ends after 1.6 s without audio (docs/reference/carriers.md §3.3).
"""


@dataclass(frozen=True, slots=True)
class HeldStream:
    """A carrier's stream whose caller waits.

    `start`: the event that opened it. `own_document`: whether the carrier opened it because a document or a
    request of this gateway said so; then it is known what it plays (`Dialect.agent_audio`).
    """

    dialect: Dialect
    start: Start
    own_document: bool = False

    @property
    def agent_audio(self) -> AudioFormat:
        """The format of the agent's sound: the one that is known, else the caller's, as is most likely."""
        return self.dialect.agent_audio(self.start, own_document=self.own_document) or self.start.audio


class HoldAudio:
    """The hold audio of one stream of one call."""

    __slots__ = ("_leg", "_library", "_limit_s", "_player", "_plays_on_relay", "_stream")

    def __init__(self, library: HoldAudioLibrary, leg: Leg, stream: HeldStream) -> None:
        """`leg` is the carrier's."""
        self._library = library
        self._leg: Leg | None = leg
        self._stream = stream
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
        clip = self._library.clip_of(agent, self._stream, answered=answered)
        if clip is not None:
            self._play(clip, wait_s=SILENCE_WAIT_S if clip.is_silent else WAIT_S)
        self._buffer_speech(agent.keep_early_audio)

    def resume(self, agent: AgentSettings, *, audible: bool, answered: bool) -> None:
        """Play on another stream of a call whose agent is connected, until the agent speaks.

        `audible`: the caller heard the agent's hold audio on the earlier stream, so it goes on; otherwise
        only silence is sent, if the carrier needs it to keep the call alive. `answered`: see `start`.
        """
        assert self._leg is not None
        self._plays_on_relay = True
        self._limit_s = agent.hold_limit
        if audible:
            clip = self._library.clip_of(agent, self._stream, answered=answered)
        else:
            clip = self._library.silence(self._stream)
        if clip is not None:
            self._play(clip, wait_s=SILENCE_WAIT_S if clip.is_silent else 0)

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
        clip = self._library.recording(recording, self._stream)
        if clip is not None and self._leg is not None:
            await self._play(clip, wait_s=0, repeats=False).finished

    def _play(self, clip: AudioClip, *, wait_s: float, repeats: bool = True) -> AudioPlayer:
        assert self._leg is not None
        stream = self._stream
        self._player = AudioPlayer(
            self._leg, stream.dialect, stream.start, clip, wait_s=wait_s, repeats=repeats
        )
        return self._player

    def _buffer_speech(self, seconds: float | None) -> None:
        if self._leg is not None:
            dialect = self._stream.dialect
            max_frames = None if seconds is None else round(seconds * 1000 / dialect.frame_ms)
            self._leg.limit_buffered_audio(
                max_frames, lambda message: dialect.event_of(message) == MEDIA_EVENT
            )


class HoldAudioLibrary:
    """The hold audio of one worker's agents, decoded once and encoded once for each codec."""

    def __init__(self, agents: Iterable[AgentSettings]) -> None:
        """Read the agents' recordings. Raises PromptError if one cannot be played."""
        self._prompts = read_recordings(agents)
        self._clips = ClipCache()

    def replace(self, prompts: Mapping[Recording, Prompt]) -> None:
        """Play these recordings from now on; a clip that is playing is played to its end."""
        for recording, prompt in list(self._prompts.items()):
            new = prompts.get(recording)
            if new is None or (new.pcm, new.sample_rate) != (prompt.pcm, prompt.sample_rate):
                self._clips.forget(self._prompts.pop(recording))
        self._prompts = {**prompts, **self._prompts}

    def clip_of(self, agent: AgentSettings, stream: HeldStream, *, answered: bool) -> AudioClip | None:
        """Return what the agent's callers hear, or None for nothing.

        In a codec that is not known, or has no encoder here, that is silence if the carrier needs audio and
        there is any in that codec. `answered`: an outbound call, which hears no ringback.
        """
        source: AudioSource = None
        if isinstance(agent.hold, Recording):
            source = self._prompt(agent.hold)
        elif isinstance(agent.hold, Ringback) and not answered:
            source = ringback_of(agent)
        clip = None if source is None else self._clip(source, stream)
        return clip or self.silence(stream)

    def silence(self, stream: HeldStream) -> AudioClip | None:
        """Return the silence that keeps a call alive, or None if the carrier needs no audio."""
        return self._clip(None, stream) if stream.dialect.needs_audio else None

    def recording(self, recording: Recording, stream: HeldStream) -> AudioClip | None:
        """Return a recording in the stream's codec, or None if that is not known or has no encoder here."""
        return self._clip(self._prompt(recording), stream)

    def _clip(self, source: AudioSource, stream: HeldStream) -> AudioClip | None:
        try:
            return self._clips.clip(source, stream.dialect, stream.start, own_document=stream.own_document)
        except DialectError:
            return None

    def _prompt(self, recording: Recording) -> Prompt:
        if recording not in self._prompts:  # of an agent in the store, which was not known at the start
            self._prompts[recording] = read_prompt(Path(recording.file))
        return self._prompts[recording]


def read_recordings(agents: Iterable[AgentSettings]) -> dict[Recording, Prompt]:
    """Read the recordings of all agents. Raises PromptError if one cannot be played."""
    recordings = {
        value
        for agent in agents
        for value in (agent.hold, agent.overflow, agent.fallback)
        if isinstance(value, Recording)
    }
    return {recording: read_prompt(Path(recording.file)) for recording in recordings}


def ringback_of(agent: AgentSettings) -> ToneName:
    """Return the ringback that the agent's callers know from their own network."""
    if agent.hold_tone != "auto":
        return agent.hold_tone
    if agent.region.startswith("eu"):
        return "eu"
    return "in" if agent.region == "ap-south" or agent.region.startswith("in-") else "us"
