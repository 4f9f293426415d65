# SPDX-License-Identifier: BSD-2-Clause
"""Calls between a carrier and an agent that is written for something else, message by message."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.agent_dialect import HELD_S, Message
from serializers.dialect import DialectError
from serializers.events import AudioFormat, Clear, Dtmf, Mark, Media, Start, Stop
from serializers.pcm16 import WITH_EVENTS
from serializers.registry import DIALECTS
from serializers.translation.agents import AGENT_DIALECTS
from serializers.translation.playback_queue import AHEAD_S, IDLE_S, MAX_ITEMS
from serializers.translation.translator import Translator

MULAW_20_MS = bytes(range(100, 180)) * 2
CARRIERS = sorted(DIALECTS)
AGENTS = sorted(AGENT_DIALECTS)


def start_of(carrier: str, **changes: Any) -> Start:
    """Return the start of a call of the carrier."""
    audio = AudioFormat("linear16", 8000) if carrier == "exotel" else AudioFormat("mulaw", 8000)
    start = Start(
        call_id="call-1",
        stream_id="stream-1",
        account_id="account-1",
        from_number="+14155550199",
        to_number="+14155550142",
        audio=audio,
        parameters={"plan": "gold"},
    )
    return replace(start, **changes)


class Talk:
    """One translated call: what each side says and gets."""

    def __init__(self, carrier: str, agent: str, rate: int = 16000, start: Start | None = None) -> None:
        self.dialect = DIALECTS[carrier]
        self.agent = WITH_EVENTS if agent == "pcm16 with events" else AGENT_DIALECTS[agent]
        self.start = start or start_of(carrier)
        self.translator = Translator(self.dialect, self.start, self.agent, sample_rate=rate)
        self.now = 1000.0
        self._sequence = 0

    def carrier_says(self, event: Any) -> list[Message]:
        """Pass an event of the carrier; return what the agent gets."""
        self._sequence += 1
        if isinstance(event, Media):
            event = replace(event, chunk=self._sequence, timestamp_ms=20 * self._sequence)
        event = replace(event, sequence=self._sequence)
        text = self.dialect.write_carrier(event, self.start)
        return self.carrier_sends(text.encode())

    def carrier_sends(self, data: bytes) -> list[Message]:
        """Pass a message of the carrier; return what the agent gets."""
        self.translator.carrier_message(Message(data, is_text=True))
        return self.for_agent()

    def agent_says(self, data: bytes | str | dict[str, Any]) -> list[dict[str, Any]]:
        """Pass a message of the agent; return what the carrier gets."""
        is_text = not isinstance(data, bytes)
        raw = json.dumps(data).encode() if isinstance(data, dict) else data
        raw = raw.encode() if isinstance(raw, str) else raw
        self.translator.agent_message(Message(raw, is_text), self.now)
        return self.for_carrier()

    def for_agent(self) -> list[Message]:
        """Return what the agent gets."""
        messages, self.translator.to_agent = self.translator.to_agent, []
        return messages

    def for_carrier(self) -> list[dict[str, Any]]:
        """Return what the carrier gets."""
        messages, self.translator.to_carrier = self.translator.to_carrier, []
        return [json.loads(message.data) for message in messages]

    def later(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass; return what the carrier gets."""
        self.now += seconds
        self.translator.advance(self.now)
        return self.for_carrier()


def told(messages: list[Message]) -> list[Any]:
    """Return text messages as objects, binary ones as bytes."""
    return [json.loads(message.data) if message.is_text else message.data for message in messages]


def events(messages: list[dict[str, Any]]) -> list[str]:
    """Return the names of the messages."""
    return [message["event"] for message in messages]


# The contract's cases (docs/reference/translation.md §9)


def test_a_pipecat_agent_gets_frames_and_no_opening() -> None:
    call = Talk("twilio", "pipecat", rate=8000)
    assert call.carrier_says(call.start) == []
    (frame,) = call.carrier_says(Media(MULAW_20_MS))
    assert not frame.is_text
    assert frame.data[:6] == bytes.fromhex("12c8021ac002")
    assert frame.data[326:] == bytes.fromhex("20c03e2801")  # 8,000 Hz, one channel
    assert call.carrier_says(Stop()) == []


def test_a_frame_is_written_as_protobuf_has_it() -> None:
    """The vector of docs/reference/translation.md §2."""
    start = replace(start_of("twilio"), audio=AudioFormat("linear16", 16000))
    message = AGENT_DIALECTS["pipecat"].write_carrier(Media(bytes.fromhex("0100ff7f0080")), start)
    assert message == Message(bytes.fromhex("120d1a060100ff7f008020807d2801"), is_text=False)


