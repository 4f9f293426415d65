# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's case: what the conformance suite needs to test it. Cases are in tests/carriers/NAME/case.py."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackRequest
from gateway.carriers.signatures import SignedRequest
from gateway.config import CarrierAccount
from serializers.events import AudioFormat, Clear, Connected, Dtmf, Mark, Media, Played, Start, Stop
from tests.harness.rest_server import RestServer

Message = dict[str, Any]


@dataclass(frozen=True)
class MediaCase:
    """The carrier's media-stream messages.

    `documented`: the meaning of each line of `NAME_documented_examples.jsonl`, in order. `calls`: the names
    of the transcripts of whole calls. `meaning`: the event that a message of those calls stands for, from the
    message and whether the carrier sent it. `comparable`: a message without what no event contains, so that a
    message of the carrier can be compared with ours. `start`: a call with all that the carrier's own `start`
    contains. `starts`, `carrier_events`, `agent_events`: all that the dialect can express.
    """

    documented: Sequence[Any]
    calls: Sequence[str]
    start: Start
    starts: st.SearchStrategy[Start]
    carrier_events: st.SearchStrategy[Any]
    agent_events: st.SearchStrategy[Any]
    meaning: Callable[[Message, bool], Any]
    comparable: Callable[[Message], Message] = dict


@dataclass(frozen=True)
class AuthCase:
    """Requests that the carrier has signed, or that contain its credentials.

    `credentials`: of the account in the configuration. `others`: of another account. `requests`: all accepted
    for the account. `headers`: those that authenticate
    a request: without any of them it is refused. `lists`: those of the headers that may have several values.
    """

    credentials: Mapping[str, Any]
    others: Mapping[str, Any]
    requests: Sequence[SignedRequest]
    headers: Sequence[str]
    lists: Sequence[str] = ()


@dataclass(frozen=True)
class RestCase:
    """The carrier's REST API.

    `server`: the test kit's server. `credentials`: of an account there. `wrong`: credentials that the server
    refuses. `missing`: an account without REST credentials. `secret`: the text that must never be repeated.
    `answer`: answers the server's only call. `operations`: the server's operation of each supported verb that
    acts on a call.
    """

    server: Callable[[], RestServer]
    credentials: Mapping[str, Any]
    wrong: Mapping[str, Any]
    missing: Mapping[str, Any]
    secret: str
    answer: Callable[[Any], None]
    operations: Mapping[str, str]


@dataclass(frozen=True)
class CallbackCase:
    """The carrier's status callbacks.

    `statuses`: callbacks for a call with this id, and the status that each reports. `unknown`: a callback
    with a status that does not exist. `malformed`: callbacks in a form that the carrier does not send.
    `stream_failed`: callbacks for a stream that could not be opened, or broke.
    """

    call_id: str
    statuses: Sequence[tuple[CallbackRequest, CallStatus]]
    unknown: CallbackRequest
    malformed: Sequence[CallbackRequest]
    stream_failed: Sequence[CallbackRequest] = ()


@dataclass(frozen=True)
class DocumentCase:
    """The documents that the carrier fetches.

    `stream_url`: a URL that its document can have. `cannot`: what its documents cannot express: "parameters",
    "busy", "hangup", "caller_id", "action", "sip".
    """

    stream_url: str
    cannot: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """A carrier's case. The parts that the carrier does not have are None, as in its `Carrier` record."""

    name: str
    media: MediaCase
    auth: AuthCase | None = None
    rest: RestCase | None = None
    callbacks: CallbackCase | None = None
    documents: DocumentCase | None = None

    def __str__(self) -> str:
        return self.name

    def account(self, table: Mapping[str, Any]) -> CarrierAccount:
        return CarrierAccount.model_validate({"carrier": self.name, **table})


# What several carriers' events have in common

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
numbers = st.integers(min_value=0, max_value=10**18 - 1)
rates = st.sampled_from([8000, 16000, 24000])
audio_bytes = st.binary(max_size=400)
tracks = st.sampled_from(["inbound", "outbound"])
announced_tracks = st.lists(tracks, min_size=1, max_size=2, unique=True).map(tuple)
keys = st.sampled_from("0123456789*#ABCD")
parameters = st.dictionaries(
    texts, st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4
)
AUDIO = b"\xff\x7f" * 80
"""In place of the payloads of documented examples, which the documents cut short."""


def starts(audio: st.SearchStrategy[AudioFormat], **more: Any) -> st.SearchStrategy[Start]:
    return st.builds(
        Start,
        call_id=ids,
        stream_id=ids,
        account_id=ids,
        audio=audio,
        parameters=parameters,
        sequence=numbers,
        **more,
    )


def numbers_from_parameters(start: Start) -> Start:
    """The start of a carrier that sends no numbers: they are those that the parameters contain."""
    return replace(
        start,
        from_number=start.parameters.get("from_number"),
        to_number=start.parameters.get("to_number"),
    )


def meaning(message: Message, from_carrier: bool) -> Any:
    """The event of a message whose `event` is named as Twilio names it; None for `start`.

    Written without the dialects, which it is compared with.
    """
    number = message.get("sequenceNumber", message.get("sequence_number"))
    sequence = None if number is None else int(number)
    match message["event"]:
        case "connected":
            return Connected(message.get("protocol"), message.get("version"))
        case "start":
            return None
        case "media" if from_carrier:
            media = message["media"]
            audio = base64.b64decode(media["payload"])
            chunk, timestamp_ms = int(media["chunk"]), int(media["timestamp"])
            return Media(audio, media.get("track"), chunk, timestamp_ms, sequence=sequence)
        case "media":
            return Media(base64.b64decode(message["media"]["payload"]))
        case "dtmf":
            duration = message["dtmf"].get("duration")
            duration_ms = None if duration is None else int(duration)
            return Dtmf(message["dtmf"]["digit"], sequence, duration_ms=duration_ms)
        case "mark":
            name = message["mark"]["name"]
            return Played(name, sequence) if from_carrier else Mark(name)
        case "clear":
            return Clear()
        case "stop":
            return Stop(message.get("stop", {}).get("reason"), sequence)
    raise AssertionError(f"no transcript has {message['event']}")


def without(message: Message, *names: str) -> Message:
    """The message, its body without the fields that are named."""
    event = message["event"]
    return {**message, event: {key: value for key, value in message[event].items() if key not in names}}
