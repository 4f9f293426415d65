# SPDX-License-Identifier: BSD-2-Clause
"""The body and the query of a request: read within limits, parsed strictly and validated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from email.message import Message
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.api.framework.errors import (
    ApiError,
    bad_content,
    bad_json,
    invalid,
    too_large,
    too_slow,
    unsupported,
)
from gateway.api.framework.operation import Model, Operation, Style
from gateway.api.framework.strict_json import JsonError, parse, whole_numbers_as_int
from gateway.model.json_text import dump

BODY_TIMEOUT_S: Final = 30.0
"""Seconds within which the whole body must arrive."""

MAX_REPORTED_FAULTS: Final = 5
MAX_FAULT_CHARACTERS: Final = 200

MAX_CONTENT_TYPE_CHARACTERS: Final = 256
MAX_PARAMETERS: Final = 100
"""Of a query."""

_UNKNOWN_KIND: Final = "union_tag_invalid"
"""pydantic's fault of an object whose discriminator names none of the kinds that there are."""

_JSON_TYPE: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)")


async def read_body(request: Request, operation: Operation, timeout_s: float) -> bytes:
    """Return the whole body.

    Raises:
        ApiError: 413 as soon as the body exceeds `operation.max_body_bytes`, 408 after `timeout_s` seconds.
        ClientDisconnect: the client left before the end of the body.
    """
    max_bytes, style = operation.max_body_bytes, operation.style
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise too_large(max_bytes, style)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large(max_bytes, style)
    except TimeoutError:
        raise too_slow(timeout_s, style) from None
    return bytes(body)


def body_model(raw: bytes, model: type[Model], style: Style) -> Model:
    """Return the validated body, parsed in one go; an empty one counts as `{}`.

    Raises ApiError: 400 if it is not JSON, 400 or 422 (by style) if the model does not accept it.
    """
    text = raw or b"{}"
    try:
        value = parse(text)
    except JsonError as error:
        raise bad_json(str(error), style) from None
    try:
        # pydantic reads the text itself: in strict mode it accepts a date as a string, and words its errors
        # for JSON, only if it knows that the input was JSON.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        failure = error
    if _has_whole_float(failure):
        try:
            return model.model_validate_json(dump(whole_numbers_as_int(value)), strict=True)
        except ValidationError as error:
            failure = error
    raise invalid_value(failure, style)


def _has_whole_float(failure: ValidationError) -> bool:
    """Return True if a number with a point stands where a whole number belongs."""
    types = failure.errors(include_url=False, include_input=False, include_context=False)
    if not any(fault["type"] == "int_type" for fault in types):
        return False  # an error's input may be the whole body
    return any(
        fault["type"] == "int_type" and isinstance(fault["input"], float) for fault in failure.errors()
    )


def query_model(request: Request, model: type[Model], style: Style) -> Model:
    """Return the validated query. Raises ApiError if the model does not accept it."""
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise invalid(f"The query has more than {MAX_PARAMETERS} parameters", style)
    query = request.query_params
    values: dict[str, str | list[str]] = {}
    for name, field in model.model_fields.items():
        parameter = field.alias or name
        given = query.getlist(parameter)
        if _is_list(field.annotation):
            if given:
                values[parameter] = given
        elif len(given) > 1:
            raise invalid(f"{_short(parameter)}: is given {len(given)} times", style, parameter)
        elif given:
            values[parameter] = given[0]
    if model.model_config.get("extra") == "forbid":
        for parameter in query:
            values.setdefault(parameter, query[parameter])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_value(error, style) from None


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_is_list(choice) for choice in get_args(annotation) if choice is not NoneType)
    return origin in (list, tuple, set, frozenset, Sequence)


def check_content(headers: Headers, style: Style) -> None:
    """Raise ApiError unless the body is uncompressed JSON in UTF-8.

    Without a Content-Type JSON is assumed.
    """
    if len(headers.get("Content-Type", "")) > MAX_CONTENT_TYPE_CHARACTERS:  # Python's parser is quadratic
        raise bad_content("The body's Content-Type is too long", style)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise bad_content(f"The body is compressed ({_short(encoding)}), which is not taken here", style)
    if "Content-Type" not in headers:
        return
    message = Message()
    message["Content-Type"] = headers["Content-Type"]
    if not _JSON_TYPE.fullmatch(message.get_content_type()):
        raise bad_content("The body's Content-Type must be application/json", style)
    if message.get_content_charset("utf-8") not in ("utf-8", "utf8"):
        raise bad_content("The body's charset must be utf-8", style)


def invalid_value(error: ValidationError, style: Style, *, within: str = "", first: int = 0) -> ApiError:
    """Return an error that names each fault without repeating the input.

    `within`: the list whose entries from number `first` on were validated, if it was not the whole body.
    """
    faults = error.errors(include_url=False, include_input=False)
    if style is Style.ENVELOPE:
        for fault in faults:
            if fault["type"] == _UNKNOWN_KIND:
                location = _location(fault["loc"], within, first)
                tag = fault["ctx"]["discriminator"].strip("'")
                return unsupported(_detail(location, fault), location, tag)
    locations = [_location(fault["loc"], within, first) for fault in faults[:MAX_REPORTED_FAULTS]]
    details = [_detail(location, fault) for location, fault in zip(locations, faults, strict=False)]
    if len(faults) > len(details):
        details.append(f"and {len(faults) - len(details)} more")
    return invalid("; ".join(details), style, locations[0] or None)


def _detail(location: str, fault: Mapping[str, Any]) -> str:
    message = _short(str(fault["msg"]).removeprefix("Value error, "))
    return f"{location}: {message}" if location else message


def _location(path: Sequence[int | str], within: str, first: int) -> str:
    """Return the path to the field, as in "transcript[0].role"."""
    text = within
    if within and path and isinstance(path[0], int):
        path = [path[0] + first, *path[1:]]
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= MAX_FAULT_CHARACTERS else f"{text[:MAX_FAULT_CHARACTERS]}…"