@pytest.mark.parametrize("agent", AGENTS)
def test_sound_is_written_as_any_event_is(agent: str) -> None:
    dialect = AGENT_DIALECTS[agent]
    start = dialect.start_of(start_of("twilio"), dialect.audio(16000))
    sound = b"%d \x80" * 200
    media = Media(sound, track="inbound", chunk=7, timestamp_ms=140, sequence=12)
    write = dialect.sound_writer(start)
    assert write(sound, 12, 7, 140) == dialect.write_carrier(media, start)
    assert write(b"", 13, 8, 160) == dialect.write_carrier(
        replace(media, payload=b"", chunk=8, timestamp_ms=160, sequence=13), start
    )


def test_sound_is_read_from_a_frame_with_id_and_name() -> None:
    frame = bytes.fromhex("122308071214496e707574417564696f5261774672616d6523301a02010020c03e28013001")
    event = AGENT_DIALECTS["pipecat"].read_agent(Message(frame, is_text=False))
    assert event == Media(b"\x01\x00", sample_rate=8000)


def test_an_interruption_of_a_pipecat_agent_is_a_clear() -> None:
    call = Talk("twilio", "pipecat")
    assert events(call.agent_says(bytes.fromhex("2a00"))) == ["clear"]
    assert events(call.agent_says(bytes.fromhex("2a1708011213496e74657272757074696f6e4672616d652330"))) == [
        "clear"
    ]
    assert call.for_agent() == []


def test_a_pipecat_agent_gets_keys_as_its_own_client_sends_them() -> None:
    call = Talk("twilio", "pipecat")
    (message,) = call.carrier_says(Dtmf("5"))
    assert b'"type":"dtmf"' in message.data
    assert b'"buttons":["5"]' in message.data
    assert call.carrier_says(Dtmf("A")) == []  # it knows no such key


def test_a_vonage_agent_gets_exactly_twenty_milliseconds_each_time() -> None:
    call = Talk("twilio", "vonage")
    (connected,) = told(call.carrier_says(call.start))
    assert connected == {
        "event": "websocket:connected",
        "content-type": "audio/l16;rate=16000",
        "from": "+14155550199",
        "to": "+14155550142",
        "plan": "gold",
    }
    sizes = [len(m.data) for size in (160, 100, 220, 160) for m in call.carrier_says(Media(b"\xff" * size))]
    assert sizes == [640, 640, 640, 640]


def test_half_a_sample_waits_for_its_other_half() -> None:
    call = Talk("twilio", "pcm16", rate=8000)
    assert call.agent_says(b"\x00") == []
    (message,) = call.agent_says(b"\x10")
    assert len(base64.b64decode(message["media"]["payload"])) == 1


# Ids, numbers, parameters


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_twilio_agent_gets_ids_of_twilios_kind_the_same_each_time(carrier: str) -> None:
    if carrier == "twilio":
        return
    connected, started = told(Talk(carrier, "twilio").carrier_says(start_of(carrier)))
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    start = started["start"]
    assert (start["callSid"][:2], start["streamSid"][:2], start["accountSid"][:2]) == ("CA", "MZ", "AC")
    assert len(start["callSid"]) == 34
    assert start["customParameters"]["from_number"] == "+14155550199"
    assert start["customParameters"]["plan"] == "gold"
    assert started["sequenceNumber"] == "1"
    again = told(Talk(carrier, "twilio").carrier_says(start_of(carrier)))
    assert again == [connected, started]


def test_media_is_numbered_without_a_gap() -> None:
    call = Talk("plivo", "twilio")
    call.carrier_says(call.start)
    media = [told(call.carrier_says(Media(MULAW_20_MS)))[0] for _ in range(3)]
    assert [m["sequenceNumber"] for m in media] == ["2", "3", "4"]
    assert [m["media"]["chunk"] for m in media] == ["1", "2", "3"]
    assert [m["media"]["timestamp"] for m in media] == ["0", "20", "40"]
    assert {m["streamSid"] for m in media} == {
        told(Talk("plivo", "twilio").carrier_says(call.start))[1]["streamSid"]
    }


def test_unknown_numbers_are_anonymous_where_the_dialect_must_have_them() -> None:
    start = start_of("twilio", from_number=None, to_number=None)
    _, started = told(Talk("twilio", "telnyx", start=start).carrier_says(start))
    assert (started["start"]["from"], started["start"]["to"]) == ("anonymous", "anonymous")


def test_a_raw_agent_that_wants_events_gets_them_as_json() -> None:
    call = Talk("twilio", "pcm16 with events")
    (started,) = told(call.carrier_says(call.start))
    assert (started["event"], started["call_id"], started["sample_rate"]) == ("start", "call-1", 16000)
    assert started["parameters"] == {"plan": "gold"}
    assert told(call.carrier_says(Dtmf("7"))) == [{"event": "dtmf", "digit": "7"}]
    assert told(call.carrier_says(Stop())) == [{"event": "stop"}]


