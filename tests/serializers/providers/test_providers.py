# SPDX-License-Identifier: BSD-2-Clause
"""Calls of carriers with a provider's API as the agent, message by message (docs/reference/translation.md
§3-5).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from serializers.agent_dialect import Message
from serializers.events import AudioFormat, Dtmf, Media, Start
from serializers.providers.provider import ProviderSettings
from serializers.providers.registry import PROVIDERS
from serializers.registry import DIALECTS
from serializers.translation.translator import MAX_EARLY_S, Translator

SETTINGS = ProviderSettings(
    key="secret-key",
    agent="agent_1",
    model="",
    voice="ash",
    instructions="You speak with {from} about {ticket}; {unknown} stays.",
    greeting="Hello {name}",
)
START = Start(
    "call-1",
    "stream-1",
    "account-1",
    "+14155550199",
    "+14155550142",
    AudioFormat("mulaw", 8000),
    {"ticket": "17", "name": "Ada"},
    sequence=1,
)
SOUND = bytes(range(100, 180)) * 2


class Talk:
    """One call: what the provider gets and what the carrier gets."""

    def __init__(self, provider: str, rate: int = 16000, settings: ProviderSettings = SETTINGS) -> None:
        self.agent = PROVIDERS[provider](settings)
        self.dialect = DIALECTS["twilio"]
        self.problems: list[str] = []
        self.translator = Translator(
            self.dialect, START, self.agent, sample_rate=rate, on_problem=self.problems.append
        )
        self.now = 50.0

    def caller(self, event: Any) -> list[Any]:
        """Pass an event of the carrier; return what the provider gets."""
        if isinstance(event, Media):
            event = Media(event.payload, "inbound", 1, 20, 2)
        data = self.dialect.write_carrier(event, START).encode()
        self.translator.carrier_message(Message(data, is_text=True))
        return self.for_provider()

    def provider(self, message: dict[str, Any] | bytes) -> list[Any]:
        """Pass a message of the provider; return what the carrier gets."""
        is_text = not isinstance(message, bytes)
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.translator.agent_message(Message(data, is_text), self.now)
        messages, self.translator.to_carrier = self.translator.to_carrier, []
        return [json.loads(each.data) for each in messages]

    def for_provider(self) -> list[Any]:
        """Return what the provider gets."""
        messages, self.translator.to_agent = self.translator.to_agent, []
        return [json.loads(each.data) if each.is_text else each.data for each in messages]


def played(messages: list[Any]) -> bytes:
    """Return the sound of what the carrier gets."""
    return b"".join(base64.b64decode(m["media"]["payload"]) for m in messages if m["event"] == "media")


def b64(sound: bytes) -> str:
    """Return sound as text."""
    return base64.b64encode(sound).decode()


# OpenAI


def delta(item: str, sound: bytes) -> dict[str, Any]:
    """Return a piece of speech as the Realtime API sends it."""
    return {
        "type": "response.output_audio.delta",
        "event_id": "e",
        "response_id": "r",
        "item_id": item,
        "output_index": 0,
        "content_index": 0,
        "delta": b64(sound),
    }


def test_openai_is_told_what_to_do_and_to_speak_first() -> None:
    call = Talk("openai-realtime")
    request = call.agent.request()
    assert request.path == "/v1/realtime?model=gpt-realtime"
    assert request.headers == (("Authorization", "Bearer secret-key"),)
    assert "secret-key" not in repr(request)
    update, create = call.caller(START)
    session = update["session"]
    assert session["instructions"] == "You speak with +14155550199 about 17; {unknown} stays."
    assert (
        session["audio"]["input"]["format"] == session["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    )
    assert session["audio"]["output"]["voice"] == "ash"
    assert create["response"]["instructions"].endswith("Hello Ada")


def test_openai_hears_and_speaks_without_a_conversion() -> None:
    call = Talk("openai-realtime")
    call.caller(START)
    assert call.caller(Media(SOUND)) == [{"type": "input_audio_buffer.append", "audio": b64(SOUND)}]
    assert played(call.provider(delta("item_1", SOUND))) == SOUND
    beta = delta("item_1", SOUND) | {"type": "response.audio.delta"}
    assert played(call.provider(beta)) == SOUND


def test_openai_has_linear_sound_of_24_khz_where_that_is_set() -> None:
    call = Talk("openai-realtime", rate=24000)
    update, *_ = call.caller(START)
    assert update["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    (heard,) = call.caller(Media(SOUND))
    assert len(base64.b64decode(heard["audio"])) == 960


def test_an_interrupted_openai_learns_how_much_was_heard() -> None:
    call = Talk("openai-realtime")
    call.caller(START)
    call.provider(delta("first", bytes(4000)))  # half a second
    call.provider(delta("second", bytes(16000)))  # two
    for _ in range(25):
        call.now += 0.05
        call.translator.advance(call.now)
    call.translator.to_carrier = []
    assert [m["event"] for m in call.provider({"type": "input_audio_buffer.speech_started"})] == ["clear"]
    assert call.for_provider() == [
        {"type": "conversation.item.truncate", "item_id": "second", "content_index": 0, "audio_end_ms": 750}
    ]
    call.now += 5.0
    assert call.provider({"type": "input_audio_buffer.speech_started"})[0]["event"] == "clear"
    assert call.for_provider() == []  # nothing was playing


def test_a_provider_is_heard_to_be_interrupted_behind_minutes_of_an_answer() -> None:
    call = Talk("openai-realtime")
    call.caller(START)
    for number in range(5 * 60):
        call.provider(delta(f"item_{number}", bytes(8000)))
        assert not call.translator.is_full
    assert call.provider({"type": "input_audio_buffer.speech_started"})[0]["event"] == "clear"
    assert call.translator.next_due() is None


def test_what_nobody_heard_of_several_items_is_truncated_in_each() -> None:
    call = Talk("openai-realtime")
    call.caller(START)
    call.provider(delta("first", bytes(4000)))
    call.provider(delta("second", bytes(4000)))
    call.now += 0.2
    call.provider({"type": "input_audio_buffer.speech_started"})
    assert [(m["item_id"], m["audio_end_ms"]) for m in call.for_provider()] == [("first", 200), ("second", 0)]


def test_a_key_is_a_message_to_openai_and_is_answered() -> None:
    call = Talk("openai-realtime")
    call.caller(START)
    item, create = call.caller(Dtmf("5", sequence=3))
    assert item["item"]["content"] == [{"type": "input_text", "text": "The caller pressed the key 5."}]
    assert create == {"type": "response.create"}


# ElevenLabs


def metadata(to_agent: str, from_agent: str) -> dict[str, Any]:
    """Return the first message of ElevenLabs."""
    return {
        "type": "conversation_initiation_metadata",
        "conversation_initiation_metadata_event": {
            "conversation_id": "c",
            "agent_output_audio_format": from_agent,
            "user_input_audio_format": to_agent,
        },
    }


def test_elevenlabs_gets_the_calls_data_and_no_sound_before_it_said_in_which_format() -> None:
    call = Talk("elevenlabs")
    request = call.agent.request()
    assert request.path == "/v1/convai/conversation?agent_id=agent_1"
    assert request.headers == (("xi-api-key", "secret-key"),)
    (opening,) = call.caller(START)
    assert opening["dynamic_variables"] == {
        "from": "+14155550199",
        "to": "+14155550142",
        "ticket": "17",
        "name": "Ada",
    }
    override = opening["conversation_config_override"]
    assert override["agent"]["first_message"] == "Hello Ada"
    assert override["tts"] == {"voice_id": "ash"}
    assert call.caller(Media(SOUND)) == []
    assert call.provider(metadata("ulaw_8000", "pcm_16000")) == []
    assert call.for_provider() == [{"user_audio_chunk": b64(SOUND)}]
    speech = {"type": "audio", "audio_event": {"audio_base_64": b64(bytes(640)), "event_id": 1}}
    assert len(played(call.provider(speech))) == 160


def test_nothing_overridden_leaves_elevenlabs_agent_as_it_is_configured() -> None:
    call = Talk("elevenlabs", settings=ProviderSettings(key="k", agent="a"))
    (opening,) = call.caller(START)
    assert opening["conversation_config_override"] == {}


def test_a_provider_that_is_long_in_coming_hears_the_latest_seconds() -> None:
    call = Talk("elevenlabs")
    call.caller(START)
    for number in range(400):
        call.caller(Media(bytes([number % 256]) * 160))
    call.provider(metadata("ulaw_8000", "ulaw_8000"))
    heard = [base64.b64decode(m["user_audio_chunk"]) for m in call.for_provider()]
    assert len(heard) == MAX_EARLY_S * 50
    assert heard[-1] == bytes([399 % 256]) * 160


def test_sound_of_before_an_interruption_is_not_played_after_it() -> None:
    call = Talk("elevenlabs")
    call.caller(START)
    call.provider(metadata("ulaw_8000", "ulaw_8000"))
    assert [
        m["event"] for m in call.provider({"type": "interruption", "interruption_event": {"event_id": 7}})
    ] == ["clear"]
    heard = [
        played(
            call.provider({"type": "audio", "audio_event": {"audio_base_64": b64(SOUND), "event_id": number}})
        )
        for number in (5, 7, 8)
    ]
    assert heard == [b"", b"", SOUND]


def test_elevenlabs_pings_are_answered() -> None:
    call = Talk("elevenlabs")
    assert call.provider({"type": "ping", "ping_event": {"event_id": 3, "ping_ms": 20}}) == []
    assert call.for_provider() == [{"type": "pong", "event_id": 3}]


@pytest.mark.parametrize("formats", [("opus_48000", "pcm_16000"), ("pcm_16000", "pcm_44100"), ("pcm_x", "")])
def test_a_format_that_cannot_be_translated_is_reported(formats: tuple[str, str]) -> None:
    """Nobody hears anything, and it is configured at the provider: the operator has to know why."""
    call = Talk("elevenlabs")
    call.caller(START)
    assert call.provider(metadata(*formats)) == []
    (words,) = call.problems
    assert "is not translated" in words
    assert call.caller(Media(SOUND)) == []
    call.provider(metadata("ulaw_8000", "ulaw_8000"))
    assert json.loads(json.dumps(call.for_provider())) == [{"user_audio_chunk": b64(SOUND)}]


# Deepgram


def test_deepgram_gets_its_settings_and_sound_once_they_are_applied() -> None:
    call = Talk("deepgram")
    request = call.agent.request()
    assert (request.path, request.headers) == ("/v1/agent/converse", (("Authorization", "Token secret-key"),))
    (settings,) = call.caller(START)
    assert settings["type"] == "Settings"
    assert settings["audio"]["output"] == {"encoding": "mulaw", "sample_rate": 8000, "container": "none"}
    assert settings["agent"]["think"]["prompt"].startswith("You speak with +14155550199")
    assert settings["agent"]["speak"]["provider"] == {"type": "deepgram", "model": "ash"}
    assert settings["agent"]["greeting"] == "Hello Ada"
    call.provider({"type": "Welcome", "request_id": "r"})
    assert call.caller(Media(SOUND)) == []
    call.provider({"type": "SettingsApplied"})
    assert call.for_provider() == [SOUND]
    assert call.caller(Media(SOUND)) == [SOUND]
    assert played(call.provider(SOUND)) == SOUND
    assert [m["event"] for m in call.provider({"type": "UserStartedSpeaking"})] == ["clear"]


@pytest.mark.parametrize(
    ("provider", "message", "words"),
    [
        ("openai-realtime", {"type": "error", "error": {"message": "no quota"}}, "no quota"),
        ("deepgram", {"type": "Error", "code": "BAD", "description": "no key"}, "BAD: no key"),
    ],
)
def test_an_error_of_the_provider_reaches_the_operator(
    provider: str, message: dict[str, Any], words: str
) -> None:
    call = Talk(provider)
    assert call.provider(message) == []
    assert call.problems == [words]


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"type":7}', b'{"type":"audio"}'])
@pytest.mark.parametrize("is_text", [True, False])
def test_no_message_of_a_provider_breaks_a_call(provider: str, data: bytes, is_text: bool) -> None:
    call = Talk(provider)
    call.caller(START)
    call.translator.agent_message(Message(data, is_text), call.now)
