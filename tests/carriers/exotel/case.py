# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's case of the conformance suite."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackRequest
from gateway.carriers.signatures import SignedRequest
from serializers.events import AudioFormat, Clear, Connected, Dtmf, Mark, Media, Played, Start, Stop
from tests.carriers.case import (
    AUDIO,
    AuthCase,
    CallbackCase,
    Case,
    DocumentCase,
    MediaCase,
    Message,
    RestCase,
    audio_bytes,
    keys,
    meaning,
    numbers,
    rates,
    starts,
    texts,
)
from tests.harness import rest_exotel

CALL_ID = "b0c8aea60aceb0007fc5a1bb75c200bl"
SOCKET = "wss://gw.example.com/ws/exotel/support.acme/TOKEN"


def with_credentials(method: str) -> SignedRequest:
    credentials = base64.b64encode(b"an-api-key:an-api-token").decode()
    return SignedRequest(
        method, (SOCKET,), {"authorization": f"Basic {credentials}"}, b"", "203.0.113.7", 0.0
    )


def callback(**fields: str) -> CallbackRequest:
    return CallbackRequest({"CallSid": CALL_ID, **fields})


def comparable(message: Message) -> Message:
    """Captured streams describe the audio in other words, and with another bit rate."""
    if message["event"] != "start":
        return message
    start = message["start"]
    return {**message, "start": {**start, "media_format": start["media_format"]["sample_rate"]}}


def answer(server: rest_exotel.ExotelServer) -> None:
    """Nothing that can be requested at Exotel depends on it."""


CASE = Case(
    name="exotel",
    media=MediaCase(
        documented=[
            Connected(),
            Start(
                call_id="CAxxxxxxxxxxxxxxxxxxxxxxxx",
                stream_id="MZxxxxxxxxxxxxxxxxxxxxxxxx",
                account_id="ACxxxxxxxxxxxxxxxxxxxxxxxx",
                from_number="+919876543210",
                to_number="+918047491899",
                audio=AudioFormat("linear16"),
                parameters={"key1": "value1"},
                sequence=1,
            ),
            Media(AUDIO, chunk=2, timestamp_ms=200, sequence=3),
            Dtmf("5", sequence=7, duration_ms=100),
            Played("my-label", sequence=15),
            Stop("callended", sequence=20),
            Media(AUDIO),
            Mark("turn-3-end"),
            Clear(),
            Start(  # as captured: no prefixes, national numbers, no custom_parameters, encoding "base64"
                call_id=CALL_ID,
                stream_id="3357459ca698d8c765bac10b0ec400bl",
                account_id="exampleaccount1",
                from_number="09990000105",
                to_number="04440000319",
                audio=AudioFormat("linear16"),
                sequence=1,
            ),
        ],
        calls=["exotel_normal_dtmf_mark", "exotel_early_hangup"],
        start=Start(
            call_id=CALL_ID,
            stream_id="3357459ca698d8c765bac10b0ec400bl",
            account_id="exampleaccount1",
            from_number="09990000105",
            to_number="04440000319",
            audio=AudioFormat("linear16", 16000),
            sequence=1,
        ),
        starts=starts(st.builds(AudioFormat, st.just("linear16"), rates), from_number=texts, to_number=texts),
        carrier_events=st.just(Connected())
        | st.builds(Media, audio_bytes, st.none(), numbers, numbers, numbers)
        | st.builds(Dtmf, keys, numbers, duration_ms=st.none() | numbers)
        | st.builds(Played, texts, numbers)
        | st.builds(Stop, texts, numbers),
        agent_events=st.builds(Media, audio_bytes) | st.builds(Mark, texts) | st.just(Clear()),
        meaning=meaning,
        comparable=comparable,
    ),
    auth=AuthCase(
        credentials={"auth_id": "an-api-key", "auth_tokens": ["an-api-token"]},
        others={"auth_id": "an-api-key", "auth_tokens": ["another-token"]},
        requests=[with_credentials("GET"), with_credentials("POST")],
        headers=["authorization"],
    ),
    rest=RestCase(
        server=rest_exotel.ExotelServer,
        credentials={
            "account": rest_exotel.ACCOUNT,
            "auth_id": rest_exotel.API_KEY,
            "auth_tokens": [rest_exotel.API_TOKEN],
        },
        wrong={"auth_tokens": ["wrong-key"]},
        missing={"account": None, "auth_id": None, "auth_tokens": []},
        secret=rest_exotel.API_TOKEN,
        answer=answer,
        operations={},
    ),
    callbacks=CallbackCase(
        call_id=CALL_ID,
        statuses=[
            (callback(EventType="ringing", Status="queued"), CallStatus.RINGING),
            (callback(EventType="answered", Status="in-progress"), CallStatus.ANSWERED),
            (callback(EventType="terminal", Status="completed"), CallStatus.COMPLETED),
            (callback(EventType="terminal", Status="busy"), CallStatus.BUSY),
            (callback(EventType="terminal", Status="no-answer"), CallStatus.NO_ANSWER),
            (callback(EventType="terminal", Status="failed"), CallStatus.FAILED),
            (CallbackRequest(document={"CallSid": CALL_ID, "Status": "busy", "Legs": []}), CallStatus.BUSY),
        ],
        unknown=callback(EventType="terminal", Status="dancing"),
        malformed=[CallbackRequest(document={"data": {}})],
    ),
    documents=DocumentCase(SOCKET, frozenset({"parameters", "busy", "hangup", "caller_id", "action", "sip"})),
)
