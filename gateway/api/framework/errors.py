# SPDX-License-Identifier: BSD-2-Clause
"""Refusals of the API, and how they look in either style.

Those that the kernel itself gives are made here and nowhere else, so that the document shows their exact
bodies. What a call's table of reasons says (gateway/model/reasons.py) is translated, never repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.framework.operation import Access, Operation, Style, Unauthorized
from gateway.calls.session_start import RoomFailed
from gateway.model.reasons import CallEnded, Party, Reasons, status_phrase

ErrorType = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "conflict",
    "unprocessable",
    "rate_limit",
    "quota_exceeded",
    "internal",
    "service_unavailable",
]

_TYPES: Final[Mapping[int, ErrorType]] = {
    401: "authentication",
    402: "quota_exceeded",
    403: "permission",
    404: "not_found",
    409: "conflict",
    422: "unprocessable",
    429: "rate_limit",
    500: "internal",
}

RATE_LIMIT_MESSAGE: Final = "Rate limit exceeded. Please try again later"
"""docs/reference/public-api.md, "Start": the `message` of every 429."""

AT_CAPACITY_CODE: Final = "PCC-AGENT-AT-CAPACITY"


class ErrorAnswer(BaseModel):
    """An error, as Pipecat Cloud's clients read it."""

    error: str = Field(description="What is wrong, in words.")
    code: str = Field(description="What is wrong, for programs: the status, or a code of its own.")


class RateLimitAnswer(BaseModel):
    """Too many at the moment: requests of a key, or sessions of an agent."""

    status: Literal[429] = 429
    code: Literal["429"] = "429"
    error: str = Field(description=f"What is used up; an agent's places where it names {AT_CAPACITY_CODE}.")
    message: str = RATE_LIMIT_MESSAGE


class ErrorDetail(BaseModel):
    """What is wrong."""

    model_config = ConfigDict(title="Error")

    type: ErrorType = Field(description="What kind of error it is.")
    code: str = Field(description="What is wrong, for programs.")
    message: str = Field(description="What is wrong, in words.")
    param: str | None = Field(description="The parameter that is wrong, as in `transport.type`.")
    request_id: str = Field(description="The request's id, as in `X-Request-Id`.")


class ErrorEnvelope(BaseModel):
    """An error of the session resource."""

    error: ErrorDetail


