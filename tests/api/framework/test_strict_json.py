# SPDX-License-Identifier: BSD-2-Clause
"""JSON read strictly and written strictly (RFC 8259)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.framework.strict_json import MAX_DEPTH, JsonError, parse, whole_numbers_as_int
from gateway.model.json_text import dump

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(values)
def test_written_json_is_read_back(value: Any) -> None:
    assert parse(dump(value)) == value
    assert parse(json.dumps(value).encode()) == value


@given(st.binary() | st.text('{}[]",:0123456789.eE+-\\u dDaAnNfI').map(str.encode))
def test_anything_is_read_or_refused(raw: bytes) -> None:
    try:
        value = parse(raw)
    except JsonError:
        return
    assert value == json.loads(raw)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 1}',
        b'[{"b": {"a": 1, "\\u0061": 2}}]',
        b'{"": {}, "": {"x": 1}}',
        b'{"a:": "::", "a:": 1}',
        b'{"\\"a": 1, "\\"a": 2}',
    ],
)
def test_a_name_twice_in_an_object_is_refused(text: bytes) -> None:
    with pytest.raises(JsonError, match="the same name twice"):
        parse(text)


@pytest.mark.parametrize("text", [b'{"a:b": ":", "c": "\\":"}', b'[{"a": 1}, {"a": 2}]', b'"a:b"', b"[]"])
def test_colons_in_strings_are_no_members(text: bytes) -> None:
    assert parse(text) == json.loads(text)


def test_a_whole_number_is_an_int() -> None:
    assert repr(whole_numbers_as_int({"a": [1.0, 1.5, -2e3, "1.0", True, None]})) == (
        "{'a': [1, 1.5, -2000, '1.0', True, None]}"
    )


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [{"a": -float("inf")}], "\ud800", {"\udfff": 1}]
)
def test_values_that_json_cannot_express_are_not_written(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are Python's
        dump(value)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":[', b"]}]")])
def test_nesting_is_limited(opening: bytes, closing: bytes) -> None:
    levels = opening.count(b"[") + opening.count(b"{")
    max_repeats = MAX_DEPTH // levels
    parse(opening * max_repeats + b"1" + closing * max_repeats)
    for too_many in (max_repeats + 1, 500, 200_000):
        with pytest.raises(JsonError, match="deeper than 64"):
            parse(opening * too_many + b"1" + closing * too_many)
