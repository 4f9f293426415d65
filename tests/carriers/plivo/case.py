# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's case of the conformance suite."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode

from hypothesis import strategies as st
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackRequest
from gateway.carriers.signatures import FORM, SignedRequest
from serializers.events import AudioFormat, Clear, Cleared, Dtmf, Mark, Media, Played, Start
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
    announced_tracks,
    audio_bytes,
    keys,
    numbers,
    numbers_from_parameters,
    rates,
    starts,
    texts,
    tracks,
)
from tests.harness import rest_plivo

AUTH_TOKEN = "an-auth-token"
NONCE = "12345"
CALL_ID = "97ceeb52-58b6-11e1-86da-77300b68f8bb"
WEBHOOK = "https://gw.example.com/xml/plivo?agent=support&org=acme"
SOCKET = "wss://gw.example.com/ws/plivo/TOKEN"
FIELDS = {"CallUUID": CALL_ID, "CallStatus": "ringing", "From": "14155550100", "To": "14155550199"}


def signed(method: str, url: str, fields: dict[str, str]) -> SignedRequest:
    base = construct_post_url(url, fields) if method == "POST" else construct_get_url(url, {})
    signature = get_signature_v3(AUTH_TOKEN.encode(), base.decode(), NONCE).decode()
    headers = {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": NONCE}
    headers |= {"content-type": FORM} if fields else {}
    return SignedRequest(method, (url,), headers, urlencode(fields).encode(), "203.0.113.7", 0.0)


def callback(**fields: str) -> CallbackRequest:
    return CallbackRequest({"CallUUID": CALL_ID, **fields})


def of_stream(**fields: str) -> CallbackRequest:
    return CallbackRequest({"CallUUID": CALL_ID, **fields}, is_for_stream=True)


def meaning(message: Message, from_carrier: bool) -> Any:
    """Plivo has other names for what agents send, and says when a key was pressed."""
    sequence = message.get("sequenceNumber")
    match message["event"]:
        case "playAudio":
            return Media(base64.b64decode(message["media"]["payload"]))
        case "dtmf":
            pressed = message["dtmf"]
            return Dtmf(pressed["digit"], sequence, timestamp_ms=int(pressed["timestamp"]))
        case "checkpoint":
            return Mark(message["name"])
        case "playedStream":
            return Played(message["name"], sequence)
        case "clearAudio":
            return Clear()
        case "clearedAudio":
            return Cleared(sequence)
    return case.meaning(message, from_carrier)


def comparable(message: Message) -> Message:
    """Pipecat puts the stream's id into `playAudio`, the documents do not (§4.3)."""
    if message["event"] == "playAudio":
        return {name: value for name, value in message.items() if name != "streamId"}
    return message


def answer(server: rest_plivo.PlivoServer) -> None:
    (call,) = server.calls.values()
    call.state = "in-progress"


CASE = Case(
    name="plivo",
    media=MediaCase(
        documented=[
            Start(
                call_id=CALL_ID,
                stream_id="20170ada-f610-433b-8758-c02a2aab3662",
                account_id="MAXXXXXXXXXXXXXXXXXX",
                parameters={"userId": "12345", "sessionId": "abc-xyz"},
                sequence=1,
            ),
            Media(AUDIO, "inbound", chunk=41, timestamp_ms=1705312200000, sequence=42),
            Dtmf("5", sequence=50, timestamp_ms=1705312201000),
            Played("customer greeting audio", sequence=51),
            Cleared(sequence=52),
            Media(AUDIO),
            Mark("customer greeting audio"),
            Clear(),
            Dtmf("1234#"),
        ],
        calls=["plivo_normal_dtmf_checkpoint", "plivo_early_hangup"],
        start=Start(
            call_id="97ceeb52",
            stream_id="20170ada",
            account_id="MA1",
            parameters={"tenant": "acme", "agent": "support"},
            sequence=1,
        ),
        starts=starts(
            st.builds(AudioFormat, st.sampled_from(["mulaw", "linear16"]), rates), tracks=announced_tracks
        ).map(numbers_from_parameters),
        carrier_events=st.builds(Media, audio_bytes, tracks, numbers, numbers, numbers)
        | st.builds(Dtmf, keys, numbers, st.none() | numbers)
        | st.builds(Played, texts, numbers)
        | st.builds(Cleared, numbers),
        agent_events=st.builds(Media, audio_bytes)
        | st.builds(Mark, texts)
        | st.just(Clear())
        | st.builds(Dtmf, st.text("0123456789*#ABCD", min_size=1, max_size=8)),
        meaning=meaning,
        comparable=comparable,
    ),
    auth=AuthCase(
        credentials={"auth_tokens": [AUTH_TOKEN]},
        others={"auth_tokens": ["another-token"]},
        requests=[signed("POST", WEBHOOK, FIELDS), signed("GET", WEBHOOK, {}), signed("GET", SOCKET, {})],
        headers=["x-plivo-signature-v3", "x-plivo-signature-v3-nonce"],
        lists=["x-plivo-signature-v3"],  # docs/reference/carriers.md §9.3
    ),
    rest=RestCase(
        server=rest_plivo.PlivoServer,
        credentials={"auth_id": rest_plivo.AUTH_ID, "auth_tokens": [rest_plivo.AUTH_TOKEN]},
        wrong={"auth_tokens": ["wrong-key"]},
        missing={"auth_id": None, "auth_tokens": []},
        secret=rest_plivo.AUTH_TOKEN,
        answer=answer,
        operations={"hangup": "hangup", "transfer": "transfer", "dtmf": "dtmf"},
    ),
    callbacks=CallbackCase(
        call_id=CALL_ID,
        statuses=[
            (callback(Event="Ring", CallStatus="ringing"), CallStatus.RINGING),
            (callback(Event="StartApp", CallStatus="in-progress"), CallStatus.ANSWERED),
            (callback(Event="MachineDetection", Machine="true"), CallStatus.MACHINE),
            (callback(Event="Hangup", CallStatus="completed"), CallStatus.COMPLETED),
            (callback(Event="Hangup", CallStatus="busy"), CallStatus.BUSY),
            (callback(Event="Hangup", CallStatus="failed"), CallStatus.FAILED),
            (callback(Event="Hangup", CallStatus="timeout"), CallStatus.NO_ANSWER),
            (callback(Event="Hangup", CallStatus="no-answer"), CallStatus.NO_ANSWER),
            (callback(Event="Hangup", CallStatus="cancel"), CallStatus.CANCELED),
        ],
        unknown=callback(CallStatus="dancing"),
        malformed=[CallbackRequest(document={"data": {}})],
        stream_failed=[of_stream(Event="failed", StatusReason="no route")],
    ),
    documents=DocumentCase("wss://gw.example.com/ws/plivo?serviceHost=support.acme&token=TOKEN"),
)
