# SPDX-License-Identifier: BSD-2-Clause
"""Authentication of Exotel, which signs nothing: credentials from the URL, or the address of the peer
(docs/reference/carriers.md §5.1).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from gateway.carriers.signatures import (
    AuthenticationFailed,
    SignedRequest,
    base64_bytes,
    check_sizes,
    header,
    matches,
)
from gateway.config import CarrierAccount

AUTHORIZATION: Final = "authorization"

_BASIC: Final = re.compile(r"basic +(\S+)", re.IGNORECASE)
_V4_IN_V6: Final = "::ffff:"


def authenticate(account: CarrierAccount, request: SignedRequest) -> None:
    """Raise AuthenticationFailed unless the request has the account's credentials or an allowed address."""
    check_sizes(request)
    if account.allow and _is_allowed(account.allow, request.address):
        return
    if not account.auth_tokens:
        raise AuthenticationFailed("the address is not one of those that are allowed")
    scheme = _BASIC.fullmatch(header(request, AUTHORIZATION))
    if scheme is None:
        raise AuthenticationFailed("the authorization header is not Basic")
    credentials = base64_bytes(scheme[1], "the authorization header")
    user, colon, password = credentials.decode("utf-8", "backslashreplace").partition(":")
    if not colon:
        raise AuthenticationFailed("the authorization header holds no user and password")
    # Without a configured user any user is accepted: the token alone is the secret.
    expected_user = account.auth_id or account.account or user
    expected = [f"{expected_user}:{token.get_secret_value()}" for token in account.auth_tokens]
    if not matches([f"{user}:{password}"], expected):
        raise AuthenticationFailed("the credentials are not this account's")


def _is_allowed(networks: list[str], address: str) -> bool:
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False  # a Unix socket has no IP address
    forms = {peer}
    # A dual-stack socket reports IPv4 peers as IPv6 addresses (RFC 4291 §2.5.5.2).
    if isinstance(peer, ipaddress.IPv4Address):
        forms.add(ipaddress.IPv6Address(f"{_V4_IN_V6}{peer}"))
    elif peer.ipv4_mapped is not None:
        forms.add(peer.ipv4_mapped)
    return any(form in ipaddress.ip_network(network) for network in networks for form in forms)
