# SPDX-License-Identifier: BSD-2-Clause
"""The models of the session resource: its requests and its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.model.addresses import LABEL
from gateway.model.json_text import dump

METADATA_BYTES: Final = 8192
TRANSCRIPT_ENTRIES: Final = 5000
RESULTS_BYTES: Final = 1_000_000
TEXT_CHARACTERS: Final = 20_000
DEFAULT_IDLE_S: Final = 30
DEFAULT_WAIT_S: Final = 30
MAX_WAIT_S: Final = 120
LONGEST_DURATION_S: Final = 14_400
LONGEST_REPORT_S: Final = 86_400
MAX_OFFSET: Final = 2**31
LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999, in Unix seconds. So a number of milliseconds is not taken for one."""

RESERVED_PREFIXES: Final = ("_avatar.", "_patchbay.")
"""Beginnings of the names in metadata that are not the client's."""

METADATA_WORDS: Final = (
    f"Texts of yours by name, at most {METADATA_BYTES} bytes of JSON; returned with the session. "
    f"Names that begin with {' or '.join(f'`{prefix}`' for prefix in RESERVED_PREFIXES)} are reserved."
)
NAME_PATTERN: Final = rf"^{LABEL}(\.{LABEL})?$"


TELEPHONY: Final = "telephony"

_Value = TypeVar("_Value", JsonValue, dict[str, str])

SESSION_EXAMPLE: Final = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
TIME_EXAMPLE: Final = "2026-01-31T09:30:00.000Z"

NEW_EXAMPLE: Final[dict[str, JsonValue]] = {
    "agent": "support",
    "transport": {"type": "websocket"},
    "body": {"customer": 4711},
    "idle_timeout_seconds": 30,
    "max_duration_seconds": 3600,
    "metadata": {"ticket": "4711"},
}
REPORT_EXAMPLE: Final[dict[str, JsonValue]] = {
    "transcript": [{"role": "user", "text": "Good morning.", "timestamp": "2026-01-31T09:30:02.500Z"}],
    "duration_seconds": 62.5,
    "results": {"resolved": True},
}
SUMMARY_EXAMPLE: Final[dict[str, JsonValue]] = {
    "id": SESSION_EXAMPLE,
    "ulid": "sess_3WKSK7JX1583F98JZ0FZ0ZJ2Q7",
    "object": "session",
    "agent": "support.acme",
    "status": "running",
    "created_at": TIME_EXAMPLE,
    "started_at": "2026-01-31T09:30:01.250Z",
    "first_audio_at": None,
    "ended_at": None,
    "failed_at": None,
    "completed_at": "2026-01-31T09:31:03.750Z",
    "ending_at": None,
    "released_at": None,
    "released_by": None,
    "end_reason": None,
    "failure": None,
    "usage": {"seconds": 63.0, "frames_in": 0, "frames_out": 0},
    "transport": {
        "type": "websocket",
        "url": "[redacted]",
        "token": "[redacted]",
        "expires_at": "2026-01-31T09:35:00.000Z",
        "carrier": None,
    },
    "idle_timeout_seconds": 30,
    "max_duration_seconds": 3600,
    "metadata": {"ticket": "4711"},
}
FULL_EXAMPLE: Final[dict[str, JsonValue]] = {
    **SUMMARY_EXAMPLE,
    "call": None,
    "consultation": None,
    "heard_ms": None,
    "node": None,
    "reported_seconds": 62.5,
    "transcript": REPORT_EXAMPLE["transcript"],
    "results": REPORT_EXAMPLE["results"],
}


