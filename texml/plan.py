# SPDX-License-Identifier: BSD-2-Clause
"""What a document does besides the stream: what comes after it, and what stands in its place.

Both are written by operators as one text (`[[agents]] after`, `busy`) and read here, once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit
from xml.parsers import expat

from texml.addresses import E164

MAX_TEXT_CHARACTERS = 1000
"""Of a sentence to be spoken."""

_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class HangUp:
    """The call ends."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """The carrier asks for a document again."""


@dataclass(frozen=True, slots=True)
class Dial:
    """The call goes on to a number in E.164 form."""

    number: str


@dataclass(frozen=True, slots=True)
class OwnXml:
    """Elements of the carrier's own XML, put into the document as they are."""

    elements: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The call is refused, as busy, before it is answered where the carrier can do that."""


@dataclass(frozen=True, slots=True)
class Say:
    """A sentence is spoken, then the call ends."""

    text: str


@dataclass(frozen=True, slots=True)
class Play:
    """A sound is played, then the call ends. `url`: http(s)."""

    url: str


@dataclass(frozen=True, slots=True)
class Queue:
    """The call waits a little, then the carrier asks again."""


Tail = HangUp | Redirect | Dial | OwnXml
Busy = Reject | Say | Play | Queue | Dial


def read_tail(text: str) -> Tail:
    """`hangup`, `redirect`, a number, or XML that begins with `<`. Raises ValueError with words."""
    if text == "hangup":
        return HangUp()
    if text == "redirect":
        return Redirect()
    if E164.fullmatch(text):
        return Dial(text)
    if text.startswith("<"):
        check_elements(text)
        return OwnXml(text)
    raise ValueError("must be hangup, redirect, a number as in +15559876543, or XML")


def read_busy(text: str) -> Busy:
    """`reject`, `queue`, `say TEXT`, `play URL` or a number. Raises ValueError with words."""
    if text == "reject":
        return Reject()
    if text == "queue":
        return Queue()
    if E164.fullmatch(text):
        return Dial(text)
    word, _, rest = text.partition(" ")
    if word == "say" and (rest := rest.strip()):
        if len(rest) > MAX_TEXT_CHARACTERS or not _PRINTABLE.fullmatch(rest):
            raise ValueError(f"must say at most {MAX_TEXT_CHARACTERS} printable characters")
        return Say(rest)
    if word == "play" and _is_url(rest.strip()):
        return Play(rest.strip())
    raise ValueError("must be reject, queue, say TEXT, play URL, or a number as in +15559876543")


def check_elements(text: str) -> None:
    """Raises ValueError where the text is not well-formed XML elements without a DTD."""
    parser = expat.ParserCreate(namespace_separator=" ")  # refuses prefixes that nothing declares

    def no_dtd(*_: object) -> None:
        raise ValueError("must be XML elements alone, without a DTD")

    parser.StartDoctypeDeclHandler = no_dtd
    try:
        parser.Parse(f"<Response>{text}</Response>", True)
    except expat.ExpatError as error:
        raise ValueError(f"must be well-formed XML: {expat.ErrorString(error.code)}") from None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in text
    except ValueError:
        return False
