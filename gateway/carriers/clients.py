# SPDX-License-Identifier: BSD-2-Clause
"""The REST clients of one worker: one for each account, made when it is first used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import aiohttp

from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierRest, CredentialsMissing
from gateway.config import CarrierAccount
from gateway.dns.http_connector import open_connector

MAX_CONNECTIONS_PER_CARRIER: Final = 100
"""Connections to one host and port; more requests wait, and fail after their own time-out."""


class CarrierClients:
    """The REST clients of all accounts, with one connection pool. Use and close it in one event loop."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None
        self._clients: dict[int, tuple[CarrierAccount, CarrierRest]] = {}

    def of(self, account: CarrierAccount) -> CarrierRest:
        """Return the account's client. Raises CredentialsMissing if the account has no REST credentials."""
        # By identity: accounts never change, and hashing one would hash its secrets.
        known = self._clients.get(id(account))
        if known is None:
            rest_class = CARRIERS[account.carrier].rest_class
            if rest_class is None:
                raise CredentialsMissing(f"{account.carrier} has no REST API")
            if self._http is None:
                # A carrier that does not answer uses up its own connections, and no other's.
                self._http = aiohttp.ClientSession(
                    connector=open_connector(limit=0, limit_per_host=MAX_CONNECTIONS_PER_CARRIER),
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
            known = self._clients[id(account)] = account, rest_class(account, self._http)
        return known[1]

    def first(self, accounts: Iterable[CarrierAccount], account_id: str | None) -> CarrierRest | None:
        """Return the client of the account that the carrier names `account_id`.

        If no account is named so, return the first client of all. Return None if none has REST credentials.
        """
        candidates = list(accounts)
        named = [
            account for account in candidates if account_id is not None and account.account == account_id
        ]
        for account in named or candidates:
            try:
                return self.of(account)
            except CredentialsMissing:
                continue
        return None

    def forget_others(self, accounts: Iterable[CarrierAccount]) -> None:
        """Forget the clients of all but these accounts. Whoever still uses one may go on."""
        known = {id(account) for account in accounts}
        self._clients = {key: client for key, client in self._clients.items() if key in known}

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None
            self._clients.clear()
