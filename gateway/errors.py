# SPDX-License-Identifier: BSD-2-Clause
"""The one table of refusals and endings.

Every refusal and every end of a call is one entry: a code (also its metric label), the side at fault,
the HTTP status where the socket is not open yet, the close code where it is, and a sentence for the
operator. Code raises an entry, `raise CallEnd(Endings.at_capacity, "50 of 50 places taken")`; nobody writes
a status by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus


class Side(StrEnum):
    """Who ended the call, or whose fault it is that it did not begin."""

    CALLER = "caller"
    CARRIER = "carrier"
    AGENT = "agent"
    TENANT = "tenant"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Ending:
    """One way for a call to be refused or to end.

    `status`: HTTP status before the upgrade; None where the call must be on a socket already.
    `close_code`: RFC 6455 §7.4.1 close code on a socket.
    `failed`: whether a session that ends so has failed rather than ended.
    `retry_after`: seconds after which trying again makes sense; None where it does not.
    """

    code: str
    side: Side
    status: int | None
    close_code: int
    sentence: str
    failed: bool = True
    retry_after: int | None = None


class Endings:
    """The table. An attribute is an entry's code."""

    # Calls that went as calls go.
    caller_hangup = Ending("caller_hangup", Side.CALLER, None, 1000, "the caller hung up", failed=False)
    agent_ended = Ending("agent_ended", Side.AGENT, None, 1000, "the agent ended the call", failed=False)
    max_duration = Ending(
        "max_duration", Side.GATEWAY, None, 1000, "the longest duration was reached", failed=False
    )
    idle_timeout = Ending("idle_timeout", Side.GATEWAY, None, 1000, "the carrier fell silent", failed=False)
    stopped = Ending("stopped", Side.GATEWAY, None, 1000, "the session was stopped on request", failed=False)

    # The caller's side asked for what it may not have.
    unauthorized = Ending("unauthorized", Side.TENANT, 403, 1008, "the caller did not prove who it is")
    not_found = Ending("not_found", Side.TENANT, 404, 1008, "nothing is served under this path")
    unknown_agent = Ending("unknown_agent", Side.TENANT, 404, 1008, "no such agent is configured")
    wrong_region = Ending("wrong_region", Side.TENANT, 404, 1008, "the agent is not in this region")
    bad_request = Ending("bad_request", Side.TENANT, 400, 1008, "the request makes no sense")
    too_large = Ending("too_large", Side.TENANT, 413, 1009, "more bytes than are allowed")
    at_capacity = Ending(
        "at_capacity", Side.TENANT, 429, 1013, "all places of the agent are taken", retry_after=5
    )
    rate_limited = Ending("rate_limited", Side.TENANT, 429, 1013, "too many requests", retry_after=1)

    duplicate_call = Ending(
        "duplicate_call", Side.CARRIER, 409, 1008, "there is a socket for this call already"
    )
    too_many_returns = Ending(
        "too_many_returns", Side.TENANT, 429, 1008, "the call came back more often than it may"
    )
    number_refused = Ending(
        "number_refused", Side.TENANT, 403, 1008, "this number may not be called from here"
    )

    # A call out that was not taken.
    busy = Ending("busy", Side.CALLER, None, 1000, "the called number was busy", failed=False)
    no_answer = Ending("no_answer", Side.CALLER, None, 1000, "nobody answered", failed=False)
    call_canceled = Ending(
        "call_canceled", Side.CALLER, None, 1000, "the call was given up before it was answered", failed=False
    )
    machine_answered = Ending(
        "machine_answered", Side.CALLER, None, 1000, "a machine answered the call", failed=False
    )
    call_failed = Ending("call_failed", Side.CARRIER, 502, 1011, "the carrier could not make the call")
    no_stream = Ending(
        "no_stream", Side.CARRIER, 504, 1011, "the call was answered, but its stream never came"
    )

    # The carrier's REST.
    carrier_refused = Ending("carrier_refused", Side.TENANT, 502, 1011, "the carrier refused the request")
    carrier_busy = Ending(
        "carrier_busy", Side.CARRIER, 503, 1013, "the carrier takes no more requests for now", retry_after=5
    )
    carrier_unreachable = Ending(
        "carrier_unreachable", Side.CARRIER, 502, 1011, "the carrier's REST could not be reached"
    )
    carrier_timeout = Ending(
        "carrier_timeout", Side.CARRIER, 504, 1011, "the carrier's REST did not answer in time"
    )
    carrier_cannot = Ending("carrier_cannot", Side.TENANT, 422, 1008, "the carrier has no way to do this")

    # Calls that went on elsewhere.
    taken_over = Ending(
        "taken_over", Side.CARRIER, None, 1000, "the carrier opened a new socket for the call", failed=False
    )
    transferred = Ending(
        "transferred", Side.GATEWAY, None, 1000, "the call was transferred on request", failed=False
    )
    hung_up = Ending("hung_up", Side.GATEWAY, None, 1000, "the call was hung up on request", failed=False)

    # The carrier's socket broke the rules, or broke.
    bad_opening = Ending(
        "bad_opening", Side.CARRIER, 400, 1008, "the stream did not open as the carrier's documents say"
    )
    carrier_protocol_error = Ending(
        "carrier_protocol_error", Side.CARRIER, 400, 1002, "the carrier's socket broke the WebSocket protocol"
    )
    carrier_lost = Ending(
        "carrier_lost", Side.CARRIER, None, 1011, "the carrier's socket was lost without a close"
    )
    carrier_stalled = Ending("carrier_stalled", Side.CARRIER, None, 1011, "the carrier stopped reading")

    # The agent's side.
    agent_unreachable = Ending("agent_unreachable", Side.AGENT, 502, 1011, "the agent could not be reached")
    agent_start_timeout = Ending(
        "agent_start_timeout", Side.AGENT, 504, 1011, "the agent did not start in time"
    )
    agent_lost = Ending("agent_lost", Side.AGENT, 502, 1011, "the agent's socket was lost without a close")
    agent_failed = Ending("agent_failed", Side.AGENT, 502, 1011, "the agent closed with an error code")
    agent_protocol_error = Ending(
        "agent_protocol_error", Side.AGENT, 502, 1011, "the agent's socket broke the WebSocket protocol"
    )
    agent_stalled = Ending("agent_stalled", Side.AGENT, 504, 1011, "the agent stopped reading")

    # Ourselves.
    draining = Ending("draining", Side.GATEWAY, 503, 1012, "the gateway is going away", retry_after=10)
    overloaded = Ending(
        "overloaded", Side.GATEWAY, 503, 1013, "the gateway has more to do than it can", retry_after=5
    )
    store_failed = Ending(
        "store_failed", Side.GATEWAY, 503, 1013, "the session store does not answer", retry_after=5
    )
    gateway_lost = Ending(
        "gateway_lost", Side.GATEWAY, None, 1012, "the gateway process that carried the call died"
    )
    internal_error = Ending("internal_error", Side.GATEWAY, 500, 1011, "the gateway made a mistake")


ENDINGS: dict[str, Ending] = {
    name: entry for name, entry in vars(Endings).items() if isinstance(entry, Ending)
}
"""Every entry by its code."""


class CallEnd(Exception):  # noqa: N818 - not always an error: a caller may simply hang up
    """Raised, or set as a call's outcome, once per call: the entry and what was special this time.

    `detail`: one clause for the operator; it reaches the log and the far side's close reason, so it never
    holds a phone number, a token or text of the caller's choosing beyond names.
    """

    def __init__(self, ending: Ending, detail: str = "") -> None:
        super().__init__(f"{ending.code}: {detail or ending.sentence}")
        self.ending = ending
        self.detail = detail

    @property
    def words(self) -> str:
        """The reason in words: the detail, or the entry's own sentence."""
        return self.detail or self.ending.sentence


def status_phrase(status: int) -> str:
    """The reason phrase of an HTTP status (RFC 9110 §15)."""
    return HTTPStatus(status).phrase