def _example(value: dict[str, JsonValue]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class Status(StrEnum):
    """The state of a session.

    `queued`: it waits for a slot, or for an instance of its agent that starts.
    """

    CREATED = "created"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


def _limited(limit: int, value: _Value) -> _Value:
    """Return the value. Raises ValueError if its JSON has more than `limit` bytes."""
    size = len(dump(value))
    if size > limit:
        raise ValueError(f"has {size} bytes of JSON; {limit} are allowed")
    return value


def _reject_number(value: Any) -> Any:
    """Raise ValueError for a number in a query: pydantic would take it for Unix seconds or milliseconds."""
    if isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdecimal():
        raise ValueError("is a number, not a time as RFC 3339 writes it")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not in the years 1 to 9999 of UTC") from None


def _metadata(value: dict[str, str]) -> dict[str, str]:
    if any(name.startswith(RESERVED_PREFIXES) for name in value):
        raise ValueError(f"has a name that begins with {' or '.join(RESERVED_PREFIXES)}: these are reserved")
    return _limited(METADATA_BYTES, value)


def _results(value: JsonValue) -> JsonValue:
    return _limited(RESULTS_BYTES, value)


def _spoken_at(value: Any) -> datetime:
    """Return a time that is given as RFC 3339 writes it, or in Unix seconds. Raises ValueError otherwise."""
    if isinstance(value, str):
        try:
            return _TIME.validate_python(_reject_number(value))
        except ValidationError as error:  # in pydantic's words
            (fault,) = error.errors()
            raise PydanticCustomError("time", "{words}", {"words": fault["msg"]}) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("should be a time as RFC 3339 writes it, or a number of Unix seconds")
    if not 0 <= value <= LATEST_S:
        raise ValueError("is no number of Unix seconds from 1970 to the year 9999")
    return datetime.fromtimestamp(value, UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
_TIME: Final = TypeAdapter[datetime](Moment)
QueryMoment = Annotated[Moment, BeforeValidator(_reject_number)]
"""For queries only: after a BeforeValidator pydantic no longer knows that a body was JSON."""
SpokenAt = Annotated[
    datetime,
    PlainValidator(_spoken_at),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "number", "minimum": 0, "maximum": LATEST_S},
            ]
        }
    ),
]
Metadata = Annotated[dict[str, str], AfterValidator(_metadata)]
Results = Annotated[JsonValue, AfterValidator(_results)]


class _RequestModel(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WebSocketTransport(_RequestModel):
    """The caller opens a WebSocket, before the offer expires; the session starts then."""

    type: Literal["websocket"]


class BotTransport(_RequestModel):
    """The agent starts at once, with only the `body`, and finds its caller by itself."""

    type: Literal["bot"]


class DailyTransport(_RequestModel):
    """A room at Daily is created, the agent starts in it, and the caller joins."""

    type: Literal["daily"]
    room_properties: dict[str, JsonValue] | None = Field(
        default=None,
        description="Daily's room properties, over the gateway's own: those that cost nothing, and those "
        "that the operator allows.",
    )
    token_properties: dict[str, JsonValue] | None = Field(
        default=None, description="Properties of the client's meeting token, likewise."
    )


class NewSession(_RequestModel):
    """A session to start."""

    model_config = _example(NEW_EXAMPLE)

    agent: str = Field(
        pattern=NAME_PATTERN,
        max_length=128,
        description="The agent's name, or its service host `AGENT.ORG`.",
        examples=["support"],
    )
    transport: WebSocketTransport | BotTransport | DailyTransport = Field(
        discriminator="type", description="How the caller's audio arrives."
    )
    body: JsonValue = Field(
        default=None,
        description="Any JSON for the agent: at most 1,000,000 bytes, 4,096 with the transport `websocket`.",
    )
    idle_timeout_seconds: int = Field(
        default=DEFAULT_IDLE_S, ge=1, le=600, description="Seconds of silence that end the session."
    )
    max_duration_seconds: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST_DURATION_S,
        description="Seconds after which it is ended. The agent's own limit applies if it is shorter, or if "
        "this is omitted; the answer has the one that applies.",
    )
    metadata: Metadata | None = Field(default=None, description=METADATA_WORDS, examples=[{"ticket": "4711"}])


