# SPDX-License-Identifier: BSD-2-Clause
"""The content of a document, whatever the carrier, and the interface of a carrier's writer.

A document connects a call to its stream and says what follows (`AfterStream`), or says what a caller hears in
place of a stream (`Busy`). Operators write both as one text (`[[agents]] after`, `busy`), which is parsed
here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit
from xml.parsers import expat

MAX_TEXT_CHARACTERS = 1000
"""Of a sentence to be spoken."""

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
"""A telephone number, "+" and country code first (ITU-T E.164)."""

_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")


class DocumentError(ValueError):
    """The carrier's document cannot express what was requested.

    `str()` says in one clause what is wrong, without the value: that may be a token or a telephone number.
    """


@dataclass(frozen=True, slots=True)
class Stream:
    """The media socket that the carrier is to open.

    If the carrier's document has no place for a value, a mere label (`name`, `status_callback`) is left out,
    and a value that the agent would miss (`parameters`, `sample_rate`) raises DocumentError.
    """

    url: str
    """The complete `wss://…` URL that the carrier dials; `ws://` if the carrier or a loopback address allows
    it.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    """Custom data for `start`. Twilio, Telnyx: `<Parameter>`. Plivo: `extraHeaders`. Exotel: not possible."""

    name: str | None = None
    """The stream's name in status callbacks. Twilio and Telnyx only."""

    status_callback: str | None = None
    """Absolute http(s) URL to which the carrier posts the stream's events. Exotel has none."""

    sample_rate: int = 8000
    """Hz. Plivo accepts 8000 and 16000, Exotel 8000, 16000 and 24000, the others 8000."""

    codec: str | None = None
    """Telnyx only: the codec that the caller's audio is transcoded to, such as PCMU
    (docs/reference/carriers.md §3.4). None keeps the call's own.
    """

    reconnect: bool = False
    """Telnyx only: whether a lost socket is dialed again.

    The gateway's own close may then bring a new socket.
    """


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Request another document."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Forward the call to a number in E.164 form."""

    number: str


@dataclass(frozen=True, slots=True)
class OwnXml:
    """Insert elements of the carrier's XML, as the operator wrote them."""

    elements: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the call as busy: before it is answered, if the carrier can do that."""


@dataclass(frozen=True, slots=True)
class Say:
    """Speak a sentence, then end the call. `written`: the operator's text, with its spaces as they were."""

    text: str
    written: str = field(default="", compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Play:
    """Play a recording from an http(s) URL, then end the call. `written`: see `Say`."""

    url: str
    written: str = field(default="", compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Queue:
    """Let the caller wait a little, then request another document."""


AfterStream = HangUp | Redirect | Dial | OwnXml
Busy = Reject | Say | Play | Queue | Dial


def parse_after_stream(text: str) -> AfterStream:
    """Parse `hangup`, `redirect`, a number, or XML that begins with `<`.

    Raises ValueError with a sentence.
    """
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


def parse_busy(text: str) -> Busy:
    """Parse `reject`, `queue`, `say TEXT`, `play URL` or a number. Raises ValueError with a sentence."""
    if text == "reject":
        return Reject()
    if text == "queue":
        return Queue()
    if E164.fullmatch(text):
        return Dial(text)
    verb, _, rest = text.partition(" ")
    if verb == "say" and (rest := rest.strip()):
        if len(rest) > MAX_TEXT_CHARACTERS or not _PRINTABLE.fullmatch(rest):
            raise ValueError(f"must say at most {MAX_TEXT_CHARACTERS} printable characters")
        return Say(rest, written=text)
    if verb == "play" and _is_url(rest.strip()):
        return Play(rest.strip(), written=text)
    raise ValueError("must be reject, queue, say TEXT, play URL, or a number as in +15559876543")


def check_elements(text: str) -> None:
    """Raise ValueError unless the text is well-formed XML elements without a DTD."""
    parser = expat.ParserCreate(namespace_separator=" ")  # with a separator, undeclared prefixes are errors

    def refuse_dtd(*_: object) -> None:
        raise ValueError("must be XML elements alone, without a DTD")

    parser.StartDoctypeDeclHandler = refuse_dtd
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


class Writer(Protocol):
    """Writes one carrier's documents. Pure. Every failure raises DocumentError with a sentence."""

    @property
    def name(self) -> str:
        """The carrier's name, as in the path `/xml/{name}`: "twilio"."""

    @property
    def content_type(self) -> str:
        """The `Content-Type` of an HTTP answer with the document. The document is encoded in UTF-8."""

    @property
    def inline_limit(self) -> int:
        """Characters of a document that may be part of a REST request; 0 if the carrier takes none there."""

    def connect(self, stream: Stream, after_stream: AfterStream, next_url: str | None) -> str:
        """Connect the call to the stream. `after_stream` follows when the gateway closes it.

        `next_url`: absolute URL of the next document. Required for Redirect only.
        """

    def busy(self, busy: Busy, next_url: str | None) -> str:
        """Say what a caller gets in place of a stream. `next_url`: the absolute URL for Queue."""

    def transfer(
        self,
        to: str,
        *,
        caller_id: str | None,
        action: str | None,
        timeout_s: int | None,
        time_limit_s: int | None = None,
    ) -> str:
        """Forward the call to a number in E.164 form or a `sip:` address.

        `caller_id`: the number shown to the callee; None leaves it to the carrier. `action`: absolute URL
        that is posted to afterwards; without one the call ends. `timeout_s`: seconds to ring. `time_limit_s`:
        seconds that the new call may last, brought within the carrier's limits; None for the carrier's own.
        """

    def announcement(self, text: str, *, taken_url: str) -> str:
        """Speak a text to somebody who may take a call, and post the key that is pressed to `taken_url`.

        The call ends if none is pressed.
        """

    def conference(self, name: str, *, action: str | None, time_limit_s: int) -> str:
        """Join the call to the carrier's conference of this name, which ends when either party leaves.

        `action`, `time_limit_s`: as for `transfer`.
        """

    def hangup(self) -> str:
        """End the call."""

    def inline(self, document: str) -> str:
        """Return the document if it may be part of a REST request. Raises DocumentError if not."""
