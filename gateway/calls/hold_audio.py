# SPDX-License-Identifier: BSD-2-Clause
"""What a caller hears while there is nobody to talk to: ringback, the operator's recording, or nothing.

`HoldAudioLibrary` has the sounds of a worker's agents; a `HoldAudio` is one caller's, from the opening of
its stream to the
agent's first sound. What the caller says meanwhile is kept, as far as the agent wants it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.audio.clips import AudioClip, AudioSource, ClipCache
from gateway.audio.prompt import Prompt, read_prompt
from gateway.audio.tones import ToneName
from gateway.config import AgentSettings
from gateway.config.values import RECORDING
from gateway.media.audio_player import WAIT_S, AudioPlayer
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from serializers.dialect import Dialect, DialectError
from serializers.events import Start

SOUND: Final = "media"
"""The event of every carrier's messages with the caller's sound (docs/reference/carriers.md §2.2, §3.2,
§4.2, §5.2).
"""

SILENCE_WAIT_S: Final = 1.0
"""Silence only keeps a call alive, which ends after 1.6 s without anything (docs/reference/carriers.md
§3.3).
"""


class HoldAudio:
    """One caller's."""

    __slots__ = ("_dialect", "_goes_on", "_holding", "_holds", "_leg", "_limit_s", "_start")

    def __init__(self, holds: HoldAudioLibrary, leg: Leg, dialect: Dialect, start: Start) -> None:
        self._holds = holds
        self._leg: Leg | None = leg
        self._dialect = dialect
        self._start = start
        self._holding: AudioPlayer | None = None
        self._limit_s = 0.0
        self._goes_on = False

    @property
    def heard(self) -> bool:
        """Whether the caller hears something."""
        return self._holding is not None and self._holding.heard

    def begin(self, agent: AgentSettings, *, answered: bool) -> None:
        """The sound of this agent, soon. `answered`: who hears it was called, and is not to hear ringing."""
        assert self._leg is not None
        self._limit_s = agent.hold_limit
        sound = self._holds.sound_of(agent, self._dialect, self._start, answered=answered)
        if sound is not None:
            wait_s = SILENCE_WAIT_S if sound.silent else WAIT_S
            self._holding = AudioPlayer(self._leg, self._dialect, self._start, sound, wait_s=wait_s)
        self._keep(agent.keep_early_audio)

    def go_on(self, agent: AgentSettings, *, again: bool, answered: bool) -> None:
        """On another stream of a call whose agent is there, until that speaks.

        `again`: the sound, which was heard on the stream before; else only what keeps the call alive.
        """
        assert self._leg is not None
        self._goes_on = True
        self._limit_s = agent.hold_limit
        holds, dialect, start = self._holds, self._dialect, self._start
        if again:
            sound = holds.sound_of(agent, dialect, start, answered=answered)
        else:
            sound = holds.silence(dialect, start)
        if sound is not None:
            wait_s = SILENCE_WAIT_S if sound.silent else 0
            self._holding = AudioPlayer(self._leg, dialect, start, sound, wait_s=wait_s)

    def waits(self) -> None:
        """The call stands in a line: what is said there is for nobody."""
        self._keep(0)

    def served(self, agent: AgentSettings) -> None:
        """It has a place: what is said from now on is for this agent."""
        self._limit_s = agent.hold_limit
        self._keep(agent.keep_early_audio)

    def couple(self, relay: Relay) -> None:
        """To be called before the relay starts: a sound that has begun goes on there, no other begins."""
        self._leg = None
        if self._holding is not None and (self._holding.heard or self._goes_on):
            self._holding.move(relay.carrier, limit_s=self._limit_s)
        else:
            self.stop()

    def stop(self, *, before_message: bool = False) -> None:
        """The end of it; the carrier throws away what it has not played. See AudioPlayer.stop."""
        if self._holding is not None:
            self._holding.stop(before_message=before_message)
            self._holding = None

    async def say(self, recording: str) -> None:
        """Plays a recording once, in place of the sound, to its end."""
        self.stop()
        sound = self._holds.recording(recording, self._dialect, self._start)
        if sound is not None and self._leg is not None:
            self._holding = AudioPlayer(self._leg, self._dialect, self._start, sound, wait_s=0, repeats=False)
            await self._holding.over

    def _keep(self, seconds: float | None) -> None:
        if self._leg is not None:
            most = None if seconds is None else round(seconds * 1000 / self._dialect.frame_ms)
            self._leg.keep_sound(most, lambda message: self._dialect.event_of(message) == SOUND)


class HoldAudioLibrary:
    """The sounds of one worker's agents."""

    def __init__(self, agents: Iterable[AgentSettings]) -> None:
        """Reads their recordings; raises PromptError where one cannot be played."""
        names = {
            name
            for agent in agents
            for name in (agent.hold, agent.overflow, agent.fallback)
            if name.endswith(RECORDING)
        }
        self._prompts = {name: read_prompt(Path(name)) for name in names}
        self._sounds = ClipCache()

    def sound_of(
        self, agent: AgentSettings, dialect: Dialect, start: Start, *, answered: bool
    ) -> AudioClip | None:
        """What its callers hear; None for nothing, also in a codec that nothing is coded in here."""
        recipe: AudioSource = None
        if agent.hold.endswith(RECORDING):
            recipe = self._prompt(agent.hold)
        elif agent.hold == "ringback" and not answered:
            recipe = ringback_of(agent)
        elif not dialect.needs_sound:
            return None
        return self._sound(recipe, dialect, start)

    def silence(self, dialect: Dialect, start: Start) -> AudioClip | None:
        """What a carrier must be sent for the call to last; None for nothing."""
        return self._sound(None, dialect, start) if dialect.needs_sound else None

    def recording(self, name: str, dialect: Dialect, start: Start) -> AudioClip | None:
        """A recording for this call; None in a codec that nothing is coded in here."""
        return self._sound(self._prompt(name), dialect, start)

    def _sound(self, recipe: AudioSource, dialect: Dialect, start: Start) -> AudioClip | None:
        try:
            return self._sounds.sound(recipe, dialect, start)
        except DialectError:
            return None

    def _prompt(self, name: str) -> Prompt:
        if name not in self._prompts:  # of an agent that the store keeps
            self._prompts[name] = read_prompt(Path(name))
        return self._prompts[name]


def ringback_of(agent: AgentSettings) -> ToneName:
    """The ringback that its callers know."""
    if agent.hold_tone != "auto":
        return agent.hold_tone
    if agent.region.startswith("eu"):
        return "eu"
    return "in" if agent.region == "ap-south" or agent.region.startswith("in-") else "us"