class TranscriptEntry(_RequestModel):
    """One utterance."""

    role: str = Field(min_length=1, max_length=64, description="The speaker.", examples=["user"])
    text: str = Field(max_length=TEXT_CHARACTERS, description="The words.", examples=["Good morning."])
    timestamp: SpokenAt | None = Field(
        default=None, description="The time, RFC 3339 or Unix seconds.", examples=[TIME_EXAMPLE]
    )


class Report(_RequestModel):
    """The agent's report of a session; at least one of the three fields is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [REPORT_EXAMPLE],
            "anyOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("transcript", "duration_seconds", "results")
            ],
        }
    )

    transcript: list[TranscriptEntry] | None = Field(
        default=None,
        fail_fast=True,
        min_length=1,
        max_length=TRANSCRIPT_ENTRIES,
        description="The utterances, in order.",
    )
    duration_seconds: float | None = Field(
        default=None,
        ge=0,
        le=LONGEST_REPORT_S,
        description="The length of the conversation, in seconds.",
        examples=[62.5],
    )
    results: Results = Field(
        default=None,
        description=f"Any JSON, at most {RESULTS_BYTES:,} bytes.",
        examples=[{"resolved": True}],
    )

    @model_validator(mode="after")
    def _is_not_empty(self) -> Report:
        if self.transcript is None and self.duration_seconds is None and self.results is None:
            raise ValueError("one of transcript, duration_seconds and results is needed")
        return self


class ShowQuery(_RequestModel):
    """Options for showing a session."""

    wait_for_completion: bool = Field(
        default=False, description="Answer when the session is over, or after the timeout."
    )
    timeout_seconds: int = Field(
        default=DEFAULT_WAIT_S,
        ge=1,
        le=MAX_WAIT_S,
        description="Seconds to wait; after that the answer is the session's current state.",
    )


class ListQuery(_RequestModel):
    """Filters and page of the list of sessions."""

    limit: int = Field(default=20, ge=1, le=100, description="The number of sessions on a page.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="The number of newer sessions to skip.")
    agent: str | None = Field(
        default=None, pattern=NAME_PATTERN, max_length=128, description="Only sessions of this agent."
    )
    status: Status | None = Field(default=None, description="Only sessions in this status.")
    created_from: QueryMoment | None = Field(
        default=None, description="Only sessions created at this time or later."
    )
    created_before: QueryMoment | None = Field(
        default=None, description="Only sessions created before this time."
    )


class Failure(BaseModel):
    """The reason of a failure."""

    code: str = Field(description="For programs: a code of the table of reasons.", examples=["agent_lost"])
    message: str = Field(description="For people.", examples=["the agent's socket was lost without a close"])


class Usage(BaseModel):
    """The use of a session, while it runs no more than five seconds old."""

    seconds: float = Field(
        description="From when it got its slot until now or until its end: starting counts.", examples=[62.5]
    )
    frames_in: int = Field(description="Messages from the caller.", examples=[3125])
    frames_out: int = Field(description="Messages to the caller.", examples=[1870])


class TransportView(BaseModel):
    """The transport of the caller's audio. Secrets are `[redacted]` except in the answer to the start."""

    type: str = Field(
        description="`websocket`, `bot`, `daily`, `webrtc` or `telephony`.", examples=["websocket"]
    )
    url: str | None = Field(
        default=None,
        description="The URL for the caller: of the media socket, or of the room.",
        examples=["wss://voice.example.com/ws/generic/support.acme"],
    )
    token: str | None = Field(
        default=None, description="The token that admits the caller, once.", examples=["[redacted]"]
    )
    expires_at: str | None = Field(
        default=None, description="The time by which the caller must have come.", examples=[TIME_EXAMPLE]
    )
    carrier: str | None = Field(default=None, description="The carrier of a telephone call.")


