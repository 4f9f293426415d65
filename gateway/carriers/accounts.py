# SPDX-License-Identifier: BSD-2-Clause
"""Organisations' accounts with carriers: the authentication of requests, and the URLs that carriers know.

URLs are made from the configuration alone: a client chooses its Host header, and a proxy may have changed it
(docs/reference/carriers.md §9, "Common rule").
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal
from urllib.parse import urlsplit

from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.config import CarrierAccount, Settings
from gateway.model.addresses import host_in_region

Scheme = Literal["https", "wss"]

_WITHOUT_TLS: dict[Scheme, str] = {"https": "http", "wss": "ws"}


class CarrierAccounts:
    """All accounts of all organisations, and the gateway's public URLs."""

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Replace the accounts. What was made from the earlier ones stays as it is."""
        accounts: dict[tuple[str, str], list[CarrierAccount]] = defaultdict(list)
        for organization in settings.organizations:
            for account in organization.carriers:
                accounts[organization.name, account.carrier].append(account)
        self._accounts = {key: tuple(values) for key, values in accounts.items()}
        self.authenticated_carriers = frozenset(
            account.carrier for values in accounts.values() for account in values if account.can_authenticate
        )
        """The carriers that at least one account can authenticate; calls of all others are not checked."""
        self._home_region = settings.server.region
        self._with_agents = {agent.organization for agent in settings.agents}
        # An organisation with a private key can create agents through the API at any time.
        self._with_agents |= {
            organization.name for organization in settings.organizations if organization.private_keys
        }
        public_url = settings.server.public_url
        self._public = public = None if public_url is None else urlsplit(public_url)
        codes = tuple(region.code for region in settings.regions)
        self._hosts = (
            {code: host_in_region(public.netloc, code, codes) for code in codes} if public is not None else {}
        )

    def of(self, organization: str, carrier: str) -> tuple[CarrierAccount, ...]:
        """Return the organisation's accounts with the carrier, in the order of the configuration."""
        return self._accounts.get((organization, carrier), ())

    def requires_authentication(self, organization: str, carrier: str) -> bool:
        """Return True if the carrier's requests for this organisation must be authenticated."""
        return any(account.can_authenticate for account in self.of(organization, carrier))

    def has_unsigned_upgrades(self, organization: str, carrier: str) -> bool:
        """Return True if an account of the organisation is with a sender that signs its webhooks alone."""
        return any(not account.signs_upgrades for account in self.of(organization, carrier))

    def always_authenticated(self, carrier: str) -> bool:
        """Return True if every organisation that has or can create agents requires authentication.

        Return False if there is no such organisation.
        """
        return bool(self._with_agents) and all(
            self.requires_authentication(name, carrier) for name in self._with_agents
        )

    def authenticate(self, organization: str, carrier: str, request: SignedRequest) -> CarrierAccount:
        """Return the first of the organisation's accounts that the request comes from.

        Raises AuthenticationFailed with the reason of the last account, or with a reason of its own if no
        account has credentials to authenticate with.
        """
        failure = AuthenticationFailed("the organisation has no account that could authenticate it")
        for account in self.of(organization, carrier):
            authenticate = CARRIERS[carrier].authenticate
            if not account.can_authenticate or authenticate is None:
                continue
            try:
                authenticate(account, request)
            except AuthenticationFailed as error:
                failure = error
            else:
                return account
        raise failure

    def authenticated_organizations(self, carrier: str, request: SignedRequest) -> frozenset[str]:
        """Return the organisations that the request comes from, for requests that do not name theirs yet."""
        organizations = set()
        for organization, name in self._accounts:
            if name != carrier:
                continue
            try:
                self.authenticate(organization, carrier, request)
            except AuthenticationFailed:
                continue
            organizations.add(organization)
        return frozenset(organizations)

    def urls(self, path_and_query: str, scheme: Scheme) -> tuple[str, ...]:
        """Return the URLs that a carrier may have requested: the public URL, and that of each region.

        `path_and_query`: raw, as received. Return nothing if no public URL is configured or the request has
        no path: then no signature over the URL can be verified.
        """
        if self._public is None or not path_and_query.startswith("/"):
            return ()
        hosts = (self._public.netloc, *self._hosts.values())
        return tuple(self._with_host(host, path_and_query, scheme) for host in dict.fromkeys(hosts))

    def url(self, path_and_query: str, scheme: Scheme, region: str) -> str:
        """Return the URL to give out for an agent of this region. The server's own region has no label.

        Raises ValueError if no public URL is configured, or if the path does not begin with a slash.
        """
        if self._public is None:
            raise ValueError("server.public_url is not set")
        if not path_and_query.startswith("/"):
            raise ValueError("a path begins with a slash")
        host = (
            self._public.netloc
            if region == self._home_region
            else self._hosts.get(region) or host_in_region(self._public.netloc, region, self._hosts)
        )
        return self._with_host(host, path_and_query, scheme)

    def _with_host(self, netloc: str, path_and_query: str, scheme: Scheme) -> str:
        assert self._public is not None
        used = scheme if self._public.scheme == "https" else _WITHOUT_TLS[scheme]
        return f"{used}://{netloc}{self._public.path}{path_and_query}"
