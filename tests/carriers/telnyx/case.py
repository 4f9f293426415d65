# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's case of the conformance suite."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackRequest
from gateway.carriers.signatures import SignedRequest
from serializers.events import AudioFormat, Clear, Connected, Dtmf, Error, Mark, Media, Played, Start, Stop
from tests.carriers import case
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
    numbers,
    rates,
    starts,
    texts,
    tracks,
    without,
)
from tests.harness import rest_telnyx

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NOW = 1_756_000_000
CALL_ID = "v3:constructedCallControlId0000000000000000000000000000000001"


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signed(method: str, body: bytes) -> SignedRequest:
    signature = base64.b64encode(KEY.sign(f"{NOW}|".encode() + body)).decode()
    headers = {"telnyx-signature-ed25519": signature, "telnyx-timestamp": str(NOW)}
    return SignedRequest(method, ("https://gw.example.com/xml/telnyx",), headers, body, "203.0.113.7", NOW)


def event(name: str, **payload: Any) -> CallbackRequest:
    """An event of Call Control."""
    return CallbackRequest(
        document={"data": {"event_type": name, "payload": {"call_control_id": CALL_ID, **payload}}}
    )


def form(**fields: str) -> CallbackRequest:
    """A callback of TeXML."""
    return CallbackRequest({"CallSid": CALL_ID, **fields})


def meaning(message: Message, from_carrier: bool) -> Any:
    """Telnyx says when a key was pressed."""
    expected = case.meaning(message, from_carrier)
    if not isinstance(expected, Dtmf):
        return expected
    pressed_at = datetime.fromisoformat(message["occurred_at"])
    return replace(expected, timestamp_ms=round(pressed_at.timestamp() * 1000))


def comparable(message: Message) -> Message:
    """Tags and state are chosen by the caller of the API, no event contains the session's id, and the time of
    a key has milliseconds here.
    """
    if message["event"] == "start":
        return without(message, "tags", "client_state", "call_session_id")
    if message["event"] == "dtmf":
        at = datetime.fromisoformat(message["occurred_at"])
        at -= timedelta(microseconds=at.microsecond % 1000)
        return {**message, "occurred_at": at.isoformat()}
    return message


def answer(server: rest_telnyx.TelnyxServer) -> None:
    (call,) = server.calls.values()
    call.state = "answered"


CASE = Case(
    name="telnyx",
    media=MediaCase(
        documented=[
            Connected(None, "1.0.0"),
            Start(
                call_id="v2:T02llQxIyaRkhfRKxgAP8nY511EhFLizdvdUKJiSw8d6A9BborherQ",
                stream_id="32DE0DEA-53CB-4B21-89A4-9E1819C043BC",
                account_id="3E6F995F-85F7-4705-9741-53B116D28237",
                from_number="+13122010094",
                to_number="+13122123456",
                sequence=1,
            ),
            Media(AUDIO, "inbound", chunk=2, timestamp_ms=5, sequence=4),
            Stop(sequence=5),
            Dtmf("1", sequence=5, timestamp_ms=1749113659698),
            Played("some_mark_name", sequence=5),
            Error(100004, "invalid_media", "the media payload could not be decoded"),
            Media(AUDIO),
            Clear(),
            Mark("some_mark_name"),
        ],
        calls=["telnyx_normal_dtmf_mark", "telnyx_early_hangup"],
        start=Start(
            call_id="v3:1",
            stream_id="aaaaaaaa-0000-4000-8000-000000000001",
            account_id="3E6F995F",
            from_number="+14155550100",
            to_number="+14155550199",
            audio=AudioFormat("alaw"),
            parameters={"tenant": "acme"},
            sequence=1,
        ),
        starts=starts(
            st.builds(
                AudioFormat,
                st.sampled_from(["mulaw", "alaw", "g722", "opus", "amr-wb"]),
                rates,
                st.integers(1, 2),
            )
            | st.builds(AudioFormat, st.just("linear16"), rates, big_endian=st.just(True)),
            from_number=texts,
            to_number=texts,
        ),
        carrier_events=st.builds(Connected, st.none(), texts)
        | st.builds(Media, audio_bytes, tracks, numbers, numbers, numbers)
        | st.builds(Dtmf, keys, numbers, st.none() | st.integers(0, 253_402_300_799_999))  # to the year 9999
        | st.builds(Played, texts, numbers)
        | st.builds(Stop, st.none(), numbers)
        | st.builds(Error, numbers, texts, texts),
        agent_events=st.builds(Media, audio_bytes) | st.builds(Mark, texts) | st.just(Clear()),
        meaning=meaning,
        comparable=comparable,
    ),
    auth=AuthCase(
        credentials={"public_keys": [public(KEY)]},
        others={"public_keys": [public(OTHER_KEY)]},
        requests=[signed("POST", b'{"data":{"event_type":"call.initiated"}}'), signed("GET", b"")],
        headers=["telnyx-signature-ed25519", "telnyx-timestamp"],
    ),
    rest=RestCase(
        server=rest_telnyx.TelnyxServer,
        credentials={"api_key": rest_telnyx.API_KEY, "connection_id": rest_telnyx.CONNECTION},
        wrong={"api_key": "wrong-key"},
        missing={"api_key": None, "connection_id": None},
        secret=rest_telnyx.API_KEY,
        answer=answer,
        operations={"hangup": "command", "transfer": "command", "dtmf": "command"},
    ),
    callbacks=CallbackCase(
        call_id=CALL_ID,
        statuses=[
            (event("call.initiated"), CallStatus.QUEUED),
            (event("call.ringing"), CallStatus.RINGING),
            (event("call.answered"), CallStatus.ANSWERED),
            (event("call.bridged"), CallStatus.ANSWERED),
            (event("call.machine.detection.ended", result="machine"), CallStatus.MACHINE),
            (event("call.hangup"), CallStatus.COMPLETED),
            (event("call.hangup", hangup_cause="normal_clearing"), CallStatus.COMPLETED),
            (event("call.hangup", hangup_cause="time_limit"), CallStatus.COMPLETED),
            (event("call.hangup", hangup_cause="user_busy"), CallStatus.BUSY),
            (event("call.hangup", hangup_cause="timeout"), CallStatus.NO_ANSWER),
            (event("call.hangup", hangup_cause="no_answer"), CallStatus.NO_ANSWER),
            (event("call.hangup", hangup_cause="originator_cancel"), CallStatus.CANCELED),
            (event("call.hangup", hangup_cause="unallocated_number"), CallStatus.FAILED),
            (form(CallStatus="ringing"), CallStatus.RINGING),
            (form(CallStatus="completed"), CallStatus.COMPLETED),
        ],
        unknown=event("call.dancing"),
        malformed=[
            CallbackRequest(document=[]),
            CallbackRequest(document={"data": {"event_type": 7, "payload": {}}}),
            CallbackRequest(document={"data": {"event_type": "call.answered"}}),
        ],
        stream_failed=[
            event("streaming.failed", failure_reason="connection_failed"),
            CallbackRequest({"CallSid": CALL_ID, "StreamEvent": "stream-failed"}, is_for_stream=True),
            CallbackRequest({"CallSid": CALL_ID, "StreamEvent": "stream-error"}, is_for_stream=True),
        ],
    ),
    documents=DocumentCase("wss://gw.example.com/ws/telnyx?serviceHost=support.acme&token=TOKEN"),
)
