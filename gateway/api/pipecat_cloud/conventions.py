# SPDX-License-Identifier: BSD-2-Clause
"""The two spellings of the management API: one table, one set of handlers (docs/reference/public-api.md,
"Management").

The documented REST says `/v1/agents…`, and the organisation is the key's. The CLI says
`/v1/organizations/{org}/services…`; an organisation that is not the key's own is then one that it may not
know of. What a spelling answers otherwise than the other is written where the handler is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from gateway.api.framework.errors import ApiError, not_found
from gateway.api.framework.operation import Access, Answer, Context, Handler, Operation, Style

ORGANIZATION: Final = "/v1/organizations/{org}"
"""What every path of the CLI's spelling begins with."""

REST_TAG: Final = "Management"
CLI_TAG: Final = "Management, as the CLI spells it"

NO_STORE: Final = {"Cache-Control": "no-store"}
"""For answers that hold a key."""


class ResponseModel(BaseModel):
    """What is told, and asked, in Pipecat Cloud's spelling: `maxSessionDuration`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class RequestModel(ResponseModel):
    """The same for what is asked: a field that is not known is refused, and so is seen to have no effect."""

    model_config = ConfigDict(extra="forbid")


def operation(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answers: Mapping[int, type[BaseModel] | None],
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    in_schema: bool = True,
    description: str = "",
    path_notes: Mapping[str, str] | None = None,
) -> Operation:
    """One operation of the management API, in the spelling that its path tells."""
    of_cli = path.startswith(ORGANIZATION)
    return Operation(
        method=method,
        path=path,
        handler=_of_own_organization(handler) if of_cli else handler,
        access=Access.PRIVATE,
        style=Style.PCC,
        summary=summary,
        tag=CLI_TAG if of_cli else REST_TAG,
        body=body,
        query=query,
        answers=answers,
        in_schema=in_schema,
        description=description,
        path_notes={
            **({"org": "The organisation that the key is of."} if of_cli else {}),
            **(path_notes or {}),
        },
    )


def both(
    method: str,
    rest: str,
    cli: str,
    handler: Handler,
    summary: str,
    *,
    answers: Mapping[int, type[BaseModel] | None],
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    path_notes: Mapping[str, str] | None = None,
) -> tuple[Operation, Operation]:
    """An operation that both spellings have alike. `rest` comes after /v1, `cli` after the organisation."""
    one, other = (
        operation(method, path, handler, summary, answers, body=body, query=query, path_notes=path_notes)
        for path in (f"/v1{rest}", f"{ORGANIZATION}{cli}")
    )
    return one, other


def _of_own_organization(handler: Handler) -> Handler:
    async def guarded(context: Context) -> Answer:
        if context.path["org"] != context.caller.organization:
            raise not_found("There is no such organisation", Style.PCC)
        answer = await handler(context)
        assert isinstance(answer, Answer)
        return answer

    return guarded


def missing(detail: str) -> ApiError:
    """404: there is no such thing, or none that this key may know of."""
    return not_found(detail, Style.PCC)


def refused(status: int, detail: str) -> ApiError:
    """A refusal whose code is its status, as Pipecat Cloud's clients compare it."""
    return ApiError(status, str(status), detail)
