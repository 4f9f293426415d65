# SPDX-License-Identifier: BSD-2-Clause
"""A waiting caller hears the ringback, in the codec that its stream plays, or nothing.

What was sent is decoded here as the carrier decodes it: by tables of ITU-T G.711, or as 16-bit samples.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.simulator.waiting import WAIT_S
from serializers.events import Media
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, waits_for
from tests.harness.call_assertions import Call, hang_up
from tests.harness.caller import Caller
from tests.harness.document_calls import ACCOUNT_KEYS, CALL_KEYS, DocumentCalls
from tests.harness.frames import PING, PONG
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening_messages

Samples = np.ndarray[tuple[int], np.dtype[np.float64]]

TONE_HZ = {440, 480}
TONE_PEAK = 0.2 * 32767
"""Of the ringback of the United States: two sines of a tenth of full scale."""
HEARD_MS = 400


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {
        "server": {"public_url": "https://voice.example.com"},
        "support": {"sessions_per_instance": 32, "hold": "ringback", "hold_limit": 60, "hold_tone": "us"},
    }


@pytest.fixture
async def here(support: Agent) -> asyncio.Event:
    """To be set when the agent's container has started."""
    event = asyncio.Event()
    support.answer = waits_for(event)
    return event


def mulaw(payload: bytes) -> Samples:
    """Decode G.711 μ-law."""
    code = ~np.frombuffer(payload, dtype=np.uint8)
    magnitude = ((code & 0x0F).astype(int) << 3) + 0x84 << ((code & 0x70).astype(int) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.float64)


def alaw(payload: bytes) -> Samples:
    """Decode G.711 A-law."""
    code = np.frombuffer(payload, dtype=np.uint8) ^ 0x55
    segment, step = (code & 0x70).astype(int) >> 4, (code & 0x0F).astype(int)
    magnitude = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float64)


def little(payload: bytes) -> Samples:
    """Decode 16-bit samples, little-endian."""
    return np.frombuffer(payload, dtype="<i2").astype(np.float64)


def big(payload: bytes) -> Samples:
    """Decode 16-bit samples in network byte order."""
    return np.frombuffer(payload, dtype=">i2").astype(np.float64)


def opening_in(carrier: str, encoding: str | None, rate: int | str) -> list[dict[str, Any]]:
    """The carrier's opening, for a stream of this format."""
    messages = opening_messages(carrier)
    snake = carrier in ("telnyx", "exotel")
    audio = {"encoding": encoding, "sample_rate" if snake else "sampleRate": rate}
    messages[-1]["start"]["media_format" if snake else "mediaFormat"] = audio
    return messages


async def ring(gateway: Gateway, carrier: str, encoding: str | None, rate: int | str) -> Caller:
    caller = await gateway.dial(f"/ws/{carrier}/support.acme")
    for message in opening_in(carrier, encoding, rate):
        caller.say(json.dumps(message))
    return caller


async def played(caller: Caller, carrier: str, decoded: Callable[[bytes], Samples], rate: int) -> Samples:
    """The first HEARD_MS of what the caller hears."""
    count = rate * HEARD_MS // 1000
    heard = np.empty(0)
    async with asyncio.timeout(WAIT_S):
        while len(heard) < count:
            message = DIALECTS[carrier].read_agent((await caller.hear()).payload)
            assert isinstance(message, Media)
            heard = np.concatenate([heard, decoded(message.payload)])
    return heard[:count]


