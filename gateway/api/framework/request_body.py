# SPDX-License-Identifier: BSD-2-Clause
"""The body and the query of a request: read within limits, parsed strictly, validated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from email.message import Message
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import ValidationError
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from gateway.api.framework.errors import ApiError, bad_content, bad_json, invalid, too_large, too_slow
from gateway.api.framework.operation import Model, Operation, Style
from gateway.api.framework.strict_json import BadJson, dump, parse

BODY_TIMEOUT_S: Final = 30.0
"""How long a body may take to come, all of it."""

MAX_FAULTS_TOLD: Final = 5
MAX_FAULT_CHARACTERS: Final = 200

_JSON_TYPE: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)")


async def read_body(request: Request, operation: Operation, timeout_s: float) -> bytes:
    """The whole body. Raises ApiError as soon as it is too large or too slow, ClientDisconnect."""
    most, style = operation.max_body_bytes, operation.style
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise too_large(most, style)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large(most, style)
    except TimeoutError:
        raise too_slow(timeout_s, style) from None
    return bytes(body)


def body_model(raw: bytes, headers: Headers, model: type[Model], style: Style) -> Model:
    """The validated body; no body at all counts as `{}`. Raises ApiError."""
    if raw:
        _check_content(headers, style)
    text = raw or b"{}"
    try:
        parse(text)
    except BadJson as error:
        raise bad_json(str(error), style) from None
    try:
        # Read again, because only from JSON itself does pydantic know what a JSON type is: strictly, a
        # date may come as a string then, and a number may not.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        fault = error
    if any(each["type"] == "int_type" and isinstance(each["input"], float) for each in fault.errors()):
        try:
            return model.model_validate_json(dump(parse(text, whole_as_int=True)), strict=True)
        except ValidationError as error:
            fault = error
    raise _refusal(fault, style)


def query_model(query: QueryParams, model: type[Model], style: Style) -> Model:
    """The validated query. Raises ApiError."""
    given: dict[str, str | list[str]] = {}
    for name, field in model.model_fields.items():
        spelt = field.alias or name
        values = query.getlist(spelt)
        if _is_list(field.annotation):
            if values:
                given[spelt] = values
        elif len(values) > 1:
            raise invalid(f"{_short(spelt)}: is given {len(values)} times", style, spelt)
        elif values:
            given[spelt] = values[0]
    if model.model_config.get("extra") == "forbid":
        for spelt in query:
            given.setdefault(spelt, query[spelt])
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, style) from None


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_is_list(choice) for choice in get_args(annotation) if choice is not NoneType)
    return origin in (list, tuple, set, frozenset, Sequence)


def _check_content(headers: Headers, style: Style) -> None:
    """JSON, in UTF-8, not compressed; a body of no declared type is taken for that."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise bad_content(f"The body is compressed ({_short(encoding)}), which is not taken here", style)
    if "Content-Type" not in headers:
        return
    given = Message()
    given["Content-Type"] = headers["Content-Type"]
    if not _JSON_TYPE.fullmatch(given.get_content_type()):
        raise bad_content("The body's Content-Type must be application/json", style)
    charset = given.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8"):
        raise bad_content("The body's charset must be utf-8", style)


def _refusal(error: ValidationError, style: Style) -> ApiError:
    """What is wrong, fault by fault, without repeating what was given."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    told = [_told(fault) for fault in faults[:MAX_FAULTS_TOLD]]
    more = len(faults) - len(told)
    if more:
        told.append(f"and {more} more")
    return invalid("; ".join(told), style, _place(faults[0]) or None)


def _told(fault: Mapping[str, Any]) -> str:
    place = _place(fault)
    detail = _short(str(fault["msg"]))
    return f"{place}: {detail}" if place else detail


def _place(fault: Mapping[str, Any]) -> str:
    text = ""
    for step in fault["loc"]:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= MAX_FAULT_CHARACTERS else f"{text[:MAX_FAULT_CHARACTERS]}…"
