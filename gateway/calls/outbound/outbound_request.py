# SPDX-License-Identifier: BSD-2-Clause
"""The request of an outbound call to its carrier: the number, and the stream that the answered call opens.

The stream's URL carries a token for the admitted session alone, in the path, which every carrier delivers
(docs/reference/carriers.md §2.1). Carriers that take a document in the request get it there; Plivo fetches
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import CallGrant
from gateway.calls.services import CallServices
from gateway.carriers.agent_body import members_as_parameters, with_custom
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import DialRequest, MachineDetection
from gateway.carriers.stream_documents import IncomingCall, next_url
from gateway.config import AgentSettings, CarrierAccount, Organization
from gateway.model.reasons import CallEnded, Reasons
from texml.document import DocumentError, Stream

TOKEN_SLACK_S: Final = 120.0
"""Seconds that a token is valid beyond the time that its call may wait for its turn and ring."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request for one outbound call.

    `to`: E.164, or a SIP address. `from_number`: E.164. `body`: for the agent, base64 of JSON, None for none.
    `timeout_s`: seconds that the call may wait for its turn, and again that it may ring.
    `machine_detection`: "detect" hangs up on a machine, "wait_for_end" connects the agent after the machine's
    greeting. `metadata`: the client's own, JSON text.
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
class StreamTarget:
    """The media stream of an admitted session.

    `call_id`: the carrier's, if the token is to be valid for that call alone. `connect_s`: seconds in which
    the carrier must have opened the stream. `unsigned_upgrade`: whether the carrier signs no upgrade
    (`CarrierAccount.signs_upgrades`).
    """

    agent: AgentSettings
    carrier: str
    session_id: str
    call_id: str | None
    connect_s: float
    unsigned_upgrade: bool = False


def make_dial_request(services: CallServices, request: OutboundRequest, session_id: str) -> DialRequest:
    """Return the carrier's request for one call. Raises CallEnded(bad_request) if a document is too long."""
    agent, carrier = request.agent, request.account.carrier
    callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", agent.region)
    connect_s = 2 * request.timeout_s + TOKEN_SLACK_S
    target = StreamTarget(
        agent, carrier, session_id, None, connect_s, unsigned_upgrade=not request.account.signs_upgrades
    )
    url = make_stream_url(services, target)
    document = None
    writer = CARRIERS[carrier].writer
    if writer is not None and writer.inline_limit:
        numbers: dict[str, str | None] = {"from_number": request.from_number, "to_number": request.to}
        document = make_stream_document(services, OutboundStream(agent, carrier, url, numbers, request.body))
    return DialRequest(
        to=request.to,
        from_number=request.from_number,
        answer_url=f"{callbacks}/answer",
        stream_url=url,
        document=document,
        status_callback=callbacks,
        ring_timeout_s=round(request.timeout_s),
        time_limit_s=agent.max_session_duration,
        session_id=session_id,
        machine_detection=request.machine_detection,
    )


@dataclass(frozen=True, slots=True)
class OutboundStream:
    """The stream of an answered call.

    `numbers`: `from_number` and `to_number`, for carriers whose streams do not have them. `body`: for the
    agent, base64 of JSON. The agent gets it in any case (`CallLog.save_body`); bots that read the parameters
    of `start` get its members there as well.
    """

    agent: AgentSettings
    carrier: str
    url: str
    numbers: Mapping[str, str | None]
    body: str | None


def make_stream_document(services: CallServices, stream: OutboundStream) -> str:
    """Return the document of an answered call: connect it to the stream, then do what `agent.after` says.

    Raises CallEnded(bad_request) if the document is too long for the carrier.
    """
    profile = CARRIERS[stream.carrier].profile
    numbers, members = {}, {}
    if not profile.sends_numbers:
        numbers = {name: number for name, number in stream.numbers.items() if number}
    if profile.bots_read_parameters:
        members = members_as_parameters(stream.body)
    try:
        if members:
            try:
                return _stream_document(services, stream, {**members, **numbers})
            except DocumentError:  # they are in the body as well: the call needs them less than its document
                pass
        return _stream_document(services, stream, numbers)
    except DocumentError as error:
        raise CallEnded(Reasons.bad_request, str(error)) from None


def _stream_document(services: CallServices, stream: OutboundStream, parameters: Mapping[str, str]) -> str:
    """Raise DocumentError if the carrier cannot express it."""
    agent, numbers = stream.agent, stream.numbers
    call = IncomingCall(stream.carrier, None, numbers["from_number"], numbers["to_number"])
    after_call = next_url(services.accounts, agent, call)
    writer = CARRIERS[stream.carrier].documents
    document = writer.connect(Stream(stream.url, parameters), agent.after, after_call)
    return writer.inline(document) if writer.inline_limit else document


def make_stream_url(services: CallServices, target: StreamTarget) -> str:
    """Return the wss URL of the session's stream, with its token."""
    agent, profile = target.agent, CARRIERS[target.carrier].profile
    # A carrier that reconnects uses the same URL for as long as the call lasts.
    reconnect_s = agent.max_session_duration if profile.reconnects else 0
    token = services.tokens.mint_call(
        Audience(agent.service_host, agent.organization, target.carrier),
        CallGrant(
            call_id=target.call_id,
            session_id=target.session_id,
            lasting_s=target.connect_s + reconnect_s,
            unsigned_upgrade=target.unsigned_upgrade,
        ),
    )
    path = f"/ws/{target.carrier}/{agent.service_host}/{token}"
    if profile.keeps_query:
        query = urlencode({"serviceHost": agent.service_host, "token": token})
        path = f"/ws/{target.carrier}?{query}"
    return services.accounts.url(path, "wss", agent.region)


def body_for(body: str | None, carrier: str, from_number: str, to_number: str, max_bytes: int) -> str | None:
    """Return the agent's body, base64 of JSON, with the numbers in it if the agent gets them nowhere else."""
    profile = CARRIERS[carrier].profile
    if profile.sends_numbers or not profile.keeps_query:
        return body
    return with_custom(body, {"from": from_number, "to": to_number}, max_bytes)