# Sound


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
@pytest.mark.parametrize("agent", ["twilio", "telnyx", "plivo"])
def test_sound_of_the_same_codec_passes_byte_for_byte(carrier: str, agent: str) -> None:
    if carrier == agent:
        return
    call = Talk(carrier, agent)
    call.carrier_says(call.start)
    (heard,) = told(call.carrier_says(Media(MULAW_20_MS)))
    assert base64.b64decode(heard["media"]["payload"]) == MULAW_20_MS
    said = AGENT_DIALECTS[agent]
    dialect = DIALECTS[agent]
    assert said.name == dialect.name
    (played,) = call.agent_says(dialect.write_agent(Media(MULAW_20_MS), call.start))
    assert base64.b64decode(played["media"]["payload"]) == MULAW_20_MS


def test_the_outbound_track_is_not_heard() -> None:
    call = Talk("twilio", "plivo")
    call.carrier_says(call.start)
    assert call.carrier_says(Media(MULAW_20_MS, track="outbound")) == []


def test_a_frame_of_another_rate_is_played_at_its_own_pitch() -> None:
    call = Talk("twilio", "pipecat")
    loud = bytes(2) * 480
    body = bytes([0x1A]) + b"\xc0\x07" + loud + b"\x20\xc0\xbb\x01" + b"\x28\x01"  # 24,000 Hz
    (message,) = call.agent_says(bytes([0x12]) + b"\xc9\x07" + body)
    assert len(base64.b64decode(message["media"]["payload"])) == 160


def test_exotel_gets_sound_in_sizes_that_it_plays() -> None:
    call = Talk("exotel", "pcm16", rate=16000)
    messages = [message for _ in range(11) for message in call.agent_says(bytes(640))]
    (message,) = messages
    assert len(base64.b64decode(message["media"]["payload"])) == 3200
    assert call.later(IDLE_S) == []  # silence would be heard in the middle of a word
    (rest,) = call.later(0.21 - IDLE_S)  # now there is nothing more to play
    assert len(base64.b64decode(rest["media"]["payload"])) == 3200  # filled up with silence


@pytest.mark.parametrize("encoding", ["g722", "opus", "amr-wb", "unknown"])
def test_a_call_whose_sound_cannot_be_translated_is_refused(encoding: Any) -> None:
    start = start_of("telnyx", audio=AudioFormat(encoding, 16000))
    with pytest.raises(DialectError):
        Talk("telnyx", "pcm16", start=start)


# Pace, marks, clear


def test_the_carrier_is_never_further_ahead_than_agreed() -> None:
    call = Talk("twilio", "pcm16", rate=8000)
    sent = call.agent_says(bytes(16000 * 30))  # half a minute at once
    seconds = 0.0
    while call.translator.next_due() is not None:
        ahead = sum(len(base64.b64decode(m["media"]["payload"])) for m in sent) / 8000 - seconds
        assert ahead <= AHEAD_S + 0.2 + 1e-6
        step = max(0.0, call.translator.next_due() - call.now)
        seconds += step
        sent += call.later(step)
    assert sum(len(base64.b64decode(m["media"]["payload"])) for m in sent) == 240_000
    assert seconds == pytest.approx(30 - AHEAD_S, abs=0.3)


def test_a_clear_empties_what_waits_and_returns_its_marks_at_once() -> None:
    call = Talk("plivo", "twilio")
    stream = {"streamSid": "MZ"}
    call.agent_says({"event": "media", **stream, "media": {"payload": base64.b64encode(b"x" * 400).decode()}})
    call.agent_says({"event": "mark", **stream, "mark": {"name": "near"}})
    call.agent_says(
        {"event": "media", **stream, "media": {"payload": base64.b64encode(b"x" * 80000).decode()}}
    )
    call.agent_says({"event": "mark", **stream, "mark": {"name": "far"}})
    assert events(call.agent_says({"event": "clear", **stream})) == ["clearAudio"]
    # Plivo drops the mark that it had; a Twilio agent is promised both.
    assert [m["mark"]["name"] for m in told(call.for_agent())] == ["near", "far"]
    assert call.later(60.0) == []
    late = call.carrier_sends(b'{"event":"playedStream","streamId":"s","name":"near"}')
    assert late == []  # it is not told twice


def test_marks_that_the_carrier_returns_itself_are_told_once() -> None:
    call = Talk("telnyx", "twilio")
    call.agent_says({"event": "mark", "streamSid": "MZ", "mark": {"name": "m"}})
    assert events(call.agent_says({"event": "clear", "streamSid": "MZ"})) == ["clear"]
    assert call.for_agent() == []
    (returned,) = told(call.carrier_sends(b'{"event":"mark","stream_id":"s","mark":{"name":"m"}}'))
    assert returned["mark"] == {"name": "m"}


