# SPDX-License-Identifier: BSD-2-Clause
"""The URL of a media socket (docs/reference/public-api.md, "Media sockets").

wss://[{region}.]{host}/ws/{carrier|generic}[/{AGENT.ORG}][/{token}][?serviceHost=AGENT.ORG][&body=…][&…]

What else stands in the query is custom data, and goes on to the agent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote

from gateway.carriers.agent_body import MAX_CUSTOM_FIELDS, Pairs, encode_custom, read_body
from gateway.model.addresses import is_service_host, region_of_host
from gateway.model.reasons import CallEnded, Reasons

GENERIC = "generic"
_MAX_SEGMENTS = 4  # ws, carrier, agent, token
_OURS: Final = frozenset({"serviceHost", "token", "body", "_pipecatCloudServiceHost"})
"""Parameters that are the gateway's, and never go on."""


@dataclass(frozen=True, slots=True)
class Target:
    """The statements of a media socket's URL about its call. An empty parameter counts as absent.

    `named`: every agent that the URL names, as AGENT.ORG. `body`: base64 of the JSON for the agent, or None.
    `token`: the query's, else the path's last segment, or None. `custom`: all other parameters, in order.
    """

    carrier: str
    region: str
    named: tuple[str, ...]
    token: str | None
    body: str | None
    custom: Pairs = ()


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
    query = _read_query(url.query)
    for service_host in filter(None, _values(query, "serviceHost")):  # an empty one names no agent
        if not is_service_host(service_host):
            raise CallEnded(Reasons.bad_request, "serviceHost is not of the form AGENT.ORG")
        named.append(service_host)
    return Target(
        carrier=carrier,
        region=region_of_host(host, regions) or region,
        named=tuple(named),
        token=_single(query, "token") or (rest[0] if rest else None),
        body=read_body(_single(query, "body"), max_body_bytes),
        custom=_custom(query),
    )


def _read_query(text: str) -> Pairs:
    if not text:
        return ()
    try:
        return tuple(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_CUSTOM_FIELDS + len(_OURS)))
    except ValueError:
        raise CallEnded(Reasons.too_large, f"the query has more than {MAX_CUSTOM_FIELDS} fields") from None


def _custom(query: Pairs) -> Pairs:
    """Return the parameters that are not the gateway's. Raises CallEnded(too_large)."""
    custom = tuple((name, value) for name, value in query if name not in _OURS)
    encode_custom(custom)
    return custom


def _values(query: Pairs, name: str) -> list[str]:
    return [value for each, value in query if each == name]


def _single(query: Pairs, name: str) -> str | None:
    """Return a parameter's value, or None. Raises CallEnded(bad_request) if it is given twice."""
    values = _values(query, name)
    if len(values) > 1:
        raise CallEnded(Reasons.bad_request, f"{name} is given twice")
    return values[0] if values else None
