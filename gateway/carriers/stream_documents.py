# SPDX-License-Identifier: BSD-2-Clause
"""Builds the document that a carrier fetches to learn what to do with a call: where its stream goes, with
what data.

Pure except for the settings. texml/ knows how a document is written; this module decides its content and puts
every value where the carrier really delivers it (docs/reference/carriers.md §1, "URL query reaches the
server", "Custom data arrives in", "Caller/callee numbers").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.agent_body import (
    MAX_CUSTOM_CHARACTERS,
    members_as_parameters,
    to_parameters,
    with_custom,
)
from gateway.carriers.registry import CARRIERS
from gateway.config import AgentSettings
from texml.document import AfterStream, HangUp, Redirect, Stream

RETURNS: Final = "return"
"""The query parameter that counts how often a call has requested another document."""

USUAL_RATE: Final = 8000
"""Hz."""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """The call that a carrier requests a document for.

    `from_number`, `to_number`: as the carrier writes them. `body`: for the agent, base64 of JSON, validated.
    `parameters`: custom parameters. `sample_rate`: Hz. `returns`: how often the call has requested another
    document.
    """

    carrier: str
    call_id: str | None = None
    from_number: str | None = None
    to_number: str | None = None
    body: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    sample_rate: int = USUAL_RATE
    returns: int = 0


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """The session that a document's stream belongs to.

    `token`: a call token for the stream's URL. Without one the agent's `after = "redirect"` is written as a
    hang-up, because a returning call could not be distinguished from one whose agent has ended. `session_id`:
    named in the URL of the stream's callbacks; without one no callbacks are requested. `max_body_bytes`: of
    JSON.
    """

    token: str | None
    session_id: str | None
    max_body_bytes: int


def stream_document(
    accounts: CarrierAccounts, agent: AgentSettings, call: IncomingCall, target: StreamTarget
) -> str:
    """Return the document that connects the call to its agent.

    Raises texml's DocumentError if the carrier's document has no place for it, and ValueError if no public
    URL is configured.
    """
    callback = None
    if target.session_id is not None:
        query = urlencode({"org": agent.organization})
        path = f"/callbacks/{call.carrier}/{target.session_id}/stream?{query}"
        callback = accounts.url(path, "https", agent.region)
    url, parameters = _stream_url(agent, call, target)
    stream = Stream(
        url=accounts.url(url, "wss", agent.region),
        parameters=parameters,
        status_callback=callback,
        sample_rate=call.sample_rate,
    )
    after_stream: AfterStream = agent.after
    if target.token is None and isinstance(after_stream, Redirect):
        after_stream = HangUp()
    writer = CARRIERS[call.carrier].documents
    return writer.connect(stream, after_stream, next_url(accounts, agent, call))


def busy_document(accounts: CarrierAccounts, agent: AgentSettings, call: IncomingCall) -> str:
    """Return the document for a caller whom no agent can take now. Raises as `stream_document`."""
    writer = CARRIERS[call.carrier].documents
    return writer.busy(agent.busy, next_url(accounts, agent, call))


def next_url(accounts: CarrierAccounts, agent: AgentSettings, call: IncomingCall) -> str:
    """Return the URL of the call's next document. It repeats this request's query with `return` increased."""
    rate = {} if call.sample_rate == USUAL_RATE else {"sample_rate": str(call.sample_rate)}
    query = {
        **call.parameters,
        "agent": agent.name,
        "org": agent.organization,
        **({"body": call.body} if call.body else {}),
        **rate,
        RETURNS: str(call.returns + 1),
    }
    return accounts.url(f"/xml/{call.carrier}?{_encode(query)}", "https", agent.region)


def _stream_url(agent: AgentSettings, call: IncomingCall, target: StreamTarget) -> tuple[str, dict[str, str]]:
    """Return path and query of the stream's URL, and the custom parameters that go beside it."""
    profile = CARRIERS[call.carrier].profile
    parameters = dict(call.parameters)
    if not profile.sends_numbers:
        numbers = {"from_number": call.from_number, "to_number": call.to_number}
        parameters |= {name: number for name, number in numbers.items() if number}
    if profile.keeps_query:
        body = call.body
        # Pipecat's bots do not read the parameters of such a carrier (docs/reference/carriers.md §8.1).
        if not profile.sends_numbers:
            numbers = {"from": call.from_number, "to": call.to_number}
            body = with_custom(body, numbers, target.max_body_bytes)
        values = {"serviceHost": agent.service_host, "token": target.token, "body": body}
        query = _encode({name: value for name, value in values.items() if value is not None})
        repeated = _encode(call.parameters) if profile.repeats_parameters else ""
        if repeated and len(repeated) <= MAX_CUSTOM_CHARACTERS:
            query = f"{query}&{repeated}"
        return f"/ws/{call.carrier}?{query}", parameters
    path = "/".join(filter(None, (f"/ws/{call.carrier}/{agent.service_host}", target.token)))
    if not profile.parameters_in_query:
        return path, members_as_parameters(call.body) | parameters | to_parameters(call.body)
    query = _encode(parameters | ({"body": call.body} if call.body else {}))
    return f"{path}?{query}" if query else path, {}


def _encode(pairs: Mapping[str, str]) -> str:
    return urlencode(pairs, quote_via=quote)
