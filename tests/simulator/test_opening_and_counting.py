# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier says by itself: its opening, its counters, its keys, its end (docs/reference/carriers.md
§2-5).
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from gateway.simulator.fake_carrier import place_call

HEX_32 = "[0-9a-f]{32}"
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
SEQUENCE = {"twilio": "sequenceNumber", "plivo": "sequenceNumber"}


async def test_the_stream_opens_counts_and_ends_as_the_carrier_does(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    await asyncio.gather(*(assert_faithful(carrier, far_side, plan) for carrier in CARRIERS))


async def assert_faithful(carrier: str, far_side: Callable[..., Any], plan: Callable[..., Any]) -> None:
    async with far_side() as gateway:
        report = await place_call(plan(gateway.url, carrier, agent="support.acme", digits="1#"))

    assert not report.failed
    assert gateway.close_code == 1000
    events = [message["event"] for message in gateway.messages]
    opening = ["start"] if carrier == "plivo" else ["connected", "start"]
    assert events[: len(opening)] == opening
    assert ("stop" in events) is (carrier != "plivo")
    assert events[-1] == ("media" if carrier == "plivo" else "stop")

    numbered = gateway.messages[len(opening) - 1 :]
    numbers = [message[SEQUENCE.get(carrier, "sequence_number")] for message in numbered]
    kind = int if carrier == "plivo" else str
    assert numbers == [kind(number) for number in range(1, len(numbered) + 1)]

    media = [message["media"] for message in gateway.events("media")]
    assert [sound["chunk"] for sound in media] == [kind(number) for number in range(1, len(media) + 1)]
    frame_ms, frame_bytes = (100, 1600) if carrier == "exotel" else (20, 160)
    assert {len(base64.b64decode(sound["payload"])) for sound in media} == {frame_bytes}
    stamps = [int(sound["timestamp"]) for sound in media]
    assert all(later - earlier == frame_ms for earlier, later in pairwise(stamps))
    if carrier == "plivo":
        assert stamps[0] > 1_700_000_000_000  # Unix time
    else:
        assert stamps[0] == frame_ms
    assert report.frames_sent == len(media)

    assert [key["dtmf"]["digit"] for key in gateway.events("dtmf")] == ["1", "#"]


async def test_twilio_tells_the_agent_in_a_parameter_and_loses_the_query(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with far_side() as gateway:
        await place_call(
            plan(f"{gateway.url}/ws/twilio?serviceHost=other.acme", "twilio", agent="support.acme")
        )
    assert gateway.path == "/ws/twilio"
    start = gateway.events("start")[0]["start"]
    assert start["customParameters"] == {"_pipecatCloudServiceHost": "support.acme"}
    assert re.fullmatch("CA" + HEX_32, start["callSid"])
    assert re.fullmatch("MZ" + HEX_32, start["streamSid"])
    assert not {"from", "to"} & start.keys()
    assert start["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


async def test_telnyx_tells_the_agent_in_the_query_and_the_numbers_in_start(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with far_side() as gateway:
        await place_call(plan(gateway.url, "telnyx", agent="support.acme", to_number="+15559876543"))
    assert gateway.path == "/ws/telnyx?serviceHost=support.acme"
    message = gateway.events("start")[0]
    assert re.fullmatch(UUID, message["stream_id"])
    assert message["start"]["call_control_id"].startswith("v3:")
    assert message["start"]["to"] == "+15559876543"
    assert message["start"]["media_format"]["encoding"] == "PCMU"


async def test_plivo_says_only_its_ids(far_side: Callable[..., Any], plan: Callable[..., Any]) -> None:
    async with far_side() as gateway:
        await place_call(plan(gateway.url, "plivo", agent="support.acme"))
    assert gateway.path == "/ws/plivo?serviceHost=support.acme"
    start = gateway.events("start")[0]["start"]
    assert re.fullmatch(UUID, start["callId"])
    assert re.fullmatch(UUID, start["streamId"])
    assert not {"from", "to"} & start.keys()


async def test_exotel_hands_the_query_on_and_takes_its_sample_rate_from_it(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with far_side() as gateway:
        url = f"{gateway.url}/ws/exotel?sample-rate=16000"
        report = await place_call(plan(url, "exotel", agent="support.acme"))
    assert gateway.path == "/ws/exotel?sample-rate=16000&serviceHost=support.acme"
    start = gateway.events("start")[0]["start"]
    assert start["custom_parameters"] == {"serviceHost": "support.acme"}
    assert start["media_format"]["sample_rate"] == "16000"
    assert re.fullmatch(HEX_32, start["call_sid"])
    assert start["from"].startswith("0")
    assert len(base64.b64decode(gateway.events("media")[0]["media"]["payload"])) == 3200
    assert report.sample_rate == 16000
