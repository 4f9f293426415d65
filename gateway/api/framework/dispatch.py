# SPDX-License-Identifier: BSD-2-Clause
"""The kernel: what is done with every request to the API, in this order.

    request id (edge.py) → access → rate limit → body, within limits → validation → handler →
    one answer, one log line

Handlers are given a request that has passed all of it, and raise to refuse. Whatever they raise, the caller
is answered in the operation's style.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Final

import structlog
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api.framework.authentication import authenticate, check_kind
from gateway.api.framework.errors import (
    ApiError,
    not_found,
    of_call_end,
    of_room_failure,
    rate_limited,
    render,
    wrong_method,
)
from gateway.api.framework.middleware import request_id_of
from gateway.api.framework.operation import Access, Answer, Context, Handler, Operation, Style
from gateway.api.framework.request_body import BODY_TIMEOUT_S, body_model, query_model, read_body
from gateway.api.framework.services import Services
from gateway.api.framework.strict_json import dump
from gateway.auth.api_keys import Principal
from gateway.auth.rate_limits import FailedKeyLimiter, RateLimiter
from gateway.calls.session_start import RoomFailed
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed

__all__ = [
    "Access",
    "Answer",
    "ApiError",
    "Context",
    "Handler",
    "Operation",
    "Principal",
    "Style",
    "routes",
]

log = structlog.get_logger(__name__)

ROOT: Final = "/v1"
"""Under it every path is answered by the kernel, also those that are not served."""

BUSIEST: Final = "/v1/public/"
"""Where sessions are started and reached. No path beside these can be meant by a URL that begins so."""


def routes(
    operations: Iterable[Operation], services: Services, *, body_timeout_s: float = BODY_TIMEOUT_S
) -> list[Route]:
    """Starlette's routes for the operations and for all that is not served under /v1.

    The application must have `Edge` (edge.py) as a middleware. `body_timeout_s`: how long a body may take.
    """
    limits = services.settings.limits
    rates = RateLimiter(limits.requests_per_second, limits.requests_burst)
    strangers = FailedKeyLimiter(RateLimiter(limits.requests_per_second, limits.requests_burst))
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        methods = by_path.setdefault(operation.path, {})
        assert operation.method not in methods, f"{operation.method} {operation.path} stands twice"
        methods[operation.method] = operation
    found = [
        Route(path, _Resource(path, by_path[path], services, rates, strangers, body_timeout_s))
        for path in sorted(by_path, key=_specificity)
    ]
    unknown = _Unknown(by_path)
    return [*found, Route(ROOT, unknown), Route(f"{ROOT}/{{rest:path}}", unknown)]


def _specificity(path: str) -> tuple[int, ...]:
    """Words before parameters, parameters before what takes the rest: the first that matches is the best.

    Those that callers use all the time come first, because the routes are tried one after another.
    """
    segments = path.split("/")
    kinds = (2 if ":path}" in each else 1 if each.startswith("{") else 0 for each in segments)
    return (0 if path.startswith(BUSIEST) else 1, *kinds)


class _Resource:
    """The operations of one path, as an ASGI application."""

    def __init__(  # noqa: PLR0917 - what all resources of an API share
        self,
        path: str,
        operations: Mapping[str, Operation],
        services: Services,
        rates: RateLimiter,
        strangers: FailedKeyLimiter,
        body_timeout_s: float,
    ) -> None:
        self._path = path
        self._operations = dict(operations)
        if "GET" in self._operations:
            self._operations.setdefault("HEAD", self._operations["GET"])
        self._style = next(iter(operations.values())).style
        # What is only there to say that it cannot be here (not_here.py) is not allowed beside what is.
        served = [method for method, each in self._operations.items() if each.in_schema] or self._operations
        self._allowed = ", ".join(sorted({*served, "OPTIONS"}))
        self._services = services
        self._rates = rates
        self._strangers = strangers
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        began = time.monotonic()
        operation = self._operations.get(request.method)
        told: dict[str, str] = {}
        if operation is None:
            response = self._unserved(request)
        else:
            response = await self._serve(request, operation, told)
        _log(request, self._path, response, began, told)
        await response(scope, receive, send)

    def _unserved(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": self._allowed})
        return _refused(wrong_method(self._allowed, self._style), self._style, request)

    async def _serve(self, request: Request, operation: Operation, told: dict[str, str]) -> Response:
        style = operation.style
        try:
            principal = await authenticate(
                request.headers,
                request.client.host if request.client else "",
                operation,
                self._services.api_keys,
                self._strangers,
                self._services.now(),
            )
            if principal is not None:
                told.update(organization=principal.organization, key=principal.key_id)
                self._charge(principal, style)
                check_kind(principal, operation)
            with structlog.contextvars.bound_contextvars(**told):
                return await self._handle(request, operation, principal)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception as error:  # noqa: BLE001 - the edge of the request's task: it ends this answer and no other
            with structlog.contextvars.bound_contextvars(**told):
                return _refused(_refusal_of(error, style), style, request)

    def _charge(self, principal: Principal, style: Style) -> None:
        name = (principal.organization, principal.key_id)
        wait_s = self._rates.take(name, self._services.now())
        if wait_s:
            raise rate_limited(math.ceil(wait_s), style)

    async def _handle(self, request: Request, operation: Operation, principal: Principal | None) -> Response:
        raw = await read_body(request, operation, self._body_timeout_s) if operation.reads_body else b""
        style = operation.style
        context = Context(
            request=request,
            services=self._services,
            principal=principal,
            path=dict(request.path_params),
            body=body_model(raw, request.headers, operation.body, style) if operation.body else None,
            raw_body=raw,
            query=query_model(request.query_params, operation.query, style) if operation.query else None,
            request_id=request_id_of(request.scope),
        )
        answer = await operation.handler(context)
        if isinstance(answer, Response):
            return answer
        return _json(answer.status, answer.body, answer.headers)


class _Unknown:
    """Every other path under /v1."""

    def __init__(self, paths: Mapping[str, Mapping[str, Operation]]) -> None:
        self._styles = {
            path.partition("/{")[0]: next(iter(methods.values())).style for path, methods in paths.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        began = time.monotonic()
        style = self._style_of(request.url.path)
        response = _refused(not_found("Nothing is served under this path", style), style, request)
        _log(request, "unknown", response, began, {})
        await response(scope, receive, send)

    def _style_of(self, path: str) -> Style:
        """The style of the operations whose words the path begins with."""
        near = [begin for begin in self._styles if path == begin or path.startswith(f"{begin}/")]
        return self._styles[max(near, key=len)] if near else Style.PCC


def _log(request: Request, route: str, response: Response, began: float, told: Mapping[str, str]) -> None:
    """The one line of a request; `began`: seconds of the monotonic clock."""
    log.info(
        "request",
        method=request.method,
        route=route,
        status=response.status_code,
        seconds=round(time.monotonic() - began, 4),
        **told,
    )


def _refusal_of(error: Exception, style: Style) -> ApiError:
    match error:
        case ApiError():
            return error
        case CallEnded():
            return of_call_end(error, style)
        case RoomFailed():
            return of_room_failure(error)
        case StoreFailed():
            log.warning("store", error=str(error))
            return of_call_end(CallEnded(Reasons.store_failed), style)
    log.exception("internal error")
    return of_call_end(CallEnded(Reasons.internal_error), style)


def _refused(refusal: ApiError, style: Style, request: Request) -> Response:
    rendered = render(refusal, style, request_id_of(request.scope))
    return _json(rendered.status, rendered.body, rendered.headers)


def _json(status: int, body: object, headers: Mapping[str, str]) -> Response:
    """An answer in JSON. Raises ValueError where `body` holds what JSON has no word for, as NaN."""
    if body is None:
        return Response(status_code=status, headers=dict(headers))
    content = dump(body.model_dump(mode="json", by_alias=True) if isinstance(body, BaseModel) else body)
    return Response(content, status, dict(headers), media_type="application/json")
