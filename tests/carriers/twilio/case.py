# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's case of the conformance suite."""

from __future__ import annotations

from urllib.parse import urlencode

from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackRequest
from gateway.carriers.signatures import FORM, SignedRequest
from serializers.events import AudioFormat, Clear, Connected, Dtmf, Mark, Media, Played, Start, Stop
from tests.carriers.case import (
    AUDIO,
    AuthCase,
    CallbackCase,
    Case,
    DocumentCase,
    MediaCase,
    RestCase,
    announced_tracks,
    audio_bytes,
    keys,
    meaning,
    numbers,
    numbers_from_parameters,
    rates,
    starts,
    texts,
    tracks,
)
from tests.harness import rest_twilio

AUTH_TOKEN = "an-auth-token"
CALL_ID = "CA00000000000000000000000000000001"
WEBHOOK = "https://gw.example.com/xml/twilio?agent=support&org=acme"
SOCKET = "wss://gw.example.com/ws/twilio/support.acme"
FIELDS = {"CallSid": CALL_ID, "CallStatus": "ringing", "From": "+14155550100", "To": "+14155550199"}


def signed(method: str, url: str, fields: dict[str, str]) -> SignedRequest:
    signature = RequestValidator(AUTH_TOKEN).compute_signature(url, fields)
    headers = {"x-twilio-signature": signature, **({"content-type": FORM} if fields else {})}
    return SignedRequest(method, (url,), headers, urlencode(fields).encode(), "203.0.113.7", 0.0)


def callback(**fields: str) -> CallbackRequest:
    return CallbackRequest({"CallSid": CALL_ID, **fields})


def answer(server: rest_twilio.TwilioServer) -> None:
    (call,) = server.calls.values()
    call.resource["status"] = "in-progress"


CASE = Case(
    name="twilio",
    media=MediaCase(
        documented=[
            Connected("Call", "1.0.0"),
            Start(
                call_id="CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
                stream_id="MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
                account_id="ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
                parameters={"FirstName": "Jane", "LastName": "Doe", "RemoteParty": "Bob"},
                sequence=1,
            ),
            Media(AUDIO, "outbound", chunk=1, timestamp_ms=5, sequence=3),
            Media(AUDIO, "inbound", chunk=2, timestamp_ms=5, sequence=4),
            Dtmf("1", sequence=5),
            Played("my label", sequence=4),
            Stop(sequence=5),
            Media(AUDIO),
            Mark("my label"),
            Clear(),
        ],
        calls=["twilio_normal_dtmf_mark", "twilio_early_hangup"],
        start=Start(
            call_id="CA1",
            stream_id="MZ1",
            account_id="AC1",
            from_number="+14155550100",
            to_number="+14155550199",
            parameters={"from_number": "+14155550100", "to_number": "+14155550199"},
            sequence=1,
        ),
        starts=starts(
            st.builds(AudioFormat, st.just("mulaw"), rates, st.integers(1, 2)), tracks=announced_tracks
        ).map(numbers_from_parameters),
        carrier_events=st.builds(Connected, texts, texts)
        | st.builds(Media, audio_bytes, tracks, numbers, numbers, numbers)
        | st.builds(Dtmf, keys, numbers)
        | st.builds(Played, texts, numbers)
        | st.builds(Stop, st.none(), numbers),
        agent_events=st.builds(Media, audio_bytes) | st.builds(Mark, texts) | st.just(Clear()),
        meaning=meaning,
    ),
    auth=AuthCase(
        credentials={"auth_tokens": [AUTH_TOKEN]},
        others={"auth_tokens": ["another-token"]},
        requests=[signed("POST", WEBHOOK, FIELDS), signed("GET", WEBHOOK, {}), signed("GET", SOCKET, {})],
        headers=["x-twilio-signature"],
    ),
    rest=RestCase(
        server=rest_twilio.TwilioServer,
        credentials={"account": rest_twilio.ACCOUNT, "auth_tokens": [rest_twilio.AUTH_TOKEN]},
        wrong={"auth_tokens": ["wrong-key"]},
        missing={"account": None, "auth_tokens": []},
        secret=rest_twilio.AUTH_TOKEN,
        answer=answer,
        operations={"hangup": "update", "transfer": "update"},
    ),
    callbacks=CallbackCase(
        call_id=CALL_ID,
        statuses=[
            (callback(CallStatus="queued"), CallStatus.QUEUED),
            (callback(CallStatus="initiated"), CallStatus.QUEUED),
            (callback(CallStatus="ringing"), CallStatus.RINGING),
            (callback(CallStatus="in-progress"), CallStatus.ANSWERED),
            (callback(CallStatus="completed"), CallStatus.COMPLETED),
            (callback(CallStatus="busy"), CallStatus.BUSY),
            (callback(CallStatus="no-answer"), CallStatus.NO_ANSWER),
            (callback(CallStatus="failed"), CallStatus.FAILED),
            (callback(CallStatus="canceled"), CallStatus.CANCELED),
            (callback(CallStatus="in-progress", AnsweredBy="machine_start"), CallStatus.MACHINE),
            (callback(AnsweredBy="fax"), CallStatus.MACHINE),
            (callback(CallStatus="in-progress", AnsweredBy="human"), CallStatus.ANSWERED),
        ],
        unknown=callback(CallStatus="dancing"),
        malformed=[CallbackRequest(document={"data": {}})],
        stream_failed=[
            CallbackRequest(
                {"CallSid": CALL_ID, "StreamEvent": "stream-error", "StreamError": "31920"},
                is_for_stream=True,
            )
        ],
    ),
    documents=DocumentCase(f"{SOCKET}/TOKEN"),
)
