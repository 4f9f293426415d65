# SPDX-License-Identifier: BSD-2-Clause
"""What a document says of the stream, and what every carrier's writer can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from texml.plan import Busy, Tail


@dataclass(frozen=True, slots=True)
class Stream:
    """The socket that the carrier is to open.

    What a carrier's document has no place for is left out where it only labels (`name`, `status_callback`),
    and refused where the agent would miss it (`parameters`, `sample_rate`).
    """

    url: str
    """`wss://…` as the carrier is to dial it, complete; `ws://` where the carrier or a loopback allows it."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    """Custom data for `start`. Twilio, Telnyx: `<Parameter>`. Plivo: `extraHeaders`. Exotel: none."""

    name: str | None = None
    """The stream's name in status callbacks: Twilio, Telnyx."""

    status_callback: str | None = None
    """An absolute http(s) URL that is told, with POST, what becomes of the stream. Exotel has none here."""

    sample_rate: int = 8000
    """Hz. Plivo takes 8000 and 16000, Exotel 8000, 16000 and 24000, the others 8000."""

    codec: str | None = None
    """Telnyx: what the caller's sound is transcoded to, as PCMU (docs/reference/carriers.md §3.4). None:
    the call's own.
    """

    reconnect: bool = False
    """Telnyx: whether a lost socket is dialled again. A close of ours may then bring a new socket."""


class Writer(Protocol):
    """Writes one carrier's documents. Pure; every failure is a DocumentError, in words."""

    @property
    def name(self) -> str:
        """As in the path `/xml/{name}`: "twilio"."""

    @property
    def content_type(self) -> str:
        """Of the HTTP answer that has the document for its body; the body is UTF-8."""

    @property
    def inline_limit(self) -> int:
        """Characters of a document that may stand in a REST request; 0 where the carrier takes none there."""

    def connect(self, stream: Stream, tail: Tail, back: str | None) -> str:
        """The call goes to the stream, and on with `tail` when our side closes it.

        `back`: the absolute URL that Redirect asks; only Redirect needs one.
        """

    def busy(self, busy: Busy, back: str | None) -> str:
        """What stands in place of a stream. `back`: the absolute URL that Queue asks after a while."""

    def transfer(self, to: str, *, caller_id: str | None, action: str | None, timeout_s: int | None) -> str:
        """The call goes on to a number in E.164 form or a `sip:` address.

        `caller_id`: a number, shown to whoever is called; None leaves it to the carrier. `action`: the
        absolute URL asked, with POST, when that is over; without one the call ends. `timeout_s`: seconds it
        may ring.
        """

    def goodbye(self) -> str:
        """The call ends, as calls do."""

    def inline(self, document: str) -> str:
        """The document itself, where it may stand in a REST request; a DocumentError where it may not."""
