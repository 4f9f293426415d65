# SPDX-License-Identifier: BSD-2-Clause
"""API requests for an agent of another region, passed on to that region's gateway (`[[regions]] url`).

A request goes there once, as it came: method, path, query, body and key. Both bodies are streamed. Which
regions it has passed through stands in a header, so that two gateways that each think the other has an agent
do not send it round and round (508, RFC 5842 §7.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from yarl import URL

from gateway.api.framework.errors import ApiError
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import REQUEST_ID, request_id_of
from gateway.api.pipecat_cloud.proxy_request import ProxyRequest
from gateway.auth.api_keys import Principal
from gateway.calls.session_url import FORWARDED_FOR, FORWARDED_PROTO, HOP_BY_HOP, end_to_end, is_header
from gateway.model.addresses import is_service_host, service_host
from gateway.model.reasons import CallEnded, Reasons

REGIONS: Final = "X-Patchbay-Regions"
"""The header with the regions that a request has passed through, in order, separated by commas."""

CONNECT_S: Final = 5.0
"""Seconds within which the other gateway must accept a connection, its handshake included."""

_LOOP: Final = 508
_NAMES: Final = ("agent", "service_name")
"""The members of bodies that name an agent."""

_MAX_HEADER: Final = 1024

_NOT_PASSED_ON: Final = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    REGIONS.lower().encode(),
    REQUEST_ID.lower().encode(),
}
_OF_THE_OTHER: Final = frozenset({Reasons.agent_unreachable, Reasons.agent_stalled, Reasons.agent_lost})


class RegionForwarding:
    """The way of a worker's API requests to the gateways of other regions."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def region_elsewhere(
        self,
        path: Mapping[str, str],
        principal: Principal | None,
        body: BaseModel | None = None,
    ) -> str | None:
        """Return the region that a request is for if another gateway serves it, else None.

        It is that of the agent that the request names, or of a new one. `path`: the parameters of the path.
        `body`: names the agent of a request whose path does not.
        """
        directory = self._services.calls.agents
        if not directory.has_gateways_elsewhere:
            return None
        region = getattr(body, "region", None)
        if isinstance(region, str) and directory.gateway_in(region) is not None:
            return region
        organization = principal.organization if principal is not None else path.get("org", "")
        name = next(filter(None, (path.get("agent"), *(getattr(body, key, None) for key in _NAMES))), "")
        host = name if is_service_host(name) else service_host(name, organization)
        agent = directory.find(host)
        if agent is None or agent.organization != organization or directory.gateway_in(agent.region) is None:
            return None
        return agent.region

    async def forward(self, request: Request, region: str, read: bytes | None = None) -> Response:
        """Pass the request on, and return the answer once its head has come.

        `read`: the body of the request, if it was read.

        Raises:
            CallEnded: the region's gateway does not answer (502), or stalls (504).
            ApiError: the request has been here before (508), is malformed or comes too slowly.
            ClientDisconnect: the client left.
        """
        calls = self._services.calls
        gateway = calls.agents.gateway_in(region)
        assert gateway is not None
        headers = self._headers(request)
        target = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        url = URL(f"{gateway}{target}{'?' if query else ''}{query}", encoded=True)
        proxied = ProxyRequest(
            request if read is None else _again(request, read), calls.settings.limits.session_api_timeout
        )
        try:
            async with proxied.watched():
                return await proxied.send(self._services.http, url, headers, connect_s=CONNECT_S)
        except CallEnded as end:
            await proxied.close()
            if end.reason not in _OF_THE_OTHER:
                raise
            words = end.public_detail.removeprefix("the agent ")
            detail = f"the gateway of the region {region} {words}"
            raise CallEnded(end.reason, f"{detail} ({url.authority})", public_detail=detail) from None
        except BaseException:
            await proxied.close()
            raise

    def _headers(self, request: Request) -> list[tuple[str, str]]:
        """Return the client's headers with what this gateway knows. Raises ApiError."""
        own = self._services.calls.settings.server.region
        passed = [
            each.strip() for each in ",".join(request.headers.getlist(REGIONS))[:_MAX_HEADER].split(",")
        ]
        if own in passed:
            raise ApiError(_LOOP, str(_LOOP), f"the request has been in the region {own} before")
        sent = end_to_end(request.headers.raw, _NOT_PASSED_ON)
        if not all(map(is_header, sent)):
            raise ApiError(400, "400", "A header of the request is malformed")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent]
        if request.client is not None and request.client.host:
            headers.append((FORWARDED_FOR, request.client.host))
        headers.append((FORWARDED_PROTO, self._services.calls.settings.server.scheme))
        headers.append((REQUEST_ID, request_id_of(request.scope)))
        headers.append((REGIONS, ",".join([*filter(None, passed), own])))
        return headers


def _again(request: Request, body: bytes) -> Request:
    """Return the request with its body still to be read, which it is no more."""
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)
