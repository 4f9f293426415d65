# SPDX-License-Identifier: BSD-2-Clause
"""The writer of the carriers whose documents are XML. They differ in the stream's element and in some verbs.

Elements are escaped by the standard library. Characters that XML 1.0 cannot express raise DocumentError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from texml.addresses import checked_caller_id, is_sip, web_url
from texml.document import (
    MAX_TEXT_CHARACTERS,
    AfterStream,
    Busy,
    Dial,
    DocumentError,
    HangUp,
    OwnXml,
    Play,
    Queue,
    Redirect,
    Reject,
    Say,
    Stream,
    check_elements,
)

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

MAX_DEPTH = 20
"""Of an operator's elements. No carrier's verbs nest as deep, and the standard library writes recursively."""

QUEUE_TEXT = "Please hold the line."
"""The sentence that a waiting caller hears.

It takes about two seconds, so the silence after it is not mistaken for the end.
"""

QUEUE_PAUSE_S = 3

KEY_TIMEOUT_S = 15
"""Seconds for somebody who is to take a call to press a key, after the announcement."""

MAX_CALL_S = 14_400
"""The longest `timeLimit` of TeXML's Dial, and the default of all three carriers."""

# XML 1.0 §2.2, Char: there is no way to write the other characters, not even as a reference.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Verbs:
    """The verbs that carriers name differently.

    Play, Redirect, Dial, Number and Hangup are the same for all.
    """

    say: str
    pause: str
    sip: str
    reject: str
    gather: str = "Gather"


@dataclass(frozen=True, slots=True)
class XmlWriter:
    """A Writer (texml/document.py) for Twilio, Telnyx or Plivo.

    `stream`: makes the element that connects the call to the stream. When the gateway closes the stream, the
    carrier goes on with the verb after it. `conference_element`: makes the element that joins a conference,
    from its name, the attributes of `action`, and the seconds that the call may last. `max_bytes`: the
    longest document that the carrier fetches, in UTF-8.
    """

    name: str
    verbs: Verbs
    stream: Callable[[Stream], Element]
    conference_element: Callable[[str, Mapping[str, str | None], str], Element]
    max_bytes: int
    max_ring_s: int
    min_ring_s: int = 1
    min_call_s: int = 1
    inline_limit: int = 0
    content_type: str = "text/xml; charset=utf-8"

    def connect(self, stream: Stream, after_stream: AfterStream, next_url: str | None) -> str:
        """Connect the call to the stream, as Writer.connect."""
        return self._write(self.stream(stream), *self._after_stream(after_stream, next_url))

    def busy(self, busy: Busy, next_url: str | None) -> str:
        """Say what a caller gets in place of a stream, as Writer.busy."""
        match busy:
            case Reject():
                return self._write(element(self.verbs.reject, {"reason": "busy"}))
            case Say(text):
                return self._write(self._say(text), _hangup())
            case Play(url):
                return self._write(element("Play", text=web_url(url, "the sound's URL")), _hangup())
            case Queue():
                pause = element(self.verbs.pause, {"length": str(QUEUE_PAUSE_S)})
                return self._write(self._say(QUEUE_TEXT), pause, _redirect(next_url))
            case Dial(number):
                return self.transfer(number, caller_id=None, action=None, timeout_s=None)

    def transfer(
        self,
        to: str,
        *,
        caller_id: str | None,
        action: str | None,
        timeout_s: int | None,
        time_limit_s: int | None = None,
    ) -> str:
        """Forward the call, as Writer.transfer."""
        limit = None if time_limit_s is None else str(min(max(time_limit_s, self.min_call_s), MAX_CALL_S))
        return self._write(*self._dial(to, caller_id, action, timeout_s, limit))

    def announcement(self, text: str, *, taken_url: str) -> str:
        """Speak a text and ask for a key, as Writer.announcement."""
        attributes = {
            "action": web_url(taken_url, "the URL of the key"),
            "method": "POST",
            "numDigits": "1",
            "timeout": str(KEY_TIMEOUT_S),
        }
        return self._write(element(self.verbs.gather, attributes, children=[self._say(text)]), _hangup())

    def conference(self, name: str, *, action: str | None, time_limit_s: int) -> str:
        """Join the call to a conference, as Writer.conference."""
        limit = str(min(max(time_limit_s, self.min_call_s), MAX_CALL_S))
        return self._write(self.conference_element(name, action_attributes(action), limit), _hangup())

    def hangup(self) -> str:
        """End the call."""
        return self._write(_hangup())

    def inline(self, document: str) -> str:
        """Return the document if it may be part of a REST request. Raises DocumentError if not."""
        if not self.inline_limit:
            raise DocumentError("the carrier takes no document in a request")
        if len(document) > self.inline_limit:
            raise DocumentError(f"a document in a request has at most {self.inline_limit} characters")
        return document

    def _after_stream(self, after_stream: AfterStream, next_url: str | None) -> list[Element]:
        match after_stream:
            case HangUp():
                return [_hangup()]
            case Redirect():
                return [_redirect(next_url)]
            case Dial(number):
                return self._dial(number, None, None, None)
            case OwnXml(elements):
                return parse_elements(elements)

    def _dial(
        self,
        to: str,
        caller_id: str | None,
        action: str | None,
        timeout_s: int | None,
        time_limit: str | None = None,
    ) -> list[Element]:
        if timeout_s is not None and not self.min_ring_s <= timeout_s <= self.max_ring_s:
            raise DocumentError(f"a call may ring for {self.min_ring_s} to {self.max_ring_s} seconds here")
        attributes: dict[str, str | None] = {
            "callerId": checked_caller_id(caller_id),
            "timeout": None if timeout_s is None else str(timeout_s),
            "timeLimit": time_limit,
        }
        attributes |= action_attributes(action)
        target = element(self.verbs.sip if is_sip(to) else "Number", text=to)
        dial = element("Dial", attributes, children=[target])
        # The action's answer replaces the document. Without an action, the document itself must end the call.
        return [dial] if action is not None else [dial, _hangup()]

    def _say(self, text: str) -> Element:
        if not text.strip() or len(text) > MAX_TEXT_CHARACTERS:
            raise DocumentError(f"what is said must have 1 to {MAX_TEXT_CHARACTERS} characters")
        return element(self.verbs.say, text=text)

    def _write(self, *elements: Element) -> str:
        return write_response(elements, self.max_bytes)


