# SPDX-License-Identifier: BSD-2-Clause
"""What the session resource takes and what it answers."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from gateway.api.framework.strict_json import dump
from gateway.api.sessions.session_examples import (
    NEW_EXAMPLE,
    REPORT_EXAMPLE,
    SESSION_EXAMPLE,
    SESSION_WHOLE,
    SUMMARY_EXAMPLE,
    TIME_EXAMPLE,
)
from gateway.model.addresses import LABEL

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
NAME_PATTERN: Final = rf"^{LABEL}(\.{LABEL})?$"


def _example(value: dict[str, JsonValue]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class Status(StrEnum):
    """Where a session is in its life. `queued` is for gateways that queue; this one starts or refuses."""

    CREATED = "created"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


def _at_most(limit: int, value: JsonValue) -> JsonValue:
    size = len(dump(value))
    if size > limit:
        raise ValueError(f"has {size} bytes of JSON; {limit} are allowed")
    return value


def _written_out(value: Any) -> Any:
    """Refuses the bare number that a query's text may be, which would be taken for Unix seconds or ms."""
    if isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdecimal():
        raise ValueError("is a number, not a time as RFC 3339 writes it")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not in the years 1 to 9999 of UTC") from None


def _metadata(value: JsonValue) -> JsonValue:
    return _at_most(METADATA_BYTES, value)


def _results(value: JsonValue) -> JsonValue:
    return _at_most(RESULTS_BYTES, value)


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
QueryMoment = Annotated[Moment, BeforeValidator(_written_out)]
"""For queries only: behind a validator of ours pydantic no longer knows that a body was JSON."""
Metadata = Annotated[JsonValue, AfterValidator(_metadata)]
Results = Annotated[JsonValue, AfterValidator(_results)]


class _RequestModel(BaseModel):
    """What is taken: nothing but what is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WebSocketTransport(_RequestModel):
    """The caller opens a WebSocket; the session starts when it is there, and the offer expires."""

    type: Literal["websocket"]


class BotTransport(_RequestModel):
    """The agent is started at once, with nothing but the `body`, and finds its caller by itself."""

    type: Literal["bot"]


class DailyTransport(_RequestModel):
    """A room at Daily is made, the agent is started in it, and the caller joins."""

    type: Literal["daily"]
    room_properties: dict[str, JsonValue] | None = Field(
        default=None, description="Daily's room properties, over the gateway's own."
    )
    token_properties: dict[str, JsonValue] | None = Field(
        default=None, description="Daily's meeting token properties, over the gateway's own."
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
        discriminator="type", description="How the caller's sound comes."
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
        description="Seconds after which it is ended. The agent's own limit holds if it is shorter or none "
        "is given.",
    )
    metadata: Metadata = Field(
        default=None,
        description=f"Any JSON of yours, at most {METADATA_BYTES} bytes; given back wherever the session is.",
        examples=[{"ticket": 4711}],
    )


class TranscriptEntry(_RequestModel):
    """One thing that was said."""

    role: str = Field(min_length=1, max_length=64, description="Who said it.", examples=["user"])
    text: str = Field(max_length=TEXT_CHARACTERS, description="What was said.", examples=["Good morning."])
    timestamp: Moment = Field(description="When, RFC 3339.", examples=[TIME_EXAMPLE])


class Report(_RequestModel):
    """What the agent's side reports of a session; at least one of the three."""

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
        default=None, min_length=1, max_length=TRANSCRIPT_ENTRIES, description="What was said, in order."
    )
    duration_seconds: float | None = Field(
        default=None,
        ge=0,
        le=LONGEST_REPORT_S,
        description="How long the conversation was.",
        examples=[62.5],
    )
    results: Results = Field(
        default=None,
        description=f"Any JSON, at most {RESULTS_BYTES:,} bytes.",
        examples=[{"resolved": True}],
    )

    @model_validator(mode="after")
    def _says_something(self) -> Report:
        if self.transcript is None and self.duration_seconds is None and self.results is None:
            raise ValueError("one of transcript, duration_seconds and results is needed")
        return self


class ShowQuery(_RequestModel):
    """Whether to wait."""

    wait_for_completion: bool = Field(
        default=False, description="Answer only once the session is over, or the time is."
    )
    timeout_seconds: int = Field(
        default=DEFAULT_WAIT_S,
        ge=1,
        le=MAX_WAIT_S,
        description="How long to wait; after that the session is answered as it is.",
    )


