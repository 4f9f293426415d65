# SPDX-License-Identifier: BSD-2-Clause
"""A simulated call: what is to happen, and what did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serializers.events import NO_PARAMETERS

DIGITS = frozenset("0123456789*#ABCD")

EventKind = Literal[
    "agent sound", "speech", "speech end", "digit", "mark", "played", "clear", "hang-up", "closed"
]


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What the carrier and its caller will do. Times in seconds.

    `speech`: what the caller says, PCM 16-bit little-endian mono at `speech_rate` Hz. The caller is polite:
    it waits up to `answer_wait` for the agent's first sound, then for the agent to fall silent for `pause`,
    but no longer than `greeting_limit`; then it speaks, presses `digits`, and hangs up once it has heard
    nothing for `quiet`, at the latest `reply_limit` after its last word.
    """

    url: str
    carrier: str
    speech: bytes
    speech_rate: int
    agent: str | None = None
    digits: str = ""
    from_number: str | None = None
    to_number: str | None = None
    parameters: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)
    headers: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)
    connect_timeout: float = 20.0
    answer_wait: float = 2.0
    pause: float = 0.7
    greeting_limit: float = 15.0
    quiet: float = 1.5
    reply_limit: float = 30.0

    def __post_init__(self) -> None:
        if wrong := set(self.digits) - DIGITS:
            raise ValueError(f"no telephone has the keys {' '.join(sorted(wrong))} (0-9 * # A-D)")


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """Something that happened `at_ms` after the stream opened."""

    at_ms: float
    kind: EventKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class CallReport:
    """What happened. Times in ms; None where there was nothing to measure.

    `setup_ms`: from the TCP connect to the agent's first sound. `delay_p50_ms`, `delay_p99_ms`,
    `lost_frames`: of speech that came back byte for byte, its way there and back (an echoing agent's own
    delay included). `refused`: the HTTP status of a refused upgrade. `error`: what went wrong, in words;
    None for a good call. `said`, `heard`: both directions as the caller lived them, PCM 16-bit mono at
    `sample_rate` Hz, from the moment the stream opened. `complaints`: what the carrier did not like in what
    it was sent.
    """

    carrier: str
    url: str
    call_id: str = ""
    stream_id: str = ""
    setup_ms: float | None = None
    duration_ms: float = 0.0
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    lost_frames: int | None = None
    delay_p50_ms: float | None = None
    delay_p99_ms: float | None = None
    marks: tuple[str, ...] = ()
    heard_ms: float = 0.0
    close_code: int | None = None
    close_reason: str = ""
    ended_by: Literal["caller", "far side", None] = None
    refused: int | None = None
    error: str | None = None
    complaints: tuple[str, ...] = ()
    sample_rate: int = 8000
    said: bytes = b""
    heard: bytes = b""
    events: tuple[SimulatedEvent, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the call was refused, lost, or closed with an error."""
        return self.error is not None


@dataclass(frozen=True, slots=True)
class CallProgress:
    """How far a call is: seconds since it opened, seconds it will probably take, and what happens now."""

    elapsed: float
    expected: float
    stage: str


OnProgress = Callable[[CallProgress], None]
"""Called now and then while a call runs."""
