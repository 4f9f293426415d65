# SPDX-License-Identifier: BSD-2-Clause
"""Checks a large JSON text in small steps, without making its values.

Parsing is one call into C, which holds the interpreter's lock until it is done, in a thread as well: a
document with a million small values would stop every call of the worker. So a large one is never parsed as a
whole. Its grammar is checked by msgspec, which skips values faster than memory is filled with them; what
`strict_json` refuses beyond that (a name twice, deep nesting, numbers that are too large, half surrogate
pairs) is looked for token by token, a bounded number at a time (docs/decisions/0036-json-in-steps.md).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from gateway.api.framework.strict_json import MAX_DEPTH, TOO_DEEP, TWICE, JsonError, parse, reason_of

TOKENS_PER_STEP: Final = 1000
"""Tokens that are looked at before other work of the event loop goes on."""

LONG_STRING_PARTS: Final = 2000
LONG_STRING_BYTES: Final = 32_768
"""A string with more escapes than `LONG_STRING_PARTS` is looked at in steps of so many bytes."""

_PART: Final = rb'(?:[^"\\]++|\\.)'
_STRING: Final = rb'"' + _PART + rb'{0,%d}+"' % LONG_STRING_PARTS
_TOKEN: Final = re.compile(
    rb"(?P<name>" + _STRING + rb")[ \t\r\n]*+:|"
    rb"(?P<string>" + _STRING + rb")|(?P<open>[\[{])|(?P<close>[\]}])|(?P<number>-?[0-9][0-9.eE+-]*+)|"
    rb'(?P<literal>[tfn][a-z]++)|(?P<long>")',
    re.DOTALL,
)
_NAME, _STRING_VALUE, _OPEN, _CLOSE, _NUMBER, _LONG = 1, 2, 3, 4, 5, 7
_PARTS: Final = re.compile(_PART + rb"*+", re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*+:")
_QUOTE: Final = ord('"')
_MAX_PLAIN_NUMBER: Final = 18
"""Characters of a number that needs no closer look."""

_grammar = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands in a text, from its first byte to behind its last."""

    start: int
    end: int


class JsonOutline:
    """The outline of one JSON text: the members of its outermost object, and the elements of those that are
    arrays. Complete once `steps` has ended.
    """

    def __init__(self, raw: bytes, max_elements: int) -> None:
        """`raw`: a JSON text in UTF-8, not yet checked.

        `max_elements`: an array's elements are noted up to one more than these.
        """
        self.raw = raw
        self.members: dict[str, Span] = {}
        """The outermost object's members; none if the text is no object."""
        self.elements: dict[str, list[Span]] = {}
        """The elements of each member that is an array."""
        self._max_elements = max_elements
        self._names: list[set[bytes | str] | None] = []  # of each open object; None for an array
        self._starts = [0, 0, 0]  # of the open values, by depth; deeper ones are not needed
        self._member = ""  # the outermost object's last name, and the elements of its value
        self._noted: list[Span] = []

    def steps(self) -> Iterator[None]:
        """Check the text; each step takes a bounded time. Raises JsonError as `strict_json.parse` does."""
        raw = self.raw
        try:
            _grammar(raw)
            raw.decode()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise JsonError(reason_of(raw, error)) from None
        yield
        tokens = _TOKEN.finditer(raw)
        goes_on = True
        while goes_on:
            goes_on = False
            for token in islice(tokens, TOKENS_PER_STEP):
                goes_on = True
                if token.lastindex == _LONG:
                    tokens = _TOKEN.finditer(raw, (yield from self._long_string(token.start())))
                    break
                self._add(token)
            yield

    def _long_string(self, start: int) -> Generator[None, None, int]:
        """Look at a string with many escapes, in steps. Return where it ends, with its colon if it is a name.

        The grammar has been checked, so it has an end.
        """
        raw, end = self.raw, start + 1
        while raw[end] != _QUOTE:
            parts = _PARTS.match(raw, end, end + LONG_STRING_BYTES)
            assert parts is not None
            end = parts.end()
            yield
        quoted = raw[start : end + 1]
        colon = _COLON.match(raw, end + 1)
        if colon is not None:
            self._add_name(quoted)
            return colon.end()
        _check_scalar(_STRING_VALUE, quoted)
        self._add_value(start, end + 1, is_array=False)
        return end + 1

    def _add(self, token: re.Match[bytes]) -> None:
        kind = token.lastindex
        if kind == _NAME:
            self._add_name(token[_NAME])
        elif kind == _OPEN:
            self._open(token)
        elif kind == _CLOSE:
            self._close(token.end())
        else:
            _check_scalar(kind, token[0])
            self._add_value(token.start(), token.end(), is_array=False)

    def text_of(self, span: Span) -> bytes:
        """Return the text at a span."""
        return self.raw[span.start : span.end]

    def _add_name(self, quoted: bytes) -> None:
        name, known = _name(quoted), self._names[-1]
        assert known is not None  # the grammar has been checked
        if name in known:
            raise JsonError(TWICE)
        known.add(name)
        if len(self._names) == 1:
            self._member, self._noted = _text(name), []

    def _open(self, token: re.Match[bytes]) -> None:
        depth = len(self._names)
        if depth == MAX_DEPTH:
            raise JsonError(TOO_DEEP)
        if depth < len(self._starts):
            self._starts[depth] = token.start()
        self._names.append(set() if token[0] == b"{" else None)

    def _close(self, end: int) -> None:
        is_array = self._names.pop() is None
        depth = len(self._names)
        if depth < len(self._starts):
            self._add_value(self._starts[depth], end, is_array=is_array)

    def _add_value(self, start: int, end: int, *, is_array: bool) -> None:
        """Note a value that stands in the outermost object, or in an array in it."""
        depth = len(self._names)
        if depth == 1 and self._names[0] is not None:
            self.members[self._member] = Span(start, end)
            if is_array:
                self.elements[self._member] = self._noted
        elif depth == 2 and self._names[1] is None and len(self._noted) <= self._max_elements:
            self._noted.append(Span(start, end))


def _name(quoted: bytes) -> bytes | str:
    """Return a key under which equal names are equal: the text in quotes if it has no escapes."""
    if b"\\" not in quoted:
        return quoted
    text = str(parse(quoted))
    plain = f'"{text}"'.encode()
    return plain if b'"' not in plain[1:-1] and b"\\" not in plain else text


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name[1:-1].decode()


def _check_scalar(kind: int | None, text: bytes) -> None:
    """Raise JsonError for a number that is too large, or half a surrogate pair.

    In a text in UTF-8 only an escape can be one.
    """
    if kind == _NUMBER:
        is_odd = len(text) > _MAX_PLAIN_NUMBER or b"e" in text or b"E" in text
    else:
        is_odd = kind == _STRING_VALUE and b"\\u" in text
    if is_odd:
        parse(text)
