# SPDX-License-Identifier: BSD-2-Clause
"""A client's access to a running session, for as long as it streams: over with the session, or with its key.

Whoever holds a connection open through the Session API was authenticated when it began. The instance serves
another caller once the session is over, and the key may be revoked meanwhile, by any worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from gateway.auth.api_keys import Principal
from gateway.calls.services import CallServices
from gateway.calls.session_events import session_events
from gateway.model.lifecycle import TERMINAL
from gateway.model.reasons import CallEnded, Reasons

NO_KEY: Final = replace(Reasons.unauthorized, status=int(HTTPStatus.UNAUTHORIZED))
"""A missing key is answered with 401 (docs/reference/public-api.md, "Keys"); the 403 of
`Reasons.unauthorized` is for the tokens of media sockets.
"""


@dataclass(frozen=True, slots=True)
class SessionAccess:
    """The access of one client to one session."""

    services: CallServices
    principal: Principal
    session_id: str

    @asynccontextmanager
    async def watched(self, on_end: Callable[[CallEnded], None], over_end: CallEnded) -> AsyncIterator[None]:
        """Call `on_end`, maybe more than once, when the session or the key ends while the block runs.

        `over_end`: the end that follows from that of the session.

        Raises StoreFailed if the store cannot say whether the session runs.
        """
        store = self.services.store
        with (
            session_events(store).waiting(self.session_id, ending=True) as over,
            self.services.key_events.waiting(self.principal) as revoked,
        ):
            over.add_done_callback(_report_to(on_end, over_end))
            revoked.add_done_callback(_report_to(on_end, CallEnded(NO_KEY, "the key was revoked")))
            record = await store.session(self.session_id)
            if record is None or record.state in TERMINAL:  # it ended before the wait began
                on_end(over_end)
            yield


def _report_to(on_end: Callable[[CallEnded], None], end: CallEnded) -> Callable[[asyncio.Future[None]], None]:
    def report(done: asyncio.Future[None]) -> None:
        if not done.cancelled():
            on_end(end)

    return report