def assert_is_ringback(heard: Samples, rate: int) -> None:
    inside = heard[rate // 10 : rate // 10 + rate // 5]  # 200 ms behind the edge: bins of 5 Hz
    power = np.abs(np.fft.rfft(inside)) ** 2
    assert {5 * int(line) for line in np.flatnonzero(power > power.max() / 100)} == TONE_HZ
    assert 0.9 * TONE_PEAK < np.abs(heard).max() < 1.1 * TONE_PEAK


STREAMS = [
    ("twilio", "audio/x-mulaw", 8000, mulaw),
    ("twilio", "audio/x-alaw", 8000, alaw),
    ("telnyx", "PCMU", 8000, mulaw),
    ("telnyx", "PCMA", 8000, mulaw),  # of the caller's direction alone: docs/reference/carriers.md §3.3
    ("plivo", "audio/x-mulaw", 8000, mulaw),
    ("plivo", "audio/x-mulaw;rate=8000", 8000, mulaw),
    ("plivo", "audio/x-l16", 8000, little),
    ("plivo", "audio/x-l16;rate=16000", 16000, little),
    ("plivo", "audio/x-l16", 24000, little),
    ("exotel", "raw", 8000, little),
    ("exotel", "audio/x-mulaw", 16000, little),
    ("exotel", "base64", "24000", little),
]


async def test_the_ringback_is_in_the_codec_of_the_stream(gateway: Gateway, here: asyncio.Event) -> None:
    """All at the same time, since each rings for a while."""

    async def rings(
        carrier: str, encoding: str, rate: int | str, decoded: Callable[[bytes], Samples]
    ) -> None:
        caller = await ring(gateway, carrier, encoding, rate)
        assert_is_ringback(await played(caller, carrier, decoded, int(rate)), int(rate))
        await caller.hang_up()

    async with asyncio.TaskGroup() as together:
        for stream in STREAMS:
            together.create_task(rings(*stream), name=str(stream))


UNKNOWN = [
    ("twilio", "audio/x-L16", 16000),  # SignalWire's, of which no page tells the byte order
    ("twilio", "G729", 8000),
    ("telnyx", "G722", 8000),
    ("telnyx", "OPUS", 16000),
    ("telnyx", "AMR-WB", 16000),
    ("telnyx", "SIREN", 8000),
    ("plivo", "audio/x-alaw", 8000),
    ("plivo", "audio/x-opus;rate=48000", 48000),
    ("plivo", "audio/x-l16", 11025),
]


async def test_a_codec_that_is_not_known_gets_nothing(gateway: Gateway, here: asyncio.Event) -> None:
    """A caller who comes after them has heard more than enough, and they have heard nothing."""
    callers = [await ring(gateway, *stream) for stream in UNKNOWN]
    later = await ring(gateway, "telnyx", "L16", 8000)
    for _ in range(2):
        await later.hear()  # its silence begins last of all
    for caller, stream in zip(callers, UNKNOWN, strict=True):
        caller.send(caller.frame(PING, b"heard?"))
        assert (await caller.hear()).opcode == PONG, stream
    for caller in (*callers, later):
        await caller.hang_up()


async def test_linear16_of_telnyx_gets_silence_in_either_byte_order(
    gateway: Gateway, here: asyncio.Event
) -> None:
    """Telnyx ends a call in which it receives no sound (docs/reference/carriers.md §3.3)."""

    async def is_silent(rate: int) -> None:
        caller = await ring(gateway, "telnyx", "L16", rate)
        received = []
        for _ in range(2):
            message = DIALECTS["telnyx"].read_agent((await caller.hear()).payload)
            assert isinstance(message, Media)
            received.append(message.payload)
        assert {len(payload) for payload in received} == {2 * rate // 10}, "100 ms each"
        for decoded in (big, little, mulaw):  # also if its document asked for another codec in this direction
            assert np.abs(decoded(b"".join(received))).max() <= 1
        await caller.hang_up()

    async with asyncio.TaskGroup() as together:
        for rate in (8000, 16000, 24000):
            together.create_task(is_silent(rate))


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_document_of_ours_tells_which_sound_telnyx_plays(
    line: DocumentCalls, here: asyncio.Event, carrier: str
) -> None:
    """The caller's codec is that of his network; our documents ask for PCMU in the other direction."""
    for encoding in ("PCMA", "G722", "L16"):
        placed = await line.place()
        caller = await line.dial(placed.stream_url)
        messages = opening_in(carrier, encoding, 8000)
        messages[-1]["start"] |= {CALL_KEYS[carrier]: placed.call_id, ACCOUNT_KEYS[carrier]: "user"}
        for message in messages:
            caller.say(json.dumps(message))
        assert_is_ringback(await played(caller, carrier, mulaw, 8000), 8000)
        await caller.hang_up()


async def test_a_call_in_an_unknown_codec_reaches_its_agent(gateway: Gateway, support: Agent) -> None:
    for carrier in ("twilio", "telnyx", "plivo"):
        caller = await gateway.dial(f"/ws/{carrier}/support.acme")
        raw = [caller.say(json.dumps(message)) for message in opening_in(carrier, "SIREN", 8000)]
        call = await support.call()
        await call.opening(raw)
        await hang_up(Call(caller, call, raw))
