# SPDX-License-Identifier: BSD-2-Clause
"""The plan of a simulated call, and the report of what happened."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.simulator.call_signing import Signer
from serializers.events import NO_PARAMETERS

DIGITS = frozenset("0123456789*#ABCD")

UNHEARD = "the caller heard nothing of the agent"
"""The error of a call that was expected to have the agent's sound."""

EventKind = Literal[
    "agent sound", "speech", "speech end", "digit", "mark", "played", "clear", "hang-up", "closed"
]


@dataclass(frozen=True, slots=True)
class CallPlan:
    """The plan of one call. Times in seconds.

    `url`: of the media socket, or of the document that names it (http, https). `body`: JSON for the agent.
    `account`: at the carrier, as its messages name it. `signer`: proves the call to be the carrier's, for the
    gateway's `public_url` if that is not the one in `url`. `given_url`: how the gateway is reached, if `url`
    is a stream's that a document has named. `tls`: None for the usual authorities. `expect_audio`: whether a
    call fails in which the caller hears nothing of the agent.

    `speech`: of the caller, PCM 16-bit little-endian mono at `speech_rate` Hz. The caller waits up to
    `answer_wait` for the agent's first audio, then until the agent is silent for `pause`, but no longer than
    `greeting_limit`. It speaks, presses `digits`, and hangs up when the agent was silent for `quiet`, at the
    latest `reply_limit` after its last word. Raises ValueError for keys that no telephone has.
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
    body: str | None = None
    account: str | None = None
    signer: Signer | None = None
    public_url: str | None = None
    given_url: str | None = None
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    expect_audio: bool = False
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
    """One event of a call, `at_ms` after the stream opened."""

    at_ms: float
    kind: EventKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class CallReport:
    """The report of one call. Times in ms; None if there was nothing to measure.

    `setup_ms`: from the TCP connect to the agent's first audio. `delay_p50_ms`, `delay_p99_ms`,
    `lost_frames`: of speech that came back byte for byte, the way there and back (with an echoing agent's own
    delay). `refused`: the HTTP status of a refused upgrade. `error`: a sentence; None for a good call.
    `agent_audible`: whether the caller heard anything of the agent, which ringback is not.
    `sent_audio`, `played_audio`: the caller's and the agent's, PCM 16-bit mono at `sample_rate` Hz from the
    moment the stream opened. `audible_ms`: how much of the played audio was not silence. `complaints`:
    sentences about messages that the carrier could not use.
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
    audible_ms: float = 0.0
    close_code: int | None = None
    close_reason: str = ""
    ended_by: Literal["caller", "far side", None] = None
    refused: int | None = None
    agent_audible: bool = False
    error: str | None = None
    complaints: tuple[str, ...] = ()
    sample_rate: int = 8000
    sent_audio: bytes = b""
    played_audio: bytes = b""
    events: tuple[SimulatedEvent, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the call was refused, lost, or closed with an error, or lacked the agent's sound."""
        return self.error is not None

    @property
    def unheard(self) -> bool:
        """Whether nothing is wrong with the call but that the caller heard nothing of the agent."""
        return self.error == UNHEARD


@dataclass(frozen=True, slots=True)
class CallProgress:
    """Progress of a call. `elapsed`, `expected`: seconds so far, and probably in all. `stage`: in words."""

    elapsed: float
    expected: float
    stage: str


OnProgress = Callable[[CallProgress], None]
"""A function that is called a few times a second while a call runs."""
