# SPDX-License-Identifier: BSD-2-Clause
"""Forms as multipart/form-data (RFC 7578), in which Exotel sends its callbacks (docs/reference/carriers.md
§5.3).

aiohttp reads the body, which is in memory already and is bounded by its operation.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Final

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError

MAX_CONTENT_TYPE_CHARACTERS: Final = 256
MAX_LINES_OF_PART: Final = 8
"""Lines of a form for each field that it may have; a field has four or five."""

MAX_PART_HEADERS: Final = 16
"""Headers of one field; a browser sends two."""


async def read_multipart(content_type: str, body: bytes, max_fields: int) -> list[tuple[str, str]]:
    """Return the fields of a form in their order; files are left out.

    Raises ValueError, whose text quotes nothing of the request, if the body is malformed, not in UTF-8, or
    has more than `max_fields` parts.
    """
    if len(content_type) > MAX_CONTENT_TYPE_CHARACTERS or body.count(b"\n") > MAX_LINES_OF_PART * max_fields:
        raise ValueError("the form is malformed")  # aiohttp reads line by line
    loop = asyncio.get_running_loop()
    stream = aiohttp.StreamReader(BaseProtocol(loop), max(len(body), 1), loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    try:
        # aiohttp warns of a Content-Disposition that it cannot read, quotes it, and finds no name in it. The
        # filter is the process's, but nothing else runs meanwhile: the whole body is in the stream.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = await _read_parts(content_type, stream, max_fields + 1)
    except (AssertionError, LookupError, RuntimeError, ValueError, HttpProcessingError):
        # What aiohttp raises for a body that it cannot read. Its texts quote the body.
        raise ValueError("the form is malformed") from None
    if len(parts) > max_fields:
        raise ValueError(f"the form has more than {max_fields} fields")
    try:
        return [(name, content.decode()) for name, content, is_file in parts if not is_file]
    except UnicodeDecodeError:
        raise ValueError("the form is not in UTF-8") from None


async def _read_parts(
    content_type: str, stream: aiohttp.StreamReader, max_parts: int
) -> list[tuple[str, bytes, bool]]:
    """Return up to `max_parts` parts: name, content, and whether it is a file.

    Raises ValueError if a part has no name or is multipart itself (RFC 7578 §4.3), and as aiohttp does.
    """
    reader = aiohttp.MultipartReader({"Content-Type": content_type}, stream, max_headers=MAX_PART_HEADERS)
    parts: list[tuple[str, bytes, bool]] = []
    while len(parts) < max_parts and (part := await reader.next()) is not None:
        if isinstance(part, aiohttp.MultipartReader):
            raise ValueError("a part is multipart itself")
        if not part.name:
            raise ValueError("a part has no name")
        parts.append((part.name, bytes(await part.read()), part.filename is not None))
    return parts
