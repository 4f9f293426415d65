# SPDX-License-Identifier: BSD-2-Clause
"""The carriers' REST as one worker uses it: one way to each account, made when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp

from gateway.carriers.registry import RESTS
from gateway.carriers.rest_interface import CarrierRest, CredentialsMissing
from gateway.config import CarrierAccount


class CarrierClients:
    """Each account's REST. To be used inside one event loop, and closed there."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None
        self._made: dict[int, tuple[CarrierAccount, CarrierRest]] = {}

    def of(self, account: CarrierAccount) -> CarrierRest:
        """The account's REST. Raises CredentialsMissing where the account has nothing to call it with."""
        made = self._made.get(id(account))  # settings do not change; a secret would have to be hashed
        if made is None:
            if self._http is None:
                self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
            made = self._made[id(account)] = account, RESTS[account.carrier](account, self._http)
        return made[1]

    def first(self, accounts: Iterable[CarrierAccount], account_id: str | None) -> CarrierRest | None:
        """The REST of the account that the carrier names `account_id`, else of the first that has one.

        None where none of them has anything to call it with.
        """
        known = list(accounts)
        named = [account for account in known if account_id is not None and account.account == account_id]
        for account in named or known:
            try:
                return self.of(account)
            except CredentialsMissing:
                continue
        return None

    async def close(self) -> None:
        """Closes its connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None
            self._made.clear()
