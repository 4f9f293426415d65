# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's documents: the JSON that its applets fetch (docs/reference/carriers.md §5.3).

An applet requests one thing only: the Voicebot applet a socket, the Connect applet numbers. What happens
before and after is up to the flow that the operator draws in Exotel's dashboard. So a document cannot say
what follows the stream, and refusing, speaking and hanging up raise DocumentError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from texml.addresses import is_sip, socket_url
from texml.document import AfterStream, Busy, DocumentError, Stream

URL_CHARACTERS = 600
QUERY_CHARACTERS = 256
QUERY_PARAMETERS = 3
"""Not counting the sample rate (docs/reference/carriers.md §5.1)."""

SAMPLE_RATES = (8000, 16000, 24000)
RATE_NAMES = ("sample-rate", "sample_rate")  # Exotel's pages differ; the first is written
MAX_RING_S = 600


@dataclass(frozen=True, slots=True)
class ExotelWriter:
    """A Writer (texml/document.py) for Exotel's applets."""

    name: str = "exotel"
    content_type: str = "application/json"
    inline_limit: int = 0

    def connect(self, stream: Stream, after_stream: AfterStream, next_url: str | None) -> str:
        """Return the Voicebot applet's `{"url": …}`, with the sample rate in the query unless it is 8000 Hz.

        `after_stream` and `next_url` are ignored: after the stream, the flow goes on with its next applet.
        """
        if stream.parameters:
            raise DocumentError("Exotel's document has no place for custom parameters")
        return _write({"url": _with_rate(stream)})

    def busy(self, busy: Busy, next_url: str | None) -> str:
        """Raise DocumentError: a Voicebot applet can only be given a socket."""
        raise DocumentError("Exotel's applet can only be given a socket; what else is heard is the flow's")

    def transfer(
        self,
        to: str,
        *,
        caller_id: str | None,
        action: str | None,
        timeout_s: int | None,
        time_limit_s: int | None = None,
    ) -> str:
        """Return the Connect applet's destination, one number.

        What follows is up to the flow, so no `action`. How long the call may last is the flow's, too.
        """
        if is_sip(to):
            raise DocumentError("Exotel's Connect applet calls numbers, not SIP addresses")
        if caller_id is not None:
            raise DocumentError("Exotel's Connect applet shows the caller id that the flow has for it")
        if action is not None:
            raise DocumentError("Exotel's Connect applet is followed by the flow, not by a URL")
        if timeout_s is not None and not 1 <= timeout_s <= MAX_RING_S:
            raise DocumentError(f"a call may ring for 1 to {MAX_RING_S} seconds here")
        ringing = {} if timeout_s is None else {"max_ringing_duration": timeout_s}
        return _write({"destination": {"numbers": [to]}, **ringing, "fetch_after_attempt": False})

    def announcement(self, text: str, *, taken_url: str) -> str:
        """Raise DocumentError: Exotel's flow decides what is spoken."""
        raise DocumentError("Exotel's documents cannot announce a call")

    def conference(self, name: str, *, action: str | None, time_limit_s: int) -> str:
        """Raise DocumentError: no applet of Exotel's joins a conference."""
        raise DocumentError("Exotel's documents cannot join a conference")

    def hangup(self) -> str:
        """Raise DocumentError: the call ends with its flow."""
        raise DocumentError("Exotel's documents cannot end a call; close the socket, and let the flow end")

    def inline(self, document: str) -> str:
        """Raise DocumentError: Exotel accepts no document in a request."""
        raise DocumentError("the carrier takes no document in a request")


def _with_rate(stream: Stream) -> str:
    query = socket_url(stream.url, allow_plain=False).query
    if stream.sample_rate not in SAMPLE_RATES:
        raise DocumentError("Exotel's stream has 8000, 16000 or 24000 Hz")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    rates = [value for name, _, value in pairs if name in RATE_NAMES]
    custom = ["".join(pair) for pair in pairs if pair[0] not in RATE_NAMES]
    if len(custom) > QUERY_PARAMETERS or len("&".join(custom)) > QUERY_CHARACTERS:
        raise DocumentError(
            f"the query has more than {QUERY_PARAMETERS} parameters or {QUERY_CHARACTERS} characters"
        )
    if any(value != str(stream.sample_rate) for value in rates):
        raise DocumentError("the stream's URL asks for another sample rate")
    url = stream.url
    if stream.sample_rate != SAMPLE_RATES[0] and not rates:
        url = f"{url.removesuffix('?')}{'&' if query else '?'}{RATE_NAMES[0]}={stream.sample_rate}"
    if len(url) > URL_CHARACTERS:
        raise DocumentError(f"the stream's URL has more than {URL_CHARACTERS} characters")
    return url


def _write(document: dict[str, object]) -> str:
    return json.dumps(document, separators=(",", ":"))


WRITER = ExotelWriter()