class ListQuery(_RequestModel):
    """Which sessions."""

    limit: int = Field(default=20, ge=1, le=100, description="At most so many.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Leave out so many of the newest.")
    agent: str | None = Field(
        default=None, pattern=NAME_PATTERN, max_length=128, description="Of this agent only."
    )
    status: Status | None = Field(default=None, description="In this status only.")
    created_from: QueryMoment | None = Field(default=None, description="Made at this time or later.")
    created_before: QueryMoment | None = Field(default=None, description="Made earlier than this.")


class Failure(BaseModel):
    """Why a session failed."""

    code: str = Field(description="For programs: an entry of the table of reasons.", examples=["agent_lost"])
    message: str = Field(description="In words.", examples=["the agent's socket was lost without a close"])


class Usage(BaseModel):
    """What was used; frames are counted when the session is over."""

    seconds: float = Field(description="Since the agent runs, to now or to the end.", examples=[62.5])
    frames_in: int = Field(description="Messages from the caller.", examples=[3125])
    frames_out: int = Field(description="Messages to the caller.", examples=[1870])


class TransportView(BaseModel):
    """How the caller's sound comes. Secrets are told once, to who started the session, else `[redacted]`."""

    type: str = Field(
        description="`websocket`, `bot`, `daily`, `webrtc` or `telephony`.", examples=["websocket"]
    )
    url: str | None = Field(
        default=None,
        description="Where the caller goes: the media socket, or the room.",
        examples=["wss://voice.example.com/ws/generic/support.acme"],
    )
    token: str | None = Field(
        default=None, description="What lets the caller in, once.", examples=["[redacted]"]
    )
    expires_at: str | None = Field(
        default=None, description="Until when the caller must have come.", examples=[TIME_EXAMPLE]
    )
    carrier: str | None = Field(default=None, description="The carrier of a telephone call.")


class SessionSummary(BaseModel):
    """A session, without what it reported. Times are RFC 3339, UTC."""

    model_config = _example(SUMMARY_EXAMPLE)

    id: str = Field(examples=[SESSION_EXAMPLE])
    object: Literal["session"] = "session"
    agent: str = Field(description="The agent's service host.", examples=["support.acme"])
    status: Status
    created_at: str = Field(examples=[TIME_EXAMPLE])
    started_at: str | None = Field(description="When the agent ran.")
    first_audio_at: str | None = Field(description="When the agent was first heard; known at the end.")
    ended_at: str | None = Field(description="When it was over, however it ended.")
    failed_at: str | None = Field(description="The same, if it failed.")
    completed_at: str | None = Field(description="When the agent's side reported.")
    end_reason: str | None = Field(description="What ended it.", examples=["caller_hangup"])
    failure: Failure | None
    usage: Usage
    transport: TransportView
    idle_timeout_seconds: float | None = Field(description="Null is the agent's own.")
    max_duration_seconds: float | None = Field(description="Null is the agent's own.")
    metadata: JsonValue = Field(description="As it was given.")


class ReportedEntry(BaseModel):
    """One thing that was said."""

    role: str
    text: str
    timestamp: str


class CallView(BaseModel):
    """The telephone call of a session, as far as its carrier tells of it."""

    id: str | None = Field(
        description="The carrier's id of it.", examples=["CA00000000000000000000000000000001"]
    )
    status: str | None = Field(
        description="`dialing`, `queued`, `ringing`, `answered`, `machine`, `completed`, `busy`, "
        "`no_answer`, `failed` or `canceled`; null where the carrier says nothing of it, and a day later.",
        examples=["answered"],
    )
    answered_at: str | None = Field(description="When it was answered.", examples=[TIME_EXAMPLE])


class Session(SessionSummary):
    """A session. Times are RFC 3339, UTC."""

    model_config = _example(SESSION_WHOLE)

    call: CallView | None = Field(description="Of a session that is a telephone call.")

    reported_seconds: float | None = Field(description="The duration that was reported.")
    transcript: list[ReportedEntry] | None = Field(description="As it was reported.")
    results: JsonValue = Field(description="As they were reported.")


class SessionPage(BaseModel):
    """Sessions, the newest first."""

    object: Literal["list"] = "list"
    data: list[SessionSummary]
    total: int = Field(description="How many match in all.")
    limit: int
    offset: int
    has_more: bool