class SessionSummary(BaseModel):
    """A session without its report. Times are RFC 3339, UTC."""

    model_config = _example(SUMMARY_EXAMPLE)

    id: str = Field(examples=[SESSION_EXAMPLE])
    ulid: str | None = Field(
        description="The same id as `sess_` and a ULID, which is taken wherever an id is."
    )
    object: Literal["session"] = "session"
    agent: str = Field(description="The agent's service host.", examples=["support.acme"])
    status: Status
    created_at: str = Field(examples=[TIME_EXAMPLE])
    started_at: str | None = Field(description="The time of the agent's start.")
    first_audio_at: str | None = Field(
        description="The time of the agent's first audio; known within five seconds."
    )
    ended_at: str | None = Field(description="The time of the end, whatever its reason.")
    failed_at: str | None = Field(description="The time of the end, if the session failed.")
    completed_at: str | None = Field(description="The time of the agent's report.")
    ending_at: str | None = Field(
        description="The time of the reason to end, if the instance was not known to be free then."
    )
    released_at: str | None = Field(description="The time at which such an instance was free.")
    released_by: str | None = Field(
        description="How it was seen to be free: `answered`, `ready`, `gone` or `timeout`; null if it was "
        "free at the end.",
        examples=["answered"],
    )
    end_reason: str | None = Field(description="The reason of the end.", examples=["caller_hangup"])
    failure: Failure | None
    usage: Usage
    transport: TransportView
    idle_timeout_seconds: float | None = Field(description="As it applies; null if silence ends nothing.")
    max_duration_seconds: float | None = Field(
        description="As it applies. Null in records of releases that did not write it down."
    )
    metadata: JsonValue = Field(description="As in the request.")


class ReportedEntry(BaseModel):
    """One utterance."""

    role: str
    text: str
    timestamp: str | None = Field(description="Null if the report has none.")


class CallView(BaseModel):
    """The telephone call of a session, from its carrier's reports."""

    id: str | None = Field(
        description="The carrier's id of the call.", examples=["CA00000000000000000000000000000001"]
    )
    status: str | None = Field(
        description="`dialing`, `queued`, `ringing`, `answered`, `machine`, `completed`, `busy`, "
        "`no_answer`, `failed` or `canceled`; null if the carrier reports nothing, and a day later.",
        examples=["answered"],
    )
    answered_at: str | None = Field(description="The time of the answer.", examples=[TIME_EXAMPLE])


class ConsultationView(BaseModel):
    """A warm transfer of the session's call: the call to the person who may take it."""

    id: str
    status: str = Field(
        description="`ringing`, `announcing` (answered, and told of the caller), `joining`, `joined`, or "
        "`ended`: the caller is back with the agent, or has hung up.",
        examples=["announcing"],
    )
    result: str | None = Field(
        description="`joined`, `busy`, `no_answer`, `not_taken`, `failed`, `withdrawn` or `caller_left`; "
        "null while it is not over.",
        examples=["not_taken"],
    )


class Session(SessionSummary):
    """A session. Times are RFC 3339, UTC."""

    model_config = _example(FULL_EXAMPLE)

    call: CallView | None = Field(description="The telephone call, if the session is one.")
    consultation: ConsultationView | None = Field(
        description="The latest warm transfer that was asked for, if any; for a day."
    )
    heard_ms: int | None = Field(
        description="Milliseconds of the agent's sound that the caller has heard so far; null if it is not "
        "counted, as for a client without a carrier, or the session has not run."
    )

    node: str | None = Field(
        description="The internal address of the machine that has the session, if machines have addresses "
        "(`node_url`), and the session is not over.",
    )

    reported_seconds: float | None = Field(description="The reported duration.")
    transcript: list[ReportedEntry] | None = Field(description="As reported.")
    results: JsonValue = Field(description="As reported.")


class SessionPage(BaseModel):
    """Sessions, the newest first."""

    object: Literal["list"] = "list"
    data: list[SessionSummary]
    total: int = Field(description="The number of all matches.")
    limit: int
    offset: int
    has_more: bool
