# SPDX-License-Identifier: BSD-2-Clause
"""The conventions of the management API (docs/reference/public-api.md, "Management").

It has two forms with the same handlers. The documented REST has `/v1/agents…`, and the organisation is that
of the key. The CLI uses `/v1/organizations/{org}/services…`; an organisation other than the key's is
answered 404. Where the answers of the two forms differ, there are two handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from gateway.api.framework.errors import ApiError, not_found
from gateway.api.framework.operation import (
    MAX_BODY_BYTES,
    Access,
    Answer,
    Context,
    Handler,
    LargeMember,
    Operation,
    Style,
)

ORGANIZATION: Final = "/v1/organizations/{org}"
"""The beginning of every path that only the CLI uses."""

REST_TAG: Final = "Management"
CLI_TAG: Final = "Management, as the CLI spells it"

MAX_LARGE_BODY_BYTES: Final = 262_144
"""Of a body with a member that may be large."""

NO_STORE: Final = {"Cache-Control": "no-store"}
"""Headers of answers that contain a key."""


class ResponseModel(BaseModel):
    """A body with Pipecat Cloud's field names: `maxSessionDuration`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class RequestModel(ResponseModel):
    """A request's body. Unknown fields are refused: a client would expect them to have an effect."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Documented:
    """The documentation and the models of an operation, as in `Operation`."""

    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    path_notes: Mapping[str, str] = field(default_factory=dict)
    in_schema: bool = True
    large: tuple[LargeMember, ...] = ()


def operation(method: str, path: str, handler: Handler, documented: Documented) -> Operation:
    """Return an operation of the management API, in the form that its path belongs to."""
    is_cli = path.startswith(ORGANIZATION)
    organization_note = {"org": "The organisation that the key is of."} if is_cli else {}
    return Operation(
        method=method,
        path=path,
        handler=_for_own_organization(handler) if is_cli else handler,
        access=Access.PRIVATE,
        style=Style.PCC,
        summary=documented.summary,
        tag=CLI_TAG if is_cli else REST_TAG,
        body=documented.body,
        max_body_bytes=MAX_LARGE_BODY_BYTES if documented.large else MAX_BODY_BYTES,
        large=documented.large,
        query=documented.query,
        answers=documented.answers,
        in_schema=documented.in_schema,
        audited=method != "GET",
        path_notes={**organization_note, **documented.path_notes},
    )


def both(
    method: str, paths: tuple[str, str], handler: Handler, documented: Documented
) -> tuple[Operation, Operation]:
    """Return an operation that is the same in both forms.

    `paths`: what follows `/v1` in REST, and what follows the organisation in the CLI's form.
    """
    rest, cli = paths
    return (
        operation(method, f"/v1{rest}", handler, documented),
        operation(method, f"{ORGANIZATION}{cli}", handler, documented),
    )


def _for_own_organization(handler: Handler) -> Handler:
    """Return a handler that answers 404 unless the path's organisation is that of the key."""

    async def guarded(context: Context) -> Answer:
        if context.path["org"] != context.caller.organization:
            raise not_found("There is no such organisation", Style.PCC)
        answer = await handler(context)
        assert isinstance(answer, Answer)
        return answer

    return guarded


def missing(detail: str) -> ApiError:
    """Return the 404 for a thing that does not exist or belongs to another organisation."""
    return not_found(detail, Style.PCC)


def refused(status: int, detail: str) -> ApiError:
    """Return an error whose code is its status, as Pipecat Cloud's clients compare it."""
    return ApiError(status, str(status), detail)
