# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier is answered that asks what to do with a call: where its stream goes, and what goes with it.

Pure but for the configuration. texml/ knows how a document is written; here stands what is in it: everything
is put where that carrier really delivers it (docs/reference/carriers.md §1, "URL query reaches the server",
"Custom data arrives in", "Caller/callee numbers").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.agent_body import to_parameters, with_numbers
from gateway.carriers.profile import PROFILES
from gateway.config import AgentSettings
from texml.plan import HangUp, Redirect, read_busy, read_tail
from texml.registry import WRITERS
from texml.stream import Stream

RETURNS: Final = "return"
"""The parameter that counts how often a call has come back."""

USUAL_RATE: Final = 8000


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """The call that a carrier asks about, and what the URL says that it asked.

    `from_number`, `to_number`: as the carrier writes them. `body`: for the agent, base64 of JSON, checked.
    `parameters`: custom ones. `sample_rate`: Hz. `returns`: how often the call has come back.
    """

    carrier: str
    call_id: str | None = None
    from_number: str | None = None
    to_number: str | None = None
    body: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    sample_rate: int = USUAL_RATE
    returns: int = 0


def stream_document(
    accounts: CarrierAccounts,
    agent: AgentSettings,
    asked: IncomingCall,
    *,
    token: str | None,
    session_id: str | None,
    max_body_bytes: int,
) -> str:
    """The document that leads the call to its agent.

    `token`: a call token for the URL; without one `redirect` is as `hangup`, because a call that came back
    could not be told from one whose agent has ended. `session_id`: what the carrier's callbacks about the
    stream are for; without one none are asked for. Raises texml's DocumentError where the carrier cannot
    carry it, ValueError where no public URL is configured.
    """
    callback = None
    if session_id is not None:
        path = f"/callbacks/{asked.carrier}/{session_id}/stream?{urlencode({'org': agent.organization})}"
        callback = accounts.url(path, "https", agent.region)
    url, parameters = _url(agent, asked, token, max_body_bytes)
    stream = Stream(
        url=accounts.url(url, "wss", agent.region),
        parameters=parameters,
        status_callback=callback,
        sample_rate=asked.sample_rate,
    )
    tail = read_tail(agent.after)
    if token is None and isinstance(tail, Redirect):
        tail = HangUp()
    return WRITERS[asked.carrier].connect(stream, tail, back_url(accounts, agent, asked))


def busy_document(accounts: CarrierAccounts, agent: AgentSettings, asked: IncomingCall) -> str:
    """What a caller gets where there is no agent for now. Raises as `stream_document`."""
    return WRITERS[asked.carrier].busy(read_busy(agent.busy), back_url(accounts, agent, asked))


def back_url(accounts: CarrierAccounts, agent: AgentSettings, asked: IncomingCall) -> str:
    """Where the carrier asks again: the same question, counted."""
    rate = {} if asked.sample_rate == USUAL_RATE else {"sample_rate": str(asked.sample_rate)}
    query = {
        **asked.parameters,
        "agent": agent.name,
        "org": agent.organization,
        **({"body": asked.body} if asked.body else {}),
        **rate,
        RETURNS: str(asked.returns + 1),
    }
    return accounts.url(f"/xml/{asked.carrier}?{_query(query)}", "https", agent.region)


def _url(
    agent: AgentSettings, asked: IncomingCall, token: str | None, max_body_bytes: int
) -> tuple[str, dict[str, str]]:
    """Path and query of the stream's URL, and the custom parameters beside it."""
    habits = PROFILES[asked.carrier]
    parameters = dict(asked.parameters)
    if not habits.sends_numbers:
        numbers = {"from_number": asked.from_number, "to_number": asked.to_number}
        parameters |= {name: number for name, number in numbers.items() if number}
    if habits.keeps_query:
        body = asked.body
        # Pipecat's bots read no parameters of such a carrier (docs/reference/carriers.md §8.1)
        if not habits.sends_numbers:
            body = with_numbers(body, {"from": asked.from_number, "to": asked.to_number}, max_body_bytes)
        said = {"serviceHost": agent.service_host, "token": token, "body": body}
        query = _query({name: value for name, value in said.items() if value is not None})
        return f"/ws/{asked.carrier}?{query}", parameters
    path = "/".join(filter(None, (f"/ws/{asked.carrier}/{agent.service_host}", token)))
    if not habits.parameters_in_query:
        return path, parameters | to_parameters(asked.body)
    query = _query(parameters | ({"body": asked.body} if asked.body else {}))
    return f"{path}?{query}" if query else path, {}


def _query(pairs: Mapping[str, str]) -> str:
    return urlencode(pairs, quote_via=quote)
