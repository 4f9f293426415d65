# SPDX-License-Identifier: BSD-2-Clause
"""One row of the route table: what it takes, who may call it, what it answers.

The same rows make the routes (kernel.py) and the OpenAPI document (openapi.py), so neither can say something
that the other does not do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.api_keys import Principal

if TYPE_CHECKING:
    from gateway.api.framework.services import Services

Model = TypeVar("Model", bound=BaseModel)

MAX_BODY_BYTES: Final = 1_100_000
"""A start's `body` may have 1,000,000 bytes (docs/reference/public-api.md, "Start"); the rest is for what
is around it.
"""


class Access(Enum):
    """Who may call (docs/reference/public-api.md, "Keys")."""

    NONE = "none"
    """Anybody: what it serves is open, or it proves its caller itself, as a signed webhook does."""
    PUBLIC = "public"
    """Whoever has a key of an organisation, public or private."""
    PRIVATE = "private"
    """Whoever has a private key, or a personal token."""


class Style(Enum):
    """How errors look."""

    PCC = "pcc"
    """`{"error", "code"}`, as Pipecat Cloud's clients read them."""
    ENVELOPE = "envelope"
    """`{"error": {"type", "code", "message", "param", "request_id"}}`, for everybody else."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """What a caller without a good key is told, in the style PCC."""

    code: str
    message: str


UNAUTHORIZED: Final = Unauthorized("401", "Unauthorized / token expired")
UNAUTHORIZED_START: Final = Unauthorized("PCC-1002", "Attempt to start agent without a valid public API key.")
"""docs/reference/public-api.md, "Keys": a start has a code of its own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers with: `body` becomes JSON; None is no body at all."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler is given: a request that has passed all that the kernel asks of it."""

    request: Request
    services: Services
    principal: Principal | None
    """Who calls; None where the operation's access is NONE."""
    path: Mapping[str, str]
    """The path's parameters, decoded."""
    body: BaseModel | None
    raw_body: bytes
    """The body as it came; empty unless the operation has a `body` or `reads_raw`."""
    query: BaseModel | None
    request_id: str

    @property
    def caller(self) -> Principal:
        """Who calls an operation that wants a key."""
        assert self.principal is not None, "the operation's access is NONE"
        return self.principal

    def body_as(self, model: type[Model]) -> Model:
        """The validated body, as the operation's `body` says."""
        assert isinstance(self.body, model)
        return self.body

    def query_as(self, model: type[Model]) -> Model:
        """The validated query, as the operation's `query` says."""
        assert isinstance(self.query, model)
        return self.query


Handler = Callable[[Context], Awaitable[Answer | Response]]
"""Serves one operation. Raises ApiError, CallEnded or StoreFailed to refuse; a Response goes out as it is."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path.

    `path`: in Starlette's syntax, as in "/v1/sessions/{session_id}".
    `body`: its JSON is read strictly and validated before the handler runs; no body at all counts as `{}`.
    `query`: validated likewise; a field that is a list takes a parameter given several times.
    `answers`: documented answers by status, None for one without a body. The kernel's refusals are added, and
    an error status with None gets the style's error body.
    `reads_raw`: the kernel reads the body, within limits, also where there is no `body`; without either the
    handler may stream it from the request.
    `any_answer`: what comes back is somebody else's, with any status.
    `request_headers`, `path_notes`: names and what they mean, for the document.
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
    in_schema: bool = True
    reads_raw: bool = False
    any_answer: bool = False
    unauthorized: Unauthorized = UNAUTHORIZED
    description: str = ""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    path_notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def reads_body(self) -> bool:
        """Whether the kernel reads the body before the handler runs."""
        return self.body is not None or self.reads_raw
