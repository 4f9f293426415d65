# SPDX-License-Identifier: BSD-2-Clause
"""The errors of the API and their bodies in either style.

Errors of the framework are made here only, so that the OpenAPI document shows their exact bodies. The
reasons of calls (gateway/model/reasons.py) are translated, never repeated.
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
"""The `message` of every 429 in the style PCC (docs/reference/public-api.md, "Start")."""

AT_CAPACITY_CODE: Final = "PCC-AGENT-AT-CAPACITY"


_WITHOUT_BRACKETS: Final = str.maketrans("[]", "()")


class ErrorAnswer(BaseModel):
    """An error, as Pipecat Cloud's clients read it."""

    error: str = Field(description="The error, for people.")
    info: str = Field(description="The same as `error`: Pipecat's client libraries read it here.")
    code: str = Field(description="The error, for programs: the status, or a code of its own.")


class RateLimitAnswer(BaseModel):
    """A limit is reached: of a key's requests, or of an agent's sessions."""

    status: Literal[429] = 429
    code: Literal["429"] = "429"
    error: str = Field(
        description=f"The limit; it is the agent's capacity if this contains {AT_CAPACITY_CODE}."
    )
    info: str = Field(description="The same as `error`: Pipecat's client libraries read it here.")
    message: str = RATE_LIMIT_MESSAGE


class ErrorDetail(BaseModel):
    """The error."""

    model_config = ConfigDict(title="Error")

    type: ErrorType = Field(description="The kind of error.")
    code: str = Field(description="The error, for programs.")
    message: str = Field(description="The error, for people.")
    param: str | None = Field(description="The parameter at fault, as in `transport.type`.")
    request_id: str = Field(description="The request's id, as in `X-Request-Id`.")


class ErrorEnvelope(BaseModel):
    """An error of the session resource."""

    error: ErrorDetail


class ApiError(Exception):
    """An error answer. Handlers raise it to refuse a request.

    `param`: the parameter at fault. `type`, for the envelope, follows from the status. The
    message goes to the client, so it must hold no key, token or stack trace.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.type = _type_of(status)
        self.param = param
        self.headers = dict(headers or {})


def _type_of(status: int) -> ErrorType:
    if status in _TYPES:
        return _TYPES[status]
    return "service_unavailable" if status > HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"


@dataclass(frozen=True, slots=True)
class Rendered:
    """An error's status, body and headers in one style."""

    status: int
    body: BaseModel
    headers: Mapping[str, str]


def render(error: ApiError, style: Style, request_id: str) -> Rendered:
    """Return the error in the given style."""
    body: BaseModel
    if style is Style.ENVELOPE:
        detail = ErrorDetail(
            type=error.type,
            code=error.code,
            message=error.message,
            param=error.param,
            request_id=request_id,
        )
        body = ErrorEnvelope(error=detail)
    else:
        body = pcc_error(error.status, error.code, error.message)
    return Rendered(error.status, body, error.headers)


def pcc_error(status: int, code: str, message: str) -> ErrorAnswer | RateLimitAnswer:
    """Return the body of an error in the style PCC.

    Pipecat Cloud's CLI prints the text as markup of the library rich, in which a word in square brackets is a
    style: it would be missing, or break the output. So brackets become round ones, also those of the request.
    """
    text = message.translate(_WITHOUT_BRACKETS)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimitAnswer(error=text, info=text)
    return ErrorAnswer(error=text, info=text, code=code)


def schema_of(status: int, style: Style) -> type[BaseModel]:
    """Return the model of an error's body."""
    if style is Style.ENVELOPE:
        return ErrorEnvelope
    return RateLimitAnswer if status == HTTPStatus.TOO_MANY_REQUESTS else ErrorAnswer


def _own(status: HTTPStatus, code: str, message: str, style: Style, **more: str | None) -> ApiError:
    """Return an error of the framework.

    In the style PCC its code is the status, as that API's clients compare.
    """
    return ApiError(
        status.value, str(status.value) if style is Style.PCC else code, message, param=more.get("param")
    )


def bad_json(detail: str, style: Style) -> ApiError:
    """Return the 400 for a body that is not JSON or exceeds what is accepted (strict_json.py)."""
    return _own(HTTPStatus.BAD_REQUEST, "bad_json", detail, style)


def bad_content(detail: str, style: Style) -> ApiError:
    """Return the 400 for a body with another media type, charset or compression."""
    return _own(HTTPStatus.BAD_REQUEST, "bad_content_type", detail, style)


def invalid(detail: str, style: Style, param: str | None = None) -> ApiError:
    """Return the 400 (PCC) or 422 for well-formed JSON or a query that the operation does not accept."""
    status = HTTPStatus.BAD_REQUEST if style is Style.PCC else HTTPStatus.UNPROCESSABLE_ENTITY
    return _own(status, "invalid_parameter", detail, style, param=param)


