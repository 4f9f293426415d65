# SPDX-License-Identifier: BSD-2-Clause
"""The way of every API request, in this order:

    request id (middleware.py) → authentication → rate limit → query → what shows without a body →
    body, within limits → validation → handler → one answer, one log line

A handler receives a request that has passed all earlier steps, and raises to refuse it. Whatever a step
raises, the client gets an answer in the operation's error style.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api.framework.authentication import authenticate, charge, check_kind
from gateway.api.framework.body_reader import QUICK_BYTES, BodyReader
from gateway.api.framework.cross_origin import CrossOrigin
from gateway.api.framework.errors import (
    ApiError,
    error_of,
    not_found,
    of_room_failure,
    render,
    wrong_method,
)
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import request_id_of
from gateway.api.framework.operation import Context, Operation, Style
from gateway.api.framework.request_body import BODY_TIMEOUT_S, query_model, read_body
from gateway.api.framework.turns import next_turn
from gateway.auth.api_keys import Principal
from gateway.calls.session_start import RoomFailed
from gateway.model.json_text import dump
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session_ids import canonical_session_id
from gateway.observability.log import log_at
from gateway.store.history import ManagementCall
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

ROOT: Final = "/v1"
"""Every path below it is answered here, also those without an operation."""

SESSION_ID: Final = "session_id"
"""The parameter of every path that names a session."""

BUSIEST: Final = "/v1/public/"
"""Sessions are started and reached below it. No other path of the table matches a URL that begins so."""

TOO_MANY: Final = 429

MAX_RECORDED_PATH: Final = 512
"""Characters of a management call's path that are recorded."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """The parts that all resources of one API share. `body_timeout_s`: seconds a body may take."""

    services: Services
    bodies: BodyReader
    body_timeout_s: float
    cross_origin: CrossOrigin
    elsewhere: Elsewhere | None


class Elsewhere(Protocol):
    """The gateways of other regions, which serve requests for their agents."""

    def region_elsewhere(
        self, path: Mapping[str, str], principal: Principal | None, body: BaseModel | None = None
    ) -> str | None:
        """Return the region that a request is for if another gateway serves it."""

    async def forward(self, request: Request, region: str, read: bytes | None = None) -> Response:
        """Pass the request on, and return the answer. `read`: its body, if it was read."""


def routes(
    operations: Iterable[Operation],
    services: Services,
    *,
    body_timeout_s: float = BODY_TIMEOUT_S,
    elsewhere: Elsewhere | None = None,
) -> list[Route]:
    """Return Starlette's routes for the operations, and for everything below /v1 that is not served.

    The application needs `ApiMiddleware` (middleware.py). `body_timeout_s`: seconds within which a body must
    arrive. `elsewhere`: where requests for agents of other regions go.
    """
    calls = services.calls
    shared = _Shared(
        services,
        BodyReader(calls.settings.limits.json_share, calls.now),
        body_timeout_s,
        CrossOrigin(calls.settings.server),
        elsewhere,
    )
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        methods = by_path.setdefault(operation.path, {})
        assert operation.method not in methods, f"{operation.method} {operation.path} stands twice"
        methods[operation.method] = operation
    unknown = _UnknownPath(by_path, shared.cross_origin)
    return [
        *(Route(path, _Resource(path, by_path[path], shared)) for path in sorted(by_path, key=_specificity)),
        Route(ROOT, unknown),
        Route(f"{ROOT}/{{rest:path}}", unknown),
    ]


def _specificity(path: str) -> tuple[int, ...]:
    """Return a sort key: literal segments before parameters, and parameters before a rest of any length.

    Starlette tries the routes in order, so the first match must be the most specific; the busiest come first.
    """
    segments = path.split("/")
    kinds = (2 if ":path}" in segment else 1 if segment.startswith("{") else 0 for segment in segments)
    return (0 if path.startswith(BUSIEST) else 1, *kinds)


