# SPDX-License-Identifier: BSD-2-Clause
"""Forms as multipart/form-data are read whole or refused."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.webhooks.multipart_form import read_multipart
from gateway.carriers.signatures import MULTIPART_FORM

BOUNDARY = "exotel-boundary"
TYPE = f"{MULTIPART_FORM}; boundary={BOUNDARY}"
MAX_FIELDS = 5


def part(headers: str, content: str = "x") -> str:
    return f"--{BOUNDARY}\r\n{headers}\r\n\r\n{content}\r\n"


def field(name: str, content: str = "x") -> str:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


def form(*parts: str) -> bytes:
    return "".join([*parts, f"--{BOUNDARY}--\r\n"]).encode()


async def test_fields_keep_their_order_and_their_text() -> None:
    body = form(field("Status", "completed"), field("CustomField", "Grüße\r\n--x"), field("Empty", ""))
    assert await read_multipart(TYPE, body, MAX_FIELDS) == [
        ("Status", "completed"),
        ("CustomField", "Grüße\r\n--x"),
        ("Empty", ""),
    ]


async def test_a_form_as_another_library_writes_it_is_read() -> None:
    data = aiohttp.FormData({"CallSid": "abc", "Legs[0][Status]": "completed"}, default_to_multipart=True)()
    fields = await read_multipart(data.headers["Content-Type"], await data.as_bytes(), MAX_FIELDS)
    assert fields == [("CallSid", "abc"), ("Legs[0][Status]", "completed")]


async def test_files_are_left_out() -> None:
    file = part('Content-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain')
    assert await read_multipart(TYPE, form(file, field("CallSid")), MAX_FIELDS) == [("CallSid", "x")]


async def test_a_form_with_too_many_fields_is_refused() -> None:
    assert len(await read_multipart(TYPE, form(*MAX_FIELDS * [field("a")]), MAX_FIELDS)) == MAX_FIELDS
    with pytest.raises(ValueError, match="more than 5"):
        await read_multipart(TYPE, form(*(MAX_FIELDS + 1) * [field("a")]), MAX_FIELDS)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MULTIPART_FORM, form(field("a"))),
        (f"{MULTIPART_FORM}; boundary={'b' * 71}", form(field("a"))),
        (f"{MULTIPART_FORM}; boundary=other", form(field("a"))),
        (TYPE, b"a=b"),
        (TYPE, form(field("a"))[:20]),
        (TYPE, form(field("a")).removesuffix(f"--{BOUNDARY}--\r\n".encode())),
        (TYPE, form(part("Content-Type: text/plain"))),
        (TYPE, form(part("Content-Disposition: form-data; name="))),
        (TYPE, form(part("no header"))),
        (TYPE, form(part(f"Content-Type: multipart/mixed; boundary={BOUNDARY}"))),
        (TYPE, form(part("\r\n".join(f"X-{index}: x" for index in range(40))))),
        (TYPE, form(field("a", "?")).replace(b"?", b"\xff")),
        (TYPE, form(field("_charset_", "not-a-charset" * 9), field("a"))),
    ],
)
async def test_a_malformed_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the form is (malformed|not in UTF-8)$"):
        await read_multipart(content_type, body, MAX_FIELDS)


PIECES = st.sampled_from(
    [
        *(
            f"--{BOUNDARY}",
            f"--{BOUNDARY}--",
            "--",
            "\r\n",
            "\n",
            "\r\n\r\n",
            ":",
            "=",
            '"',
            ";",
            "\x00",
            "é",
        ),
        *("Content-Disposition: form-data", "; name=a", "name*=utf-9''%ff; filename=\"b\"", "_charset_"),
        *(
            "Content-Type: multipart/mixed; boundary=c",
            "Content-Transfer-Encoding: base64",
            "Content-Length: -1",
        ),
    ]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join), st.booleans())
def test_no_body_raises_anything_but_a_value_error(body: str, is_closed: bool) -> None:
    raw = f"--{BOUNDARY}\r\n{body}".encode() + (f"\r\n--{BOUNDARY}--\r\n".encode() if is_closed else b"")
    try:
        fields = asyncio.run(read_multipart(TYPE, raw, MAX_FIELDS))
    except ValueError:
        return
    assert len(fields) <= MAX_FIELDS