def unsupported(detail: str, param: str, tag: str) -> ApiError:
    """Return the envelope's 400 for a kind of `param` that is not served. `tag`: its member that names it."""
    return ApiError(HTTPStatus.BAD_REQUEST.value, f"{param}.unsupported", detail, param=f"{param}.{tag}")


def unauthorized(pcc: Unauthorized, style: Style) -> ApiError:
    """Return the 401 for a missing, unknown or revoked key, without saying which.

    `pcc`: its text in the style PCC.
    """
    headers = {"WWW-Authenticate": "Bearer"}
    if style is Style.PCC:
        return ApiError(401, pcc.code, pcc.message, headers=headers)
    return ApiError(401, "unauthorized", "A valid key is needed: Authorization: Bearer sk_…", headers=headers)


def not_private(pcc: Unauthorized, style: Style) -> ApiError:
    """Return the 403 (PCC: 401) for a public key where a private one is needed."""
    if style is Style.PCC:
        return unauthorized(pcc, style)
    return ApiError(403, "private_key_needed", "This needs a private key; a public one was given")


def not_found(detail: str, style: Style) -> ApiError:
    """Return the 404 for a thing that does not exist or belongs to another organisation."""
    return _own(HTTPStatus.NOT_FOUND, "not_found", detail, style)


def wrong_method(allowed: str, style: Style) -> ApiError:
    """Return the 405 for a path without this method. `allowed`: the path's methods, separated by commas."""
    error = _own(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"This path takes {allowed}", style)
    error.headers["Allow"] = allowed
    return error


def too_slow(seconds: float, style: Style) -> ApiError:
    """Return the 408 for a body that did not arrive in time."""
    detail = f"The request's body did not come within {seconds:g} s"
    return _own(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail, style)


def too_large(max_bytes: int, style: Style, *, beside: str = "") -> ApiError:
    """Return the 413 for a body of more than `max_bytes` bytes. `beside`: members that do not count."""
    detail = f"The request's body is larger than {max_bytes} bytes"
    detail += f" without {beside}" if beside else ""
    return _own(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", detail, style)


def rate_limited(retry_after_s: int, style: Style) -> ApiError:
    """Return the 429 for a key that has made too many requests."""
    return _too_many("More requests were made with this key than it may make a second", retry_after_s, style)


def too_many_unknown(retry_after_s: int, style: Style) -> ApiError:
    """Return the 429 for an address that has tried too many unknown keys."""
    detail = "More requests with keys that are not good came from this address than may come a second"
    return _too_many(detail, retry_after_s, style)


def too_much_json(retry_after_s: int, style: Style) -> ApiError:
    """Return the 429 for a key whose bodies have taken more than its share of time."""
    return _too_many("The bodies sent with this key take more time than they may", retry_after_s, style)


def _too_many(detail: str, retry_after_s: int, style: Style) -> ApiError:
    error = _own(HTTPStatus.TOO_MANY_REQUESTS, Reasons.rate_limited.code, detail, style)
    error.headers["Retry-After"] = str(retry_after_s)
    return error


def error_of(end: CallEnded, style: Style) -> ApiError:
    """Return the HTTP answer to a refusal with a reason of the table.

    In the style PCC the code is the status up to 500, because the SDK's users compare it with "404" and
    "429"; above that it is the reason's code, which distinguishes the agent's failures from the gateway's.
    """
    reason = end.public_reason
    status = reason.status or (502 if reason.party is Party.AGENT else 503)
    code, detail = reason.code, end.public_detail
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


def example_error(status: int, style: Style) -> ApiError:
    """Return an example of a handler's error with this status, for the OpenAPI document."""
    if status in _EXAMPLES:
        return error_of(CallEnded(_EXAMPLES[status]), style)
    phrase = status_phrase(status)
    return _own(HTTPStatus(status), phrase.lower().replace(" ", "_"), phrase, style)


def framework_errors(operation: Operation) -> list[ApiError]:
    """Return an example of each error that the framework may answer to the operation's clients."""
    style = operation.style
    errors: list[ApiError] = []
    if operation.body is not None:
        errors.append(bad_json("The body is not JSON: Expecting value at byte 0", style))
    if operation.body is not None or operation.query is not None:
        errors.append(invalid("limit: Input should be greater than or equal to 1", style, "limit"))
    if operation.access is not Access.NONE:
        errors.append(unauthorized(operation.unauthorized, style))
        errors.append(rate_limited(1, style))
    if operation.access is Access.PRIVATE:
        errors.append(not_private(operation.unauthorized, style))
    if "{" in operation.path:
        errors.append(not_found("There is no such thing here", style))
    if operation.reads_body:
        errors.append(too_slow(30, style))
        errors.append(too_large(operation.max_body_bytes, style))
    errors.append(error_of(CallEnded(Reasons.internal_error), style))
    errors.append(error_of(CallEnded(Reasons.store_failed), style))
    first: dict[int, ApiError] = {}
    for error in errors:
        first.setdefault(error.status, error)
    return [first[status] for status in sorted(first)]
