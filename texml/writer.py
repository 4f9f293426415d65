# SPDX-License-Identifier: BSD-2-Clause
"""What the documents of the three XML carriers share: everything but the stream, in each one's own verbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from texml.addresses import is_sip, number_shown, web_url
from texml.errors import DocumentError
from texml.markup import element, own_elements, write
from texml.plan import (
    MAX_TEXT_CHARACTERS,
    Busy,
    Dial,
    HangUp,
    OwnXml,
    Play,
    Queue,
    Redirect,
    Reject,
    Say,
    Tail,
)
from texml.stream import Stream

WAITING = "Please hold the line."
"""What a caller hears who waits: about two seconds, so that nobody takes the silence after it for the end."""

WAITING_PAUSE_S = 3


@dataclass(frozen=True, slots=True)
class Verbs:
    """What carriers call differently. Play, Redirect, Dial, Number and Hangup are the same everywhere."""

    say: str
    pause: str
    sip: str
    reject: str


@dataclass(frozen=True, slots=True)
class XmlWriter:
    """A Writer (texml/stream.py) for Twilio, Telnyx or Plivo."""

    name: str
    verbs: Verbs
    stream: Callable[[Stream], Element]
    """The element that connects the call to the stream, and is left when our side closes it."""

    max_bytes: int
    """Of a document that the carrier fetches."""

    longest_ring_s: int
    shortest_ring_s: int = 1
    inline_limit: int = 0
    content_type: str = "text/xml; charset=utf-8"

    def connect(self, stream: Stream, tail: Tail, back: str | None) -> str:
        """See Writer."""
        return self._write(self.stream(stream), *self._tail(tail, back))

    def busy(self, busy: Busy, back: str | None) -> str:
        """See Writer."""
        match busy:
            case Reject():
                return self._write(element(self.verbs.reject, {"reason": "busy"}))
            case Say(text):
                return self._write(self._say(text), _hangup())
            case Play(url):
                return self._write(element("Play", text=web_url(url, "the sound's URL")), _hangup())
            case Queue():
                pause = element(self.verbs.pause, {"length": str(WAITING_PAUSE_S)})
                return self._write(self._say(WAITING), pause, _redirect(back))
            case Dial(number):
                return self.transfer(number, caller_id=None, action=None, timeout_s=None)

    def transfer(self, to: str, *, caller_id: str | None, action: str | None, timeout_s: int | None) -> str:
        """See Writer."""
        return self._write(*self._dial(to, caller_id, action, timeout_s))

    def goodbye(self) -> str:
        """See Writer."""
        return self._write(_hangup())

    def inline(self, document: str) -> str:
        """See Writer."""
        if not self.inline_limit:
            raise DocumentError("the carrier takes no document in a request")
        if len(document) > self.inline_limit:
            raise DocumentError(f"a document in a request has at most {self.inline_limit} characters")
        return document

    def _tail(self, tail: Tail, back: str | None) -> list[Element]:
        match tail:
            case HangUp():
                return [_hangup()]
            case Redirect():
                return [_redirect(back)]
            case Dial(number):
                return self._dial(number, None, None, None)
            case OwnXml(elements):
                return own_elements(elements)

    def _dial(
        self, to: str, caller_id: str | None, action: str | None, timeout_s: int | None
    ) -> list[Element]:
        if timeout_s is not None and not self.shortest_ring_s <= timeout_s <= self.longest_ring_s:
            raise DocumentError(
                f"a call may ring for {self.shortest_ring_s} to {self.longest_ring_s} seconds here"
            )
        attributes = {
            "callerId": number_shown(caller_id),
            "timeout": None if timeout_s is None else str(timeout_s),
        }
        if action is not None:
            attributes |= {"action": web_url(action, "the action's URL"), "method": "POST"}
        noun = element(self.verbs.sip if is_sip(to) else "Number", text=to)
        dial = element("Dial", attributes, children=[noun])
        # The action's answer takes the document's place. Without one, what follows says how the call ends.
        return [dial] if action is not None else [dial, _hangup()]

    def _say(self, text: str) -> Element:
        if not text.strip() or len(text) > MAX_TEXT_CHARACTERS:
            raise DocumentError(f"what is said must have 1 to {MAX_TEXT_CHARACTERS} characters")
        return element(self.verbs.say, text=text)

    def _write(self, *elements: Element) -> str:
        return write(elements, self.max_bytes)


def _hangup() -> Element:
    return element("Hangup")


def _redirect(back: str | None) -> Element:
    if back is None:
        raise DocumentError("there is no URL to ask again")
    return element("Redirect", {"method": "POST"}, text=web_url(back, "the URL to ask again"))


def parameter_elements(stream: Stream) -> list[Element]:
    """`<Parameter name value>` for each custom parameter (docs/reference/carriers.md §2.4, §3.4)."""
    return [
        element("Parameter", {"name": parameter_name(name), "value": value})
        for name, value in stream.parameters.items()
    ]


def parameter_name(name: str) -> str:
    """The name, where it is one."""
    if not name:
        raise DocumentError("a custom parameter has no name")
    return name


def status_attributes(stream: Stream, attribute: str) -> dict[str, str | None]:
    """The status callback under the carrier's name for it, with its method; nothing where there is none."""
    if stream.status_callback is None:
        return {}
    url = web_url(stream.status_callback, "the status callback's URL")
    return {attribute: url, f"{attribute.removesuffix('Url')}Method": "POST"}
