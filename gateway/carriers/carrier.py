# SPDX-License-Identifier: BSD-2-Clause
"""The record that joins all parts of one carrier. carriers/NAME/__init__.py makes it, registry.py collects
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from gateway.carriers.callback_event import CallbackEvent, CallbackRequest
from gateway.carriers.rest_interface import CarrierRest
from gateway.carriers.rest_transport import TIMEOUT_S
from gateway.carriers.signatures import FORM, SignedRequest
from gateway.config import CarrierAccount
from serializers.dialect import Dialect
from texml.document import DocumentError, Writer

Authenticator = Callable[[CarrierAccount, SignedRequest], None]
"""Returns if the request is the account's. Raises AuthenticationFailed otherwise, and no other exception."""

CallbackReader = Callable[[CallbackRequest], CallbackEvent]
"""Reads one status callback. Raises ValueError if the request is not in a form that the carrier sends."""


class RestClass(Protocol):
    """The class of a carrier's REST client."""

    def __call__(
        self, account: CarrierAccount, http: aiohttp.ClientSession, *, timeout_s: float = TIMEOUT_S
    ) -> CarrierRest:
        """Make the client of one account. Raises CredentialsMissing if the account lacks the credentials."""


@dataclass(frozen=True, slots=True)
class CarrierProfile:
    """A carrier's way to open a call's media socket, and the parts of the socket's URL that reach the
    gateway.

    See docs/reference/carriers.md §1. What is sent on the socket is the dialect's business.
    """

    signs_upgrades: bool
    """Whether the WebSocket upgrade is signed. An upgrade without a signature is then not the carrier's."""

    reconnects: bool
    """Whether the carrier opens a second socket for a call whose first socket broke or failed to open."""

    keeps_query: bool
    """Whether the query of the stream's URL always reaches the gateway."""

    requests_next_document: bool
    """Whether a document can make the carrier request another document when the stream has ended."""

    sends_numbers: bool
    """Whether `start` contains the numbers of caller and callee."""

    bots_read_parameters: bool
    """Whether Pipecat's bots read the custom parameters of `start` (§8.1). Otherwise `body` has them."""

    parameters_in_query: bool = False
    """Whether custom parameters can be sent in the URL's query only."""

    joins_calls: bool = False
    """Whether two calls can be joined in a conference of the carrier's, by its documents."""

    repeats_parameters: bool = False
    """Whether custom parameters are sent in the URL's query too: how else they arrive is not documented."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """One carrier. A part that the carrier does not have is None.

    `name`: as in the paths `/ws/{name}` and `/xml/{name}` and in the configuration. `writer`: writes the
    documents that the carrier fetches. `document_paths`: further paths at which the carrier's documents are
    served, besides `/xml/{name}`. `form_types`: the media types in which the carrier sends the fields of a
    POST; a JSON object has them by name. `body_signature`: the header of a signature that covers the body of
    a webhook, and not its URL.
    """

    name: str
    profile: CarrierProfile
    dialect: Dialect
    writer: Writer | None = None
    authenticate: Authenticator | None = None
    rest_class: RestClass | None = None
    read_callback: CallbackReader | None = None
    document_paths: tuple[str, ...] = ()
    form_types: frozenset[str] = frozenset({FORM})
    body_signature: str | None = None

    @property
    def documents(self) -> Writer:
        """The writer of the carrier's documents. Raises DocumentError if the carrier fetches none."""
        if self.writer is None:
            raise DocumentError(f"{self.name} fetches no documents")
        return self.writer
