# SPDX-License-Identifier: BSD-2-Clause
"""Forms are read in one way only: what could be read in two ways is refused."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carriers.signatures import MAX_FIELDS, AuthenticationFailed, read_form

FORM = "application/x-www-form-urlencoded"

anything = st.text(st.characters(), max_size=40) | st.text("abcAZ09+/=,.:;%&? ", max_size=90)
bodies = st.binary(max_size=60) | anything.map(lambda text: text.encode("utf-8", "replace"))


@given(anything | st.sampled_from([FORM, f"{FORM};charset=x"]), bodies)
def test_a_garbled_form_is_refused_or_read_like_any_other(content_type: str, body: bytes) -> None:
    try:
        fields = read_form(content_type, body)
    except AuthenticationFailed:
        return
    assert read_form(FORM, urlencode(fields).encode()) == fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", []),
        (b"a=1&b=2&a=1", [("a", "1"), ("b", "2"), ("a", "1")]),
        (b"a=&=b", [("a", ""), ("", "b")]),
        (b"a=1+1&b=1%2B1&c=%20", [("a", "1 1"), ("b", "1+1"), ("c", " ")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"a=%C3%BC%f0%9f%91%8b", [("a", "ü👋")]),
    ],
)
def test_forms_are_read(body: bytes, fields: list[tuple[str, str]]) -> None:
    assert read_form(FORM, body) == fields


@pytest.mark.parametrize(
    "content_type", [FORM, FORM.upper(), f"{FORM};charset=UTF-8", f'{FORM}; charset="utf-8"']
)
def test_a_form_says_that_it_is_one(content_type: str) -> None:
    assert read_form(content_type, b"a=1") == [("a", "1")]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data; boundary=x",
        f"{FORM}, {FORM}",
        f"{FORM}; charset=latin-1",
        f"{FORM}; charset=utf-8; charset=latin-1",
        f"{FORM}; charset=utf-8, text/plain",
        "application/x-www-form-urlencodedx",
    ],
)
def test_anything_else_is_no_form(content_type: str) -> None:
    with pytest.raises(AuthenticationFailed):
        read_form(content_type, b"a=1")


@pytest.mark.parametrize(
    "body",
    [
        b"a",
        b"a=1&",
        b"&a=1",
        b"a=1&&b=2",
        b"a=%",
        b"a=%4",
        b"a=%zz",
        b"a=%ff",
        b"a=%C3",
        b"a=%ED%A0%80",
        "a=ü".encode(),
        b"a=\xff",
        b"a= ",
        b"a=1\r\nb=2",
        b"a=\0",
        b"&".join([b"a=1"] * (MAX_FIELDS + 1)),
    ],
)
def test_a_malformed_form_is_not_read(body: bytes) -> None:
    with pytest.raises(AuthenticationFailed, match="form"):
        read_form(FORM, body)
