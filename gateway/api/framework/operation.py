# SPDX-License-Identifier: BSD-2-Clause
"""A row of the route table: an operation's input, its access and its answers.

The routes (dispatch.py) and the OpenAPI document (openapi.py) are made from the same rows, so they cannot
disagree.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.framework.handler_services import Services
from gateway.auth.api_keys import Principal

Model = TypeVar("Model", bound=BaseModel)

MAX_BODY_BYTES: Final = 32_768
"""Bytes of a body that is parsed as a whole."""


class Access(Enum):
    """The key that an operation requires (docs/reference/public-api.md, "Keys")."""

    NONE = "none"
    """None: the operation is public, or its handler authenticates the request, as a signed webhook."""
    PUBLIC = "public"
    """Any key of an organisation, public or private."""
    PRIVATE = "private"
    """A private key or a personal token."""


class Style(Enum):
    """The form of error bodies."""

    PCC = "pcc"
    """`{"error", "code"}`, as Pipecat Cloud's clients read them."""
    ENVELOPE = "envelope"
    """`{"error": {"type", "code", "message", "param", "request_id"}}`."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """The code and message of a 401 in the style PCC."""

    code: str
    message: str


UNAUTHORIZED: Final = Unauthorized("401", "Unauthorized / token expired")
UNAUTHORIZED_START: Final = Unauthorized("PCC-1002", "Attempt to start agent without a valid public API key.")
"""A start has a code of its own (docs/reference/public-api.md, "Keys")."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A handler's answer. `body` becomes JSON, unless it is a JsonText; None means no body."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """A request that has passed authentication, limits and validation, as its handler receives it."""

    request: Request
    services: Services
    principal: Principal | None
    """The owner of the request's key; None if the operation's access is NONE."""
    path: Mapping[str, str]
    """The parameters of the path, decoded."""
    body: BaseModel | None
    raw_body: bytes
    """The unparsed body; empty unless the operation has a `body` or `reads_raw`."""
    query: BaseModel | None
    request_id: str

    @property
    def caller(self) -> Principal:
        """The owner of the request's key. Only for operations that require one."""
        assert self.principal is not None, "the operation's access is NONE"
        return self.principal

    def body_as(self, model: type[Model]) -> Model:
        """Return the validated body. `model`: the operation's `body`."""
        assert isinstance(self.body, model)
        return self.body

    def query_as(self, model: type[Model]) -> Model:
        """Return the validated query. `model`: the operation's `query`."""
        assert isinstance(self.query, model)
        return self.query


@dataclass(frozen=True, slots=True)
class LargeMember:
    """A member of a JSON body that may be large, as others may not (body_reader.py).

    `name`, `field`: in the body, and in the model. `stand_in`: a small value that the model accepts in its
    place. `max_bytes`: of its JSON, as it was sent. `entry`: the type of the entries, if it is a list of at
    most `max_entries`; else the member may be any JSON, and is a JsonText in the model of a large body.
    """

    name: str
    field: str
    stand_in: bytes
    max_bytes: int
    entry: type | None = None
    max_entries: int = 0


Handler = Callable[[Context], Awaitable[Answer | Response]]
"""Serves one operation. Raises ApiError, CallEnded or StoreFailed to refuse; a Response is sent unchanged."""


Check = Callable[[Context], Awaitable[object]]
"""Looks at a request whose body was not read: `body` is None, and `raw_body` empty."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path.

    `path`: in Starlette's syntax, as in "/v1/sessions/{session_id}".
    `body`: model of the JSON body, validated before the handler runs; an empty body counts as `{}`.
    `max_body_bytes`: refused with 413 beyond. `large`: the members of the body that may be larger than
    bodies usually are.
    `check`: is called before the body is read, and raises as a handler does if it need not be.
    `query`: model of the query, validated likewise; a list field takes a parameter given several times.
    `answers`: models of the documented answers by status; None for an answer without a body, or with the
    style's error body if the status is an error. The framework's own errors are added.
    `in_schema`: whether the operation is in the OpenAPI document.
    `reads_raw`: read the body within limits although there is no `body` model. Without either, the handler
    may stream the body from the request.
    `audited`: each request that came with a key is recorded (`GET /v1/audit`), also a refused one.
    `any_answer`: the answer is another server's, with any status.
    `request_headers`, `path_notes`: descriptions by name, for the document.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    style: Style
    summary: str
    tag: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    max_body_bytes: int = MAX_BODY_BYTES
    large: tuple[LargeMember, ...] = ()
    check: Check | None = None
    in_schema: bool = True
    reads_raw: bool = False
    any_answer: bool = False
    audited: bool = False
    unauthorized: Unauthorized = UNAUTHORIZED
    description: str = ""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    path_notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def reads_body(self) -> bool:
        """Whether the body is read before the handler runs."""
        return self.body is not None or self.reads_raw
