# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a carrier that has fetched the document of a call: TwiML, TeXML, Plivo XML, or Exotel's JSON
(docs/reference/carriers.md §2.4, §3.4, §4.4, §5.1). No I/O.

A document is carried out verb by verb until its stream. What comes behind the stream is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

MAX_CHARACTERS = 100_000

PAUSE_S = 1.0
"""The length of a pause that says none."""

MUTE = "the caller would hear nothing"

_SPOKEN = frozenset({"Say", "Speak", "Play"})
_PAUSES = frozenset({"Pause", "Wait"})
_ENDS = frozenset({"Reject", "Hangup"})


class DocumentUnusableError(ValueError):
    """A document that leads to no stream; the message says why."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a media socket. `parameters`: custom data for `start`."""

    url: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FetchNext:
    """Fetch another document."""

    url: str
    is_get: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, with or without a sound, for so many seconds."""

    seconds: float


Step = OpenStream | FetchNext | Wait


def steps(carrier: str, text: str, url: str) -> Iterator[Step]:
    """Yield what a carrier does with a document, up to its stream or its next document.

    `url`: of the document; what it names is relative to that. Raises DocumentUnusableError.
    """
    if len(text) > MAX_CHARACTERS:
        raise DocumentUnusableError(f"the document has more than {MAX_CHARACTERS} characters")
    if carrier == "exotel":
        yield _exotel_stream(text)
        return
    for verb in _parsed(text):
        if verb.tag in _SPOKEN:
            continue
        if verb.tag in _PAUSES:
            yield Wait(_seconds(verb))
        elif verb.tag == "Redirect":
            is_get = verb.get("method", "POST").upper() == "GET"
            yield FetchNext(urljoin(url, (verb.text or "").strip()), is_get)
            return
        elif verb.tag in _ENDS:
            raise DocumentUnusableError(f"the document ends the call: <{verb.tag}>")
        elif (stream := _stream_of(carrier, verb)) is not None:
            yield stream
            return
        else:
            raise DocumentUnusableError(f"the document does something else with the call: <{verb.tag}>")
    raise DocumentUnusableError("the document has no stream")


def _parsed(text: str) -> Element:
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise DocumentUnusableError("the document has a DTD, which no carrier reads")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
        root = ElementTree.fromstring(text)  # noqa: S314 - without a DTD there are no entities to expand
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise DocumentUnusableError(f"the document is no XML: {expat.ErrorString(error.code)}") from None
    if root.tag != "Response":
        raise DocumentUnusableError(f"the document begins with <{root.tag}>, not with <Response>")
    return root


def _stream_of(carrier: str, verb: Element) -> OpenStream | None:
    if carrier == "plivo":
        if verb.tag != "Stream":
            return None
        if verb.get("bidirectional") != "true":
            raise DocumentUnusableError(f'the stream has no bidirectional="true": {MUTE}')
        return OpenStream((verb.text or "").strip(), _extra_headers(verb.get("extraHeaders", "")))
    stream = verb.find("Stream")
    if verb.tag == "Start" and stream is not None:
        raise DocumentUnusableError(f"<Start><Stream> only listens: {MUTE}")
    if verb.tag != "Connect" or stream is None:
        return None
    if carrier == "telnyx" and stream.get("bidirectionalMode") != "rtp":
        raise DocumentUnusableError(f'the stream has no bidirectionalMode="rtp": {MUTE}')
    parameters = {
        each.get("name", ""): each.get("value", "") for each in stream.iter("Parameter") if each.get("name")
    }
    return OpenStream(stream.get("url", ""), parameters)


def _extra_headers(text: str) -> dict[str, str]:
    """Return Plivo's `k=v,k2=v2`, percent-encoded."""
    pairs = (pair.partition("=") for pair in text.replace(";", ",").split(",") if pair)
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}


def _seconds(verb: Element) -> float:
    try:
        return max(0.0, float(verb.get("length", PAUSE_S)))
    except ValueError:
        return PAUSE_S


def _exotel_stream(text: str) -> OpenStream:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("url"), str):
        raise DocumentUnusableError("the answer is no JSON with the url of a stream")
    return OpenStream(document["url"])
