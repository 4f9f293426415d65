# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzes the translation between carriers and agents: whatever both send, what comes out is of the dialect.

The first two bytes choose carrier and agent. Then follow messages, each behind three bytes: flags and a
length. Of the flags bit 0 says whose it is (the agent's if set), bit 1 whether it is a text, the others how
many tenths of a second pass before it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from serializers.agent_dialect import AgentDialect, Message
from serializers.dialect import Dialect
from serializers.events import AudioFormat, Media, Start, Unknown
from serializers.pcm16 import WITH_EVENTS
from serializers.providers.provider import ProviderSettings
from serializers.providers.registry import PROVIDERS
from serializers.registry import DIALECTS
from serializers.translation.agents import AGENT_DIALECTS
from serializers.translation.playback_queue import AHEAD_S, PIECE_S
from serializers.translation.translator import MAX_PENDING_MARKS, Translator

CARRIERS = tuple(DIALECTS)
AGENTS = (*AGENT_DIALECTS, "pcm16 with events", *PROVIDERS)
SETTINGS = ProviderSettings(key="key", agent="agent", instructions="{from} {plan}", greeting="Hello")


def translate(data: bytes) -> None:
    """Pass the messages of one call; check what comes out."""
    if len(data) < 2:
        return
    carrier = DIALECTS[CARRIERS[data[0] % len(CARRIERS)]]
    agent = _agent(AGENTS[data[1] % len(AGENTS)])
    encoding = "linear16" if carrier.name == "exotel" else "mulaw"
    start = Start("call", "stream", "account", "+1", None, AudioFormat(encoding), {"plan": "gold"})
    translator = Translator(carrier, start, agent, sample_rate=16000)
    played = carrier.agent_audio(start)
    assert played is not None
    per_s = played.sample_rate * (2 if played.encoding == "linear16" else 1)
    now, longest = 0.0, 0
    for flags, message in _messages(data[2:]):
        now += (flags >> 2) / 10
        longest = max(longest, len(message))
        if flags & 1:
            translator.agent_message(Message(message, bool(flags & 2)), now)
        else:
            translator.carrier_message(Message(message, bool(flags & 2)))
        sent_s = _check_carrier(carrier, translator) / per_s
        # A message may be longer than what is sent ahead: it is cut, and each piece sent in its time.
        assert sent_s <= AHEAD_S + PIECE_S + carrier.min_media_bytes / per_s + (flags >> 2) / 10 + 0.01
        _check_agent(agent, translator)
    assert translator._queue.held_s <= agent.held_s + 6 * longest * len(data) / per_s
    assert len(translator._set_marks) <= MAX_PENDING_MARKS
    translator.finish()
    _check_carrier(carrier, translator)
    translator.flush_order()
    assert translator.next_due() is None
    assert not translator.waits_for_order


def _agent(name: str) -> AgentDialect:
    if name in PROVIDERS:
        return PROVIDERS[name](SETTINGS)
    return WITH_EVENTS if name == "pcm16 with events" else AGENT_DIALECTS[name]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 3:
        size = int.from_bytes(data[1:3], "big")
        yield data[0], data[3 : 3 + size]
        data = data[3 + size :]


def _check_carrier(carrier: Dialect, translator: Translator) -> int:
    """Check the messages for the carrier; return the bytes of sound in them."""
    sound = 0
    for message in translator.to_carrier:
        assert message.is_text
        event = carrier.read_agent(message.data)
        assert not isinstance(event, Unknown), message
        if isinstance(event, Media):
            sound += len(event.payload)
            assert len(event.payload) >= carrier.min_media_bytes
            assert len(event.payload) % carrier.media_step_bytes == 0
    translator.to_carrier.clear()
    return sound


def _check_agent(agent: AgentDialect, translator: Translator) -> None:
    for message in translator.to_agent:
        if message.is_text:
            assert agent.name != "pipecat", "a Pipecat bot takes a text for the end"
            json.loads(message.data)
        elif agent.name == "vonage":
            assert len(message.data) == 640
    translator.to_agent.clear()


def seeds() -> dict[str, bytes]:
    """Return calls of each carrier with each kind of agent."""
    from fuzz.seeds import messages  # noqa: PLC0415 - which makes its corpus of these, too

    sound = base64.b64encode(bytes(range(160))).decode()
    made = {}
    for number, carrier in enumerate(CARRIERS):
        theirs = [(2, text.encode()) for text in messages(carrier)]
        for place, agent in enumerate(AGENTS):
            ours: list[tuple[int, bytes]]
            if agent in DIALECTS:
                ours = [(7, text.encode()) for text in messages(agent)]
            elif agent == "pipecat":
                ours = [(5, bytes.fromhex("120d1a060100ff7f008020807d2801")), (5, bytes.fromhex("2a00"))]
            else:
                texts = (
                    '{"action":"clear"}',
                    '{"event":"mark","name":"m"}',
                    json.dumps({"type": "response.output_audio.delta", "item_id": "i", "delta": sound}),
                    '{"type":"input_audio_buffer.speech_started"}',
                    '{"type":"SettingsApplied"}',
                    json.dumps({"type": "audio", "audio_event": {"audio_base_64": sound, "event_id": 2}}),
                )
                ours = [(5, bytes(641)), *((7, text.encode()) for text in texts)]
            call = [each for pair in zip(theirs[:6], (ours * 6)[:6], strict=False) for each in pair]
            made[f"{carrier}-{agent.replace(' ', '-')}"] = bytes((number, place)) + b"".join(
                bytes((flags,)) + len(message).to_bytes(2, "big") + message for flags, message in call
            )
    return made
