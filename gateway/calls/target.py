# SPDX-License-Identifier: BSD-2-Clause
"""The URL of a media socket (docs/reference/public-api.md, "Media sockets").

wss://[{region}.]{host}/ws/{carrier|generic}[/{AGENT.ORG}][/{token}][?serviceHost=AGENT.ORG][&body=…]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, unquote

from gateway.carriers.agent_body import read_body
from gateway.model.addresses import is_service_host, region_of_host
from gateway.model.reasons import CallEnded, Reasons

GENERIC = "generic"
_MAX_SEGMENTS = 4  # ws, carrier, agent, token


@dataclass(frozen=True, slots=True)
class Target:
    """The statements of a media socket's URL about its call. An empty parameter counts as absent.

    `named`: every agent that the URL names, as AGENT.ORG. `body`: base64 of the JSON for the agent, or None.
    `token`: the query's, else the path's last segment, or None.
    """

    carrier: str
    region: str
    named: tuple[str, ...]
    token: str | None
    body: str | None


def read_target(
    url: SplitResult,
    host: str,
    *,
    carriers: Collection[str],
    regions: Collection[str],
    region: str,
    max_body_bytes: int,
) -> Target:
    """Return what a media socket's URL and its Host header say. `region`: the gateway's own.

    Raises CallEnded: not_found for a path that is no media socket's, bad_request, too_large.
    """
    segments = [unquote(part) for part in url.path.split("/")[1:]]
    if len(segments) < 2 or segments[0] != "ws":
        raise CallEnded(Reasons.not_found, "media sockets are under /ws/{carrier}")
    carrier, rest = segments[1], [part for part in segments[2:] if part]
    if carrier != GENERIC and carrier not in carriers:
        raise CallEnded(
            Reasons.not_found, f"no such carrier; there are {', '.join([*sorted(carriers), GENERIC])}"
        )
    named = []
    if rest and "." in rest[0]:
        if not is_service_host(rest[0]):
            raise CallEnded(Reasons.bad_request, "the path names an agent that is not of the form AGENT.ORG")
        named.append(rest.pop(0))
    if len(rest) > 1 or len(segments) > _MAX_SEGMENTS + 1:
        raise CallEnded(Reasons.not_found, "a media socket's path is /ws/{carrier}/{AGENT.ORG}/{token}")
    query = parse_qs(url.query, keep_blank_values=True)
    for service_host in filter(None, query.get("serviceHost", [])):  # an empty one names no agent
        if not is_service_host(service_host):
            raise CallEnded(Reasons.bad_request, "serviceHost is not of the form AGENT.ORG")
        named.append(service_host)
    return Target(
        carrier=carrier,
        region=region_of_host(host, regions) or region,
        named=tuple(named),
        token=_single(query, "token") or (rest[0] if rest else None),
        body=read_body(_single(query, "body"), max_body_bytes),
    )


def _single(query: Mapping[str, list[str]], name: str) -> str | None:
    """Return a parameter's value, or None. Raises CallEnded(bad_request) if it is given twice."""
    values = query.get(name, [])
    if len(values) > 1:
        raise CallEnded(Reasons.bad_request, f"{name} is given twice")
    return values[0] if values else None