class _Resource:
    """The operations of one path, as an ASGI application."""

    def __init__(self, path: str, operations: Mapping[str, Operation], shared: _Shared) -> None:
        self._path = path
        self._operations = dict(operations)
        if "GET" in self._operations:
            self._operations.setdefault("HEAD", self._operations["GET"])
        self._style = next(iter(operations.values())).style
        # An operation that only answers 501 (unsupported.py) is not in `Allow` beside one that works.
        served = [method for method, each in self._operations.items() if each.in_schema] or self._operations
        self._allowed = ", ".join(sorted({*served, "OPTIONS"}))
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        started_at = time.monotonic()
        operation = self._operations.get(request.method)
        log_fields: dict[str, str] = {}
        if self._shared.cross_origin.is_preflight(scope):
            response = Response(status_code=204)
        elif operation is None:
            response = self._unserved(request)
        else:
            response = await self._serve(request, operation, log_fields)
            if operation.audited:
                self._record(request, response, log_fields)
        _log_request(request, self._path, response, started_at, log_fields)
        await response(scope, receive, send)

    def _record(self, request: Request, response: Response, log_fields: Mapping[str, str]) -> None:
        """Record a management call. One without a good key has no owner, and one too many changed nothing."""
        if "key" not in log_fields or response.status_code == TOO_MANY:
            return
        calls = self._shared.services.calls
        call = ManagementCall(
            at=calls.now(),
            organization=log_fields["organization"],
            key_id=log_fields["key"],
            method=request.method,
            path=request.url.path[:MAX_RECORDED_PATH],
            status=response.status_code,
            request_id=request_id_of(request.scope),
            peer=request.client.host if request.client else "",
        )
        calls.store.history.record_call(call)

    def _unserved(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": self._allowed})
        return _error_response(wrong_method(self._allowed, self._style), self._style, request)

    async def _serve(self, request: Request, operation: Operation, log_fields: dict[str, str]) -> Response:
        """Return the operation's answer, or that of the step that refused. Adds the key to `log_fields`."""
        style, shared = operation.style, self._shared
        keys = shared.services.calls.limited_keys
        try:
            principal = await authenticate(request, operation, keys)
            if principal is not None:
                log_fields.update(organization=principal.organization, key=principal.key_id)
                charge(principal, keys, style)
                check_kind(principal, operation)
            with structlog.contextvars.bound_contextvars(**log_fields):
                return await self._handle(request, operation, principal, log_fields)
        except ClientDisconnect:
            return Response(status_code=400)  # the client has gone and reads nothing
        except Exception as error:  # noqa: BLE001 - the edge of the request's task: it ends this answer and no other
            with structlog.contextvars.bound_contextvars(**log_fields):
                return _error_response(_api_error(error, style), style, request)

    async def _handle(
        self,
        request: Request,
        operation: Operation,
        principal: Principal | None,
        log_fields: dict[str, str],
    ) -> Response:
        elsewhere, path = self._shared.elsewhere, _path_of(request)
        if elsewhere and (region := elsewhere.region_elsewhere(path, principal)) is not None:
            log_fields["passed_on_to"] = region
            return await elsewhere.forward(request, region)
        style, timeout_s = operation.style, self._shared.body_timeout_s
        context = Context(
            request=request,
            services=self._shared.services,
            principal=principal,
            path=path,
            body=None,
            raw_body=b"",
            query=query_model(request, operation.query, style) if operation.query else None,
            request_id=request_id_of(request.scope),
        )
        if operation.check is not None:
            await operation.check(context)
        if operation.reads_body:
            raw = await read_body(request, operation, timeout_s)
            body = None
            if operation.body is not None:
                owner = (principal.organization, principal.key_id) if principal is not None else None
                body = await self._shared.bodies.read(raw, request.headers, operation, owner)
            elif len(raw) > QUICK_BYTES:
                await next_turn()  # the handler may parse it
            context = replace(context, body=body, raw_body=raw)
            if elsewhere and (region := elsewhere.region_elsewhere(path, principal, body)) is not None:
                log_fields["passed_on_to"] = region
                return await elsewhere.forward(request, region, raw)
        answer = await operation.handler(context)
        if isinstance(answer, Response):
            return answer
        return _json_response(answer.status, answer.body, answer.headers)


def _path_of(request: Request) -> dict[str, str]:
    """Return the parameters of the path. A session's id may be spelt in either way (session_ids.py)."""
    path = dict(request.path_params)
    if SESSION_ID in path:
        path[SESSION_ID] = canonical_session_id(path[SESSION_ID])
    return path


class _UnknownPath:
    """Answers every path below /v1 without an operation: 404 in the style of the nearest operations."""

    def __init__(self, paths: Mapping[str, Mapping[str, Operation]], cross_origin: CrossOrigin) -> None:
        self._cross_origin = cross_origin
        self._styles = {
            path.partition("/{")[0]: next(iter(methods.values())).style for path, methods in paths.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        started_at = time.monotonic()
        style = self._style_of(request.url.path)
        response = _error_response(not_found("Nothing is served under this path", style), style, request)
        if self._cross_origin.is_preflight(scope):
            response = Response(status_code=204)  # so that the page can read the 404 to what follows
        _log_request(request, "unknown", response, started_at, {})
        await response(scope, receive, send)

    def _style_of(self, path: str) -> Style:
        """Return the style of the operations whose literal path is the longest prefix of `path`."""
        prefixes = [prefix for prefix in self._styles if path == prefix or path.startswith(f"{prefix}/")]
        return self._styles[max(prefixes, key=len)] if prefixes else Style.PCC


def _log_request(
    request: Request, route: str, response: Response, started_at: float, fields: Mapping[str, str]
) -> None:
    """Log the one line of a request. `started_at`: seconds of the monotonic clock."""
    log.info(
        "request",
        method=request.method,
        route=route,
        status=response.status_code,
        seconds=round(time.monotonic() - started_at, 4),
        **fields,
    )


def _api_error(error: Exception, style: Style) -> ApiError:
    """Return the answer to an exception of a step or handler; log those that are not the client's fault."""
    match error:
        case ApiError():
            return error
        case CallEnded():
            if error.detail != error.public_detail:
                severity = error.reason.severity(ran=False)
                log_at(log, severity, "request failed", reason=error.reason.code, words=error.detail)
            return error_of(error, style)
        case RoomFailed():
            return of_room_failure(error)
        case StoreFailed():
            log.warning("store", error=str(error))
            return error_of(CallEnded(Reasons.store_failed), style)
    log.exception("internal error")
    return error_of(CallEnded(Reasons.internal_error), style)


def _error_response(error: ApiError, style: Style, request: Request) -> Response:
    rendered = render(error, style, request_id_of(request.scope))
    return _json_response(rendered.status, rendered.body, rendered.headers)


def _json_response(status: int, body: object, headers: Mapping[str, str]) -> Response:
    """Return a JSON response, without a body for None. Raises ValueError if JSON cannot hold it, as NaN."""
    if body is None:
        return Response(status_code=status, headers=dict(headers))
    content = dump(body.model_dump(mode="json", by_alias=True) if isinstance(body, BaseModel) else body)
    return Response(content, status, dict(headers), media_type="application/json")
