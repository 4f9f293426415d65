# SPDX-License-Identifier: BSD-2-Clause
"""JSON that is checked in steps: it is refused for the same reasons as JSON that is parsed, and outlined."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.framework import json_steps
from gateway.api.framework.json_steps import JsonOutline
from gateway.api.framework.strict_json import MAX_DEPTH, JsonError, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def outline_of(raw: bytes, max_elements: int = 100) -> JsonOutline:
    """Check a text to its end."""
    outline = JsonOutline(raw, max_elements)
    for _ in outline.steps():
        pass
    return outline


def refusal(check: Any, raw: bytes) -> str | None:
    """Return why a text is refused; None if it is not."""
    try:
        check(raw)
    except JsonError as error:
        return str(error)
    return None


@given(VALUES | st.dictionaries(TEXT, VALUES), st.sampled_from([None, 1]), st.booleans())
def test_members_and_elements_are_found(value: Any, indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    outline = outline_of(raw)
    members = value if isinstance(value, dict) else {}
    assert {name: json.loads(outline.text_of(span)) for name, span in outline.members.items()} == members
    assert {
        name: [json.loads(outline.text_of(span)) for span in spans]
        for name, spans in outline.elements.items()
    } == {name: inner for name, inner in members.items() if isinstance(inner, list)}


@given(
    st.binary()
    | st.text('{}[]",:0123456789.eE+-\\u dDaAnNfI').map(str.encode)
    | st.lists(
        st.sampled_from(
            [
                "{",
                "}",
                "[",
                "]",
                ":",
                ",",
                '"a"',
                '"\\u0061"',
                "1",
                "-0.5e3",
                "1e999",
                "true",
                " ",
                '"\\ud800"',
            ]
        )
    ).map(lambda parts: "".join(parts).encode())
)
def test_the_same_texts_are_refused(raw: bytes) -> None:
    assert (refusal(outline_of, raw) is None) == (refusal(parse, raw) is None)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 1}',
        b'[{"b": {"a": 1, "\\u0061": 2}}]',
        b'{"\\"a": 1, "\\u0022a": 2}',
        b'{"\\n": 1, "\\u000a": 2}',
        b'{"a": {"x": 1}, "b": [1, {"x": 1, "x": 2}]}',
        b'{"body": 1e999}',
        b'{"body": ' + b"9" * 5000 + b"}",
        b'{"body": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"body": "\xff"}',
        b'{"body": NaN}',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" * 200_000 + b"]" * 200_000,
    ],
)
def test_each_reason_of_a_refusal(raw: bytes) -> None:
    assert refusal(outline_of, raw) is not None
    assert refusal(outline_of, raw) == refusal(parse, raw)


def test_nesting_at_the_limit_passes() -> None:
    outline_of(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_a_step_looks_at_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_steps, "TOKENS_PER_STEP", 10)
    raw = b'{"body": [' + b",".join([b"1"] * 100) + b"]}"  # 105 tokens: the braces, the brackets, the name
    assert sum(1 for _ in JsonOutline(raw, 1).steps()) == 1 + 11 + 1


def test_elements_are_counted_to_one_more_than_allowed() -> None:
    outline = outline_of(b'{"few": [1, 2, 3], "many": [1, 2, [], {}, 5, 6]}', 3)
    assert {name: len(spans) for name, spans in outline.elements.items()} == {"few": 3, "many": 4}


@pytest.mark.parametrize("quoted", [b'"a\\n\\\\\\"b"', b'"\\u00e9"'])
def test_a_string_with_many_escapes_is_looked_at_in_steps(
    monkeypatch: pytest.MonkeyPatch, quoted: bytes
) -> None:
    monkeypatch.setattr(json_steps, "LONG_STRING_BYTES", 1000)
    long = b'"' + quoted[1:-1] * 3000 + b'"'
    raw = b'{"a": [1, %s, 2], %s : {"b": %s}, "c": %s}' % (long, long, long, long)
    outline = outline_of(raw)
    assert {name: json.loads(outline.text_of(span)) for name, span in outline.members.items()} == json.loads(
        raw
    )
    assert len(outline.elements["a"]) == 3
    assert sum(1 for _ in JsonOutline(raw, 1).steps()) > 4 * len(long) / 1000
    with pytest.raises(JsonError, match="the same name twice"):
        outline_of(b"{%s: 1, %s: 2}" % (long, long))
