# SPDX-License-Identifier: BSD-2-Clause
"""The table of reasons: why a call was refused, or has ended.

Every refusal and every end of a call is one row: its code, the responsible party, the HTTP status if the
socket is not open yet, the close code if it is, and a sentence for the operator. Code raises a row, as in
`raise CallEnded(Reasons.at_capacity, "50 of 50 places taken")`, and never chooses a status by itself.
docs/architecture.md ("Reasons") shows the table, docs/operations.md ("Runbook") what to do about each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final


class Party(StrEnum):
    """The party that ended a call, or is responsible for its refusal or failure."""

    CALLER = "caller"
    CARRIER = "carrier"
    AGENT = "agent"
    TENANT = "tenant"
    GATEWAY = "gateway"


class Severity(StrEnum):
    """How much the end of a call matters to the operator; the level of its log line.

    A call that ended as calls do is INFO, and so is a refusal that any stranger can bring about. A call that
    failed is a WARNING. Where a caller was harmed, cut off or turned away by the gateway's own fault, it is
    an ERROR.
    """

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row of the table.

    `code`: the public name, in logs, records, answers and metrics. `status`: the HTTP status before the
    upgrade; None if the reason cannot occur there. `close_code`: the close code on a socket (RFC 6455
    §7.4.1). `failed`: whether a session that ends for this reason has the state `failed` instead of `ended`.
    `retry_after`: seconds after which a client may try again; None if that would not help. `if_refused`,
    `if_cut`: the severity where the agent was never connected, and where a running call was cut; of a reason
    that is not `failed` it is INFO.
    """

    code: str
    party: Party
    status: int | None
    close_code: int
    sentence: str
    failed: bool = True
    retry_after: int | None = None
    if_refused: Severity = Severity.WARNING
    if_cut: Severity = Severity.WARNING

    def severity(self, *, ran: bool) -> Severity:
        """Return how much it matters that a call ended for this reason. `ran`: the agent was connected."""
        if not self.failed:
            return Severity.INFO
        return self.if_cut if ran else self.if_refused


_ANYBODY: Final = Severity.INFO
"""Of a refusal: strangers can bring it about, as often as they like."""

_HARMED: Final = Severity.ERROR
"""The caller was cut off or turned away by the gateway's own fault."""


