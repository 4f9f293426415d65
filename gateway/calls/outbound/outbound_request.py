# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier is asked for a call out: whom to call, and which stream the answered call goes to.

The stream's URL carries a token that is good for the admitted session alone (docs/reference/carriers.md
§2.1: in the path, which every carrier delivers). Carriers that take a document in the request are given it;
Plivo asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import CallGrant
from gateway.calls.command_bus import CommandBus
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.carriers.agent_body import with_numbers
from gateway.carriers.call_log import CallLog
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import DialRequest, MachineDetection
from gateway.carriers.stream_documents import IncomingCall, next_url
from gateway.config import AgentSettings, CarrierAccount, Organization
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import Store
from texml.document import DocumentError, Stream

if TYPE_CHECKING:
    from gateway.calls.services import CallServices


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """Who is to be called.

    `to`, `from_number`: E.164. `body`: for the agent, base64 of JSON, None for none. `timeout_s`: seconds
    that it may wait in line, and again that it may ring. `machine_detection`: "detect" hangs up on a machine,
    "wait_for_end" lets the agent talk after its greeting. `metadata`: the client's own, JSON text.
    """

    agent: AgentSettings
    organization: Organization
    account: CarrierAccount
    to: str
    from_number: str
    body: str | None = None
    timeout_s: float = 60.0
    machine_detection: MachineDetection | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class OutboundServices:
    """What every call out works with.

    `request`: of a wish and a session's id. `pause_s`: seconds between two looks at a call that rings.
    `now`: Unix seconds.
    """

    store: Store
    book: CallLog
    line: CpsLimiter
    commands: CommandBus
    request: Callable[[OutboundRequest, str], DialRequest]
    pause_s: Callable[[], float]
    now: Callable[[], float]


TOKEN_SLACK_S: Final = 120.0
"""How much longer a token is good than its call may wait in line and ring."""


def dial_request(services: CallServices, wish: OutboundRequest, session_id: str) -> DialRequest:
    """The request for one call. Raises CallEnded(bad_request) where the carrier could not carry it."""
    agent, carrier = wish.agent, wish.account.carrier
    callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", agent.region)
    lasting_s = 2 * wish.timeout_s + TOKEN_SLACK_S
    stream_url = stream_url_of(services, agent, carrier, session_id, call_id=None, lasting_s=lasting_s)
    document = None
    writer = CARRIERS[carrier].writer
    if writer is not None and writer.inline_limit:
        document = document_of(
            services, agent, carrier, stream_url, from_number=wish.from_number, to_number=wish.to
        )
    return DialRequest(
        to=wish.to,
        from_number=wish.from_number,
        answer_url=f"{callbacks}/answer",
        stream_url=stream_url,
        document=document,
        status_callback=callbacks,
        ring_timeout_s=round(wish.timeout_s),
        time_limit_s=agent.max_session_duration,
        session_id=session_id,
        machine_detection=wish.machine_detection,
    )


def document_of(
    services: CallServices,
    agent: AgentSettings,
    carrier: str,
    stream_url: str,
    *,
    from_number: str | None,
    to_number: str | None,
) -> str:
    """What becomes of a call out that is answered. Raises CallEnded(bad_request) as `dial_request`."""
    numbers = {"from_number": from_number, "to_number": to_number}
    parameters = (
        {}
        if CARRIERS[carrier].profile.sends_numbers
        else {name: each for name, each in numbers.items() if each}
    )
    after_call = next_url(services.accounts, agent, IncomingCall(carrier, None, from_number, to_number))
    try:
        writer = CARRIERS[carrier].documents
        document = writer.connect(Stream(stream_url, parameters), agent.after, after_call)
        return writer.inline(document) if writer.inline_limit else document
    except DocumentError as error:
        raise CallEnded(Reasons.bad_request, str(error)) from None


def stream_url_of(
    services: CallServices,
    agent: AgentSettings,
    carrier: str,
    session_id: str,
    *,
    call_id: str | None,
    lasting_s: float,
) -> str:
    """Where the stream of a session goes that was admitted already."""
    # A carrier that reconnects dials the same URL as long as the call lasts.
    longest_s = agent.max_session_duration if CARRIERS[carrier].profile.reconnects else 0
    token = services.tokens.mint_call(
        Audience(agent.service_host, agent.organization, carrier),
        CallGrant(call_id=call_id, session_id=session_id, lasting_s=lasting_s + longest_s),
    )
    path = f"/ws/{carrier}/{agent.service_host}/{token}"
    if CARRIERS[carrier].profile.keeps_query:
        path = f"/ws/{carrier}?{urlencode({'serviceHost': agent.service_host, 'token': token})}"
    return services.accounts.url(path, "wss", agent.region)


def body_for(body: str | None, carrier: str, from_number: str, to_number: str, max_bytes: int) -> str | None:
    """The agent's body, base64 of JSON; with the numbers where nothing else tells them to it."""
    habits = CARRIERS[carrier].profile
    if habits.sends_numbers or not habits.keeps_query:
        return body
    return with_numbers(body, {"from": from_number, "to": to_number}, max_bytes)
