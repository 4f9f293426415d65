# SPDX-License-Identifier: BSD-2-Clause
"""The switchboard of one worker: what every call needs, and the calls that are running."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.agents.directory import Directory
from gateway.agents.readiness import Probes
from gateway.api.keys import Keyring
from gateway.calls.call import Call
from gateway.calls.hold import Holds
from gateway.calls.line import Lines
from gateway.calls.passage import Passage, is_passage
from gateway.calls.wishes import Wish, Wishes
from gateway.carriers.accounts import Accounts
from gateway.carriers.calls import CallBook
from gateway.carriers.rests import Rests
from gateway.config import Settings
from gateway.dialing.dialouts import Dialouts
from gateway.errors import CallEnd
from gateway.media.upgrade import Upgrade
from gateway.sessions.call_sockets import CallSockets
from gateway.sessions.store import Store
from gateway.sessions.tokens import Tokens


class Switchboard:
    """What every call needs, and the calls that are running in this process."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        directory: Directory,
        probes: Probes,
        tokens: Tokens,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        now: Callable[[], float] = time.time,
    ) -> None:
        """`new_id` makes session ids, `now` gives Unix seconds."""
        self.settings = settings
        self.store = store
        self.directory = directory
        self.probes = probes
        self.tokens = tokens
        self.new_id = new_id
        self.now = now
        self.keyring = Keyring(settings.organizations, store.documents, now)
        self.accounts = Accounts(settings)
        self.proving_carriers = frozenset(
            account.carrier
            for organization in settings.organizations
            for account in organization.carriers
            if account.proves
        )
        """The carriers of which somebody wants proof; of all others none is looked for."""
        self.holds = Holds(settings.agents)
        self.lines = Lines()
        self.call_sockets = CallSockets(store.documents, now)
        self.call_book = CallBook(store.documents, now)
        self.rests = Rests()
        self.wishes = Wishes(store.documents, now, self.hear)
        self.dialouts = Dialouts(self, self.wishes)
        self.region_codes = frozenset(region.code for region in settings.regions)
        self.draining = False
        self.calls: set[Call] = set()

    def serve(self, upgrade: Upgrade) -> Coroutine[Any, Any, None]:
        """Carries one call, or a passage to a session that runs already, from its upgrade to its end."""
        return Passage(self, upgrade).run() if is_passage(upgrade) else Call(self, upgrade).run()

    def end_call(self, session_id: str, end: CallEnd) -> bool:
        """Ends a call of this process; False where it carries none of this session."""
        call = self.call_of(session_id)
        if call is not None:
            call.fate.decide(end)
        return call is not None

    def call_of(self, session_id: str) -> Call | None:
        """The call of this process that is the session; None where it has none."""
        return next((call for call in self.calls if call.session_id == session_id), None)

    def hear(self, session_id: str, wish: Wish) -> bool:
        """What is about to be done with a call of this process; False where it has none of this session."""
        call = self.call_of(session_id)
        if call is None or wish is Wish.GIVE_UP:
            return self.dialouts.hear(session_id, wish)
        return call.hear(wish)