class Reasons:
    """The table. The name of an attribute is the code of its row."""

    # Regular ends.
    caller_hangup = Reason("caller_hangup", Party.CALLER, None, 1000, "the caller hung up", failed=False)
    agent_ended = Reason("agent_ended", Party.AGENT, None, 1000, "the agent ended the call", failed=False)
    max_duration = Reason(
        "max_duration", Party.GATEWAY, None, 1000, "the longest duration was reached", failed=False
    )
    idle_timeout = Reason("idle_timeout", Party.GATEWAY, None, 1000, "the carrier fell silent", failed=False)
    stopped = Reason("stopped", Party.GATEWAY, None, 1000, "the session was stopped on request", failed=False)

    # Requests and calls that are refused.
    unauthorized = Reason(
        "unauthorized", Party.TENANT, 403, 1008, "the caller did not prove who it is", if_refused=_ANYBODY
    )
    not_found = Reason(
        "not_found", Party.TENANT, 404, 1008, "nothing is served under this path", if_refused=_ANYBODY
    )
    unknown_agent = Reason(
        "unknown_agent", Party.TENANT, 404, 1008, "no such agent is configured", if_refused=_ANYBODY
    )
    wrong_region = Reason(
        "wrong_region", Party.TENANT, 404, 1008, "the agent is not in this region", if_refused=_ANYBODY
    )
    bad_request = Reason(
        "bad_request", Party.TENANT, 400, 1008, "the request makes no sense", if_refused=_ANYBODY
    )
    too_large = Reason(
        "too_large", Party.TENANT, 413, 1009, "more bytes than are allowed", if_refused=_ANYBODY
    )
    at_capacity = Reason(
        "at_capacity", Party.TENANT, 429, 1013, "all places of the agent are taken", retry_after=5
    )
    rate_limited = Reason(
        "rate_limited", Party.TENANT, 429, 1013, "too many requests", retry_after=1, if_refused=_ANYBODY
    )

    preempted = Reason(
        "preempted",
        Party.CARRIER,
        None,
        1013,
        "its socket said nothing, and another call needed the place",
        if_refused=_ANYBODY,
    )

    duplicate_call = Reason(
        "duplicate_call",
        Party.CARRIER,
        409,
        1008,
        "there is a socket for this call already",
        if_refused=_ANYBODY,
    )
    too_many_returns = Reason(
        "too_many_returns", Party.TENANT, 429, 1008, "the call came back more often than it may"
    )
    number_refused = Reason(
        "number_refused",
        Party.TENANT,
        403,
        1008,
        "this number may not be called from here",
        if_refused=_ANYBODY,
    )
    property_refused = Reason(
        "property_refused",
        Party.TENANT,
        403,
        1008,
        "this property may not be set from here",
        if_refused=_ANYBODY,
    )

    # Outbound calls that were not answered.
    busy = Reason("busy", Party.CALLER, None, 1000, "the called number was busy", failed=False)
    no_answer = Reason("no_answer", Party.CALLER, None, 1000, "nobody answered", failed=False)
    call_canceled = Reason(
        "call_canceled",
        Party.CALLER,
        None,
        1000,
        "the call was given up before it was answered",
        failed=False,
    )
    machine_answered = Reason(
        "machine_answered", Party.CALLER, None, 1000, "a machine answered the call", failed=False
    )
    call_failed = Reason("call_failed", Party.CARRIER, 502, 1011, "the carrier could not make the call")
    no_stream = Reason(
        "no_stream", Party.CARRIER, 504, 1011, "the call was answered, but its stream never came"
    )

    # Requests to a carrier's REST API that failed.
    carrier_refused = Reason("carrier_refused", Party.TENANT, 502, 1011, "the carrier refused the request")
    carrier_busy = Reason(
        "carrier_busy", Party.CARRIER, 503, 1013, "the carrier takes no more requests for now", retry_after=5
    )
    carrier_unreachable = Reason(
        "carrier_unreachable", Party.CARRIER, 502, 1011, "the carrier's REST could not be reached"
    )
    carrier_timeout = Reason(
        "carrier_timeout", Party.CARRIER, 504, 1011, "the carrier's REST did not answer in time"
    )
    carrier_cannot = Reason("carrier_cannot", Party.TENANT, 422, 1008, "the carrier has no way to do this")

    # Calls that continue elsewhere.
    taken_over = Reason(
        "taken_over", Party.CARRIER, None, 1000, "the carrier opened a new socket for the call", failed=False
    )
    transferred = Reason(
        "transferred", Party.GATEWAY, None, 1000, "the call was transferred on request", failed=False
    )
    hung_up = Reason("hung_up", Party.GATEWAY, None, 1000, "the call was hung up on request", failed=False)

    # Faults of the carrier's socket.
    bad_opening = Reason(
        "bad_opening",
        Party.CARRIER,
        400,
        1008,
        "the stream did not open as the carrier's documents say",
        if_refused=_ANYBODY,
    )
    carrier_protocol_error = Reason(
        "carrier_protocol_error",
        Party.CARRIER,
        400,
        1002,
        "the carrier's socket broke the WebSocket protocol",
        if_refused=_ANYBODY,
    )
    carrier_lost = Reason(
        "carrier_lost", Party.CARRIER, None, 1011, "the carrier's socket was lost without a close"
    )
    carrier_stalled = Reason("carrier_stalled", Party.CARRIER, None, 1011, "the carrier stopped reading")

    # Faults of the agent.
    agent_unreachable = Reason("agent_unreachable", Party.AGENT, 502, 1011, "the agent could not be reached")
    agent_start_timeout = Reason(
        "agent_start_timeout", Party.AGENT, 504, 1011, "the agent did not start in time"
    )
    agent_lost = Reason("agent_lost", Party.AGENT, 502, 1011, "the agent's socket was lost without a close")
    agent_failed = Reason("agent_failed", Party.AGENT, 502, 1011, "the agent closed with an error code")
    agent_protocol_error = Reason(
        "agent_protocol_error", Party.AGENT, 502, 1011, "the agent's socket broke the WebSocket protocol"
    )
    agent_stalled = Reason("agent_stalled", Party.AGENT, 504, 1011, "the agent stopped reading")

    # The gateway's own.
    draining = Reason(
        "draining", Party.GATEWAY, 503, 1012, "the gateway is going away", retry_after=10, if_cut=_HARMED
    )
    overloaded = Reason(
        "overloaded",
        Party.GATEWAY,
        503,
        1013,
        "the gateway has more to do than it can",
        retry_after=5,
        if_refused=_HARMED,
        if_cut=_HARMED,
    )
    store_failed = Reason(
        "store_failed",
        Party.GATEWAY,
        503,
        1013,
        "the session store does not answer",
        retry_after=5,
        if_refused=_HARMED,
        if_cut=_HARMED,
    )
    gateway_lost = Reason(
        "gateway_lost",
        Party.GATEWAY,
        None,
        1012,
        "the gateway process that carried the call died",
        if_refused=_HARMED,
        if_cut=_HARMED,
    )
    internal_error = Reason(
        "internal_error",
        Party.GATEWAY,
        500,
        1011,
        "the gateway made a mistake",
        if_refused=_HARMED,
        if_cut=_HARMED,
    )


REASONS: dict[str, Reason] = {name: row for name, row in vars(Reasons).items() if isinstance(row, Reason)}
"""Every row by its code."""


class CallEnded(Exception):  # noqa: N818 - not always an error: a caller may simply hang up
    """The end of a call or the refusal of a request: its reason, and a detail of this one case.

    `detail`: one clause for the operator, by default the reason's sentence. It reaches the log and the
    record, so it never contains a telephone number, a token, or text that a caller can choose, except names.

    `public_reason` and `public_detail` are what everybody else gets, in an answer or a close frame, because
    the other side may be anybody. They name no inner address, no file, and no agent that only others may
    know of.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        public_reason: Reason | None = None,
        public_detail: str | None = None,
    ) -> None:
        """`public_reason`, `public_detail`: by default the same; for a failure of the store its sentence."""
        super().__init__(f"{reason.code}: {detail or reason.sentence}")
        self.reason = reason
        self.detail = detail or reason.sentence
        self.public_reason = public_reason or reason
        if public_detail is None:
            public_detail = reason.sentence if reason is Reasons.store_failed else self.detail
        self.public_detail = public_detail


def status_phrase(status: int) -> str:
    """Return the reason phrase of an HTTP status (RFC 9110 §15)."""
    return HTTPStatus(status).phrase