class ApiError(Exception):
    """Raised to refuse a request. `type` is the envelope's, by default the status's own.

    No text holds a key, a token or a stack trace: it is read by whoever called.
    """

    def __init__(  # noqa: PLR0917 - raised in one line, in the order in which it is read
        self,
        status: int,
        code: str,
        message: str,
        type: ErrorType | None = None,  # noqa: A002 - the envelope's word
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.type: ErrorType = type or _type_of(status)
        self.param = param
        self.headers = dict(headers or {})


def _type_of(status: int) -> ErrorType:
    if status in _TYPES:
        return _TYPES[status]
    return "service_unavailable" if status > HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A refusal in one style."""

    status: int
    body: BaseModel
    headers: Mapping[str, str]


def render(refusal: ApiError, style: Style, request_id: str) -> Rendered:
    """The refusal as the style has it."""
    body: BaseModel
    if style is Style.ENVELOPE:
        detail = ErrorDetail(
            type=refusal.type,
            code=refusal.code,
            message=refusal.message,
            param=refusal.param,
            request_id=request_id,
        )
        body = ErrorEnvelope(error=detail)
    elif refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
        body = RateLimitAnswer(error=refusal.message)
    else:
        body = ErrorAnswer(error=refusal.message, code=refusal.code)
    return Rendered(refusal.status, body, refusal.headers)


def schema_of(status: int, style: Style) -> type[BaseModel]:
    """The model of an error's body."""
    if style is Style.ENVELOPE:
        return ErrorEnvelope
    return RateLimitAnswer if status == HTTPStatus.TOO_MANY_REQUESTS else ErrorAnswer


def _own(status: HTTPStatus, code: str, message: str, style: Style, **more: str | None) -> ApiError:
    """A refusal of the kernel: Pipecat Cloud's clients compare `code` with the status."""
    return ApiError(
        status.value, str(status.value) if style is Style.PCC else code, message, param=more.get("param")
    )


def bad_json(detail: str, style: Style) -> ApiError:
    """The body is not what JSON is, or more than is taken of it."""
    return _own(HTTPStatus.BAD_REQUEST, "bad_json", detail, style)


def bad_content(detail: str, style: Style) -> ApiError:
    """The body is of a kind that is not taken here."""
    return _own(HTTPStatus.BAD_REQUEST, "bad_content_type", detail, style)


def invalid(detail: str, style: Style, param: str | None = None) -> ApiError:
    """The JSON or the query is well formed, and not what the operation takes."""
    status = HTTPStatus.BAD_REQUEST if style is Style.PCC else HTTPStatus.UNPROCESSABLE_ENTITY
    return _own(status, "invalid_parameter", detail, style, param=param)


def unauthorized(how: Unauthorized, style: Style) -> ApiError:
    """There is no key, or it is none of ours, or was revoked. Which of these is nobody's business."""
    headers = {"WWW-Authenticate": "Bearer"}
    if style is Style.PCC:
        return ApiError(401, how.code, how.message, headers=headers)
    return ApiError(401, "unauthorized", "A valid key is needed: Authorization: Bearer sk_…", headers=headers)


def not_private(how: Unauthorized, style: Style) -> ApiError:
    """A public key where a private one is needed."""
    if style is Style.PCC:
        return unauthorized(how, style)
    return ApiError(403, "private_key_needed", "This needs a private key; a public one was given")


def not_found(detail: str, style: Style) -> ApiError:
    """There is nothing, or nothing that this caller may know of."""
    return _own(HTTPStatus.NOT_FOUND, "not_found", detail, style)


def wrong_method(allowed: str, style: Style) -> ApiError:
    """The path is served, this method is not. `allowed`: the methods that are, separated by commas."""
    refusal = _own(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"This path takes {allowed}", style)
    refusal.headers["Allow"] = allowed
    return refusal


def too_slow(seconds: float, style: Style) -> ApiError:
    """The body did not come in time."""
    detail = f"The request's body did not come within {seconds:g} s"
    return _own(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail, style)


def too_large(most: int, style: Style) -> ApiError:
    """The body has more bytes than are taken."""
    detail = f"The request's body is larger than {most} bytes"
    return _own(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", detail, style)


def rate_limited(retry_after_s: int, style: Style) -> ApiError:
    """The key has made more requests than it may."""
    return _too_many("More requests were made with this key than it may make a second", retry_after_s, style)


def too_many_unknown(retry_after_s: int, style: Style) -> ApiError:
    """An address has tried more keys that open nothing than it may."""
    detail = "More requests with keys that are not good came from this address than may come a second"
    return _too_many(detail, retry_after_s, style)


def _too_many(detail: str, retry_after_s: int, style: Style) -> ApiError:
    refusal = _own(HTTPStatus.TOO_MANY_REQUESTS, Reasons.rate_limited.code, detail, style)
    refusal.headers["Retry-After"] = str(retry_after_s)
    return refusal


def of_call_end(end: CallEnded, style: Style) -> ApiError:
    """A refusal of the table of reasons as an HTTP answer.

    In the style PCC `code` is the status where the status says it all, as the SDK's users compare it with
    "404" and "429"; where an agent or the gateway is at fault it is the entry's code, which tells more.
    """
    reason = end.reason
    status = reason.status or (502 if reason.party is Party.AGENT else 503)
    code, detail = reason.code, end.detail
    if style is Style.PCC:
        if status <= HTTPStatus.INTERNAL_SERVER_ERROR:
            code = str(status)
        if reason is Reasons.at_capacity:
            detail = f"{AT_CAPACITY_CODE}: {detail}"
    elif reason is Reasons.at_capacity:
        status = 503
    headers = {} if reason.retry_after is None else {"Retry-After": str(reason.retry_after)}
    return ApiError(status, code, detail, headers=headers)


def of_room_failure(failure: RoomFailed) -> ApiError:
    """Return Daily's failure to create a room as an HTTP answer."""
    headers = {} if failure.retry_after_s is None else {"Retry-After": str(failure.retry_after_s)}
    return ApiError(failure.status, f"daily_{failure.reason}", failure.detail, headers=headers)


_EXAMPLES: Final = {
    403: Reasons.unauthorized,
    502: Reasons.agent_unreachable,
    504: Reasons.agent_start_timeout,
}


def example_refusal(status: int, style: Style) -> ApiError:
    """An example of what handlers refuse with this status."""
    if status in _EXAMPLES:
        return of_call_end(CallEnded(_EXAMPLES[status]), style)
    phrase = status_phrase(status)
    return _own(HTTPStatus(status), phrase.lower().replace(" ", "_"), phrase, style)


def kernel_refusals(operation: Operation) -> list[ApiError]:
    """Every refusal that the kernel may give to this operation's callers, an example of each status."""
    style = operation.style
    found: list[ApiError] = []
    if operation.body is not None:
        found.append(bad_json("The body is not JSON: Expecting value at byte 0", style))
    if operation.body is not None or operation.query is not None:
        found.append(invalid("limit: Input should be greater than or equal to 1", style, "limit"))
    if operation.access is not Access.NONE:
        found.append(unauthorized(operation.unauthorized, style))
        found.append(rate_limited(1, style))
    if operation.access is Access.PRIVATE:
        found.append(not_private(operation.unauthorized, style))
    if "{" in operation.path:
        found.append(not_found("There is no such thing here", style))
    if operation.reads_body:
        found.append(too_slow(30, style))
        found.append(too_large(operation.max_body_bytes, style))
    found.append(of_call_end(CallEnded(Reasons.internal_error), style))
    found.append(of_call_end(CallEnded(Reasons.store_failed), style))
    first: dict[int, ApiError] = {}
    for refusal in found:
        first.setdefault(refusal.status, refusal)
    return [first[status] for status in sorted(first)]