def action_attributes(action: str | None) -> dict[str, str | None]:
    """Return the attributes for the URL that is posted to when a verb is over."""
    return {} if action is None else {"action": web_url(action, "the action's URL"), "method": "POST"}


def dialed_conference(name: str, action: Mapping[str, str | None], time_limit: str) -> Element:
    """Return `<Dial><Conference>` for two parties, as Twilio and Telnyx have it."""
    attributes = {
        "beep": "false",
        "startConferenceOnEnter": "true",
        "endConferenceOnExit": "true",
        "maxParticipants": "2",
    }
    conference = element("Conference", attributes, text=name)
    return element("Dial", {**action, "timeLimit": time_limit}, children=[conference])


def _hangup() -> Element:
    return element("Hangup")


def _redirect(next_url: str | None) -> Element:
    if next_url is None:
        raise DocumentError("there is no URL to ask again")
    return element("Redirect", {"method": "POST"}, text=web_url(next_url, "the URL to ask again"))


def parameter_elements(stream: Stream) -> list[Element]:
    """Return `<Parameter name value>` for each custom parameter (docs/reference/carriers.md §2.4, §3.4)."""
    return [
        element("Parameter", {"name": parameter_name(name), "value": value})
        for name, value in stream.parameters.items()
    ]


def parameter_name(name: str) -> str:
    """Return the name of a custom parameter. Raises DocumentError if it is empty."""
    if not name:
        raise DocumentError("a custom parameter has no name")
    return name


def status_attributes(stream: Stream, attribute: str) -> dict[str, str | None]:
    """Return the attributes for the stream's status callback, none if it has none.

    `attribute`: the carrier's name of the URL's attribute; the attribute for the method is named after it.
    """
    if stream.status_callback is None:
        return {}
    url = web_url(stream.status_callback, "the status callback's URL")
    return {attribute: url, f"{attribute.removesuffix('Url')}Method": "POST"}


def element(
    tag: str,
    attributes: Mapping[str, str | None] | None = None,
    *,
    text: str | None = None,
    children: Iterable[Element] = (),
) -> Element:
    """Return an element without the attributes that are None. Raises DocumentError as `check_characters`."""
    made = Element(tag)
    for name, value in (attributes or {}).items():
        if value is not None:
            made.set(name, check_characters(value, name))
    if text is not None:
        made.text = check_characters(text, f"the text of {tag}")
    made.extend(children)
    return made


def check_characters(value: str, label: str) -> str:
    """Return the value. Raises DocumentError if XML cannot express one of its characters."""
    if _NOT_XML.search(value):
        raise DocumentError(f"{label} has a character that XML cannot hold")
    return value


def parse_elements(text: str) -> list[Element]:
    """Return an operator's elements, without comments and processing instructions. Raises DocumentError."""
    check_characters(text, "the own XML")
    try:
        check_elements(text)
    except ValueError as error:
        raise DocumentError(f"the own XML {error}") from None
    response = ElementTree.fromstring(f"<Response>{text}</Response>")  # noqa: S314 - a DTD was refused above
    if _depth(response) > MAX_DEPTH:
        raise DocumentError(f"the own XML is nested more than {MAX_DEPTH} deep")
    return list(response)


def _depth(root: Element) -> int:
    depth, level = 0, [root]
    while level := [child for parent in level for child in parent]:
        depth += 1
    return depth


def write_response(elements: Iterable[Element], max_bytes: int) -> str:
    """Return the document. Raises DocumentError if it has more than `max_bytes` in UTF-8."""
    body = ElementTree.tostring(element("Response", children=elements), encoding="unicode")
    # The library writes a carriage return in an attribute as a reference, but not in text, where every XML
    # parser would read it as a line feed (XML 1.0 §2.11).
    document = DECLARATION + body.replace("\r", "&#13;")
    if len(document.encode()) > max_bytes:
        raise DocumentError(f"the document would have more than {max_bytes} bytes")
    return document
