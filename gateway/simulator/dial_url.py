# SPDX-License-Identifier: BSD-2-Clause
"""The URL that a carrier dials, and the parameters of its `start` (docs/reference/public-api.md, "Media
sockets"). No I/O.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from gateway.carriers.agent_body import to_parameters
from gateway.simulator.call_plan import CallPlan
from gateway.simulator.carrier_profiles import (
    EXOTEL_PARAMETERS,
    PROFILES,
    SERVICE_HOST_PARAMETER,
    SERVICE_HOST_QUERY,
    audio_format,
)
from serializers.events import NO_PARAMETERS, AudioFormat

BODY_QUERY = "body"

LOOPBACK = "127.0.0.1"


class DialError(ValueError):
    """A URL that no carrier could dial; the message says why."""


@dataclass(frozen=True, slots=True)
class DialedUrl:
    """A URL as a carrier dials it.

    `url`: with path and query. `host`: the name or address to connect to. `parameters`: those of `start`.
    """

    url: str
    host: str
    parameters: Mapping[str, str]
    audio: AudioFormat


def dial(
    url: str,
    carrier: str,
    agent: str | None,
    parameters: Mapping[str, str] = NO_PARAMETERS,
    body: str | None = None,
) -> DialedUrl:
    """Return `url` as `carrier` dials it.

    `url`: a base (`ws://host:port`, to which `/ws/{carrier}` is added) or complete. `agent`: AGENT.ORG, named
    as the carrier can unless the URL names one. `parameters`: those of the carrier's document. `body`: JSON
    for the agent, in the query, or in parameters where the carrier drops it. Raises DialError.
    """
    if agent is not None and not (agent.isascii() and agent.isprintable()):
        raise DialError("the agent's name holds characters that belong in no name")
    profile = PROFILES[carrier]
    parts = _split(url)
    path = parts.path if parts.path not in {"", "/"} else f"/ws/{carrier}"
    query = parts.query if profile.keeps_query else ""
    start_parameters = dict(parameters)
    if agent is not None and not _names_agent(path, query, carrier):
        if profile.keeps_query:
            query = "&".join(filter(None, (query, urlencode({SERVICE_HOST_QUERY: agent}))))
        else:
            start_parameters[SERVICE_HOST_PARAMETER] = agent
    if carrier == "exotel" and parameters:  # it has no other place for them
        query, start_parameters = "&".join(filter(None, (query, urlencode(parameters)))), {}
    if body is not None and profile.keeps_query:
        query = "&".join(filter(None, (query, urlencode({BODY_QUERY: body_as_query(body)}))))
    elif body is not None:
        start_parameters |= to_parameters(body_as_query(body))
    if carrier == "exotel":
        start_parameters = _exotel_parameters(query) | start_parameters
    dialled = parts._replace(path=path, query=query, fragment="").geturl()
    # Names under .localhost are loopback addresses, whatever the resolver thinks (RFC 6761 §6.3).
    host = parts.hostname or ""
    if host.endswith(".localhost"):
        host = LOOPBACK
    return DialedUrl(dialled, host, start_parameters, audio_format(carrier, query))


def parameters_of(plan: CallPlan) -> dict[str, str]:
    """Return the custom parameters of a call's `start`: the plan's, and the numbers that it names where the
    carrier has no other place for them, as its documents do.
    """
    parameters = dict(plan.parameters)
    if plan.given_url is not None or PROFILES[plan.carrier].sends_numbers:
        return parameters
    numbers = {"from_number": plan.from_number, "to_number": plan.to_number}
    return {name: number for name, number in numbers.items() if number} | parameters


def body_as_query(body: str) -> str:
    """Return JSON for an agent as it stands in a URL."""
    return base64.b64encode(body.encode()).decode()


def _split(url: str) -> SplitResult:
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise DialError("the URL holds characters that belong in no URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise DialError(f"not a URL: {error}") from error
    if parts.scheme not in {"ws", "wss"}:
        raise DialError("the URL must begin with ws:// or wss://")
    if not parts.hostname or port == 0:
        raise DialError("the URL names no host to connect to")
    return parts


def _names_agent(path: str, query: str, carrier: str) -> bool:
    named_in_path = path.removeprefix(f"/ws/{carrier}").strip("/") if path.startswith("/ws/") else ""
    return "." in named_in_path or SERVICE_HOST_QUERY in dict(parse_qsl(query))


def _exotel_parameters(query: str) -> dict[str, str]:
    """Return the query parameters that Exotel passes on as `custom_parameters`."""
    pairs = [(name, value) for name, value in parse_qsl(query) if name != "sample-rate"]
    return dict(pairs[:EXOTEL_PARAMETERS])
