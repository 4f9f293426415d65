# SPDX-License-Identifier: BSD-2-Clause
"""Requests to the instance that runs a session (docs/reference/public-api.md, "Session API")."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response
from yarl import URL

from gateway.api.framework.operation import Access, Context, Operation, Style
from gateway.api.pipecat_cloud.proxy_request import ProxyRequest
from gateway.calls.session_access import SessionAccess
from gateway.calls.session_url import (
    KnownClient,
    forwarded,
    read_session_url,
    refuse_media_path,
    running_session,
)
from gateway.model.addresses import service_host

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
PATH: Final = "/v1/public/{agent}/sessions/{session_id}/{path:path}"


async def forward(context: Context) -> Response:
    """Forward the request to the session's instance, and return the answer once its head has arrived.

    Raises:
        CallEnded: there is no such session, or its instance does not answer.
        ApiError: the request is malformed or arrives too slowly.
        StoreFailed: the store did not answer.
        ClientDisconnect: the client left.
    The connection to the instance is closed whenever this raises.
    """
    request, services = context.request, context.services
    limits = services.calls.settings.limits
    session_url = read_session_url(
        request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    )
    agent = service_host(session_url.agent, context.caller.organization)
    refuse_media_path(session_url, services.calls.agents.media_paths(agent))
    client = KnownClient(request.client.host if request.client else "", services.calls.settings.server.scheme)
    headers = forwarded(request.headers.raw, session_url.session_id, context.request_id, client)
    proxy_request = ProxyRequest(request, limits.session_api_timeout)
    try:
        async with proxy_request.watched():
            session = await running_session(
                services.calls.store,
                session_url,
                context.caller.organization,
                wait_s=limits.agent_connect_timeout,
            )
            proxy_request.end_with(SessionAccess(services.calls, context.caller, session.session_id))
            url = URL(f"{session.instance}{session_url.target}", encoded=True)
            return await proxy_request.send(services.http, url, headers)
    except BaseException:
        await proxy_request.close()
        raise


def _operation(method: str) -> Operation:
    return Operation(
        method=method,
        path=PATH,
        handler=forward,
        access=Access.PUBLIC,
        style=Style.PCC,
        summary=f"{method} a route of the agent that runs the session",
        tag="Session API",
        description="Forwarded to the instance that runs the session, with `x-daily-session-id` and "
        "`X-Request-Id`; bodies are streamed both ways, and the answer is returned unchanged, without what "
        "would hold for the whole host, as `Set-Cookie`. A request "
        "waits for a session that is starting; one that is over is 404. 502 if the instance does not "
        "answer, 504 if it stalls or the session does not start.",
        answers={400: None, 404: None, 408: None, 502: None, 504: None},
        any_answer=True,
        path_notes={
            "agent": "The agent's name.",
            "session_id": "The session's id, as the start gave it.",
            "path": "A path of the instance, passed on as it is; no segment may be `.` or `..`. `bot`, "
            "`ws`, `whatsapp`, `readyz`, `livez` and the agent's `mediaPath` are 404.",
        },
    )


SESSION_PROXY: Final = tuple(map(_operation, METHODS))
"""The rows of the route table: one a method."""