def test_a_plivo_agent_is_told_that_its_sound_was_cleared() -> None:
    call = Talk("twilio", "plivo")
    call.agent_says({"event": "checkpoint", "streamId": "s", "name": "c"})
    assert events(call.agent_says({"event": "clearAudio", "streamId": "s"})) == ["clear"]
    assert events(told(call.for_agent())) == ["clearedAudio"]
    assert (
        call.carrier_sends(b'{"event":"mark","sequenceNumber":"9","streamSid":"s","mark":{"name":"c"}}') == []
    )


def test_a_mark_of_vonages_comes_back_as_it_was_sent() -> None:
    call = Talk("twilio", "vonage")
    payload = {"id": 7, "step": "greeting"}
    (mark,) = call.agent_says({"action": "notify", "payload": payload})
    back = {"event": "mark", "sequenceNumber": "3", "streamSid": "s", "mark": mark["mark"]}
    assert told(call.carrier_sends(json.dumps(back).encode())) == [
        {"event": "websocket:notify", "payload": payload}
    ]


def test_an_agent_that_leaves_is_heard_to_its_last_word() -> None:
    call = Talk("twilio", "pcm16", rate=8000)
    call.agent_says(bytes(16000 * 10))
    call.translator.finish()
    rest = call.for_carrier()
    assert sum(len(base64.b64decode(m["media"]["payload"])) for m in rest) > 8000 * 8


def test_a_mark_of_the_same_name_is_told_although_an_earlier_one_was_discarded() -> None:
    """Plivo drops what it clears: only the later one comes back."""
    call = Talk("plivo", "twilio")
    mark = {"event": "mark", "streamSid": "MZ", "mark": {"name": "end"}}
    call.agent_says(mark)
    call.agent_says({"event": "clear", "streamSid": "MZ"})
    assert [m["mark"]["name"] for m in told(call.for_agent())] == ["end"]
    call.agent_says(mark)
    (played,) = told(call.carrier_sends(b'{"event":"playedStream","streamId":"s","name":"end"}'))
    assert played["mark"] == {"name": "end"}


def test_marks_of_a_long_call_leave_nothing_behind() -> None:
    call = Talk("twilio", "plivo")
    for number in range(5):
        call.agent_says({"event": "checkpoint", "streamId": "s", "name": f"c{number}"})
        call.agent_says({"event": "clearAudio", "streamId": "s"})
        mark = {"event": "mark", "sequenceNumber": "9", "streamSid": "s", "mark": {"name": f"c{number}"}}
        call.for_agent()
        assert call.carrier_sends(json.dumps(mark).encode()) == []
    assert not call.translator._discarded
    assert len(call.translator._discarded) == 0


def test_an_agent_that_pours_marks_is_read_no_more() -> None:
    call = Talk("twilio", "pcm16 with events", rate=8000)
    call.agent_says(bytes(16000 * 3))
    for number in range(MAX_ITEMS):
        assert not call.translator.is_full or number > MAX_ITEMS - 100
        call.agent_says({"event": "mark", "name": f"m{number}"})
    assert call.translator.is_full
    while call.translator.next_due() is not None:
        call.later(0.2)
    assert not call.translator.is_full


def test_an_agent_far_ahead_is_read_no_more() -> None:
    call = Talk("twilio", "pcm16", rate=8000)
    while not call.translator.is_full:
        call.agent_says(bytes(16000 * 5))
        assert call.now < 10_000
    assert call.translator._queue.held_s < HELD_S + 6
    call.agent_says(b"")
    call.translator.agent_message(Message(b'{"event":"clear"}', is_text=True), call.now)
    assert not call.translator.is_full


# Bad input


@given(st.sampled_from(CARRIERS), st.sampled_from(AGENTS), st.binary(max_size=200), st.booleans())
def test_no_message_of_either_side_breaks_a_call(
    carrier: str, agent: str, data: bytes, is_text: bool
) -> None:
    call = Talk(carrier, agent)
    call.translator.carrier_message(Message(data, is_text))
    call.translator.agent_message(Message(data, is_text), call.now)
    call.translator.advance(call.now + 1)
    call.translator.finish()


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_whole_call_leaves_nothing_waiting(carrier: str, agent: str) -> None:
    call = Talk(carrier, agent)
    call.carrier_says(call.start)
    noise = random.Random(3)
    for _ in range(20):
        call.carrier_sends(
            DIALECTS[carrier]
            .write_carrier(
                Media(noise.randbytes(320), chunk=1, timestamp_ms=0, sequence=1, track="inbound"), call.start
            )
            .encode()
        )
    for event in (Media(noise.randbytes(3200)), Mark("m"), Clear()):
        if agent in DIALECTS:
            call.agent_says(DIALECTS[agent].write_agent(event, call.start))
    assert call.translator.next_due() is None
    assert not call.translator.waits_for_order
