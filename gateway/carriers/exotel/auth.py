# SPDX-License-Identifier: BSD-2-Clause
"""What Exotel can show, as it signs nothing: credentials from the URL, or its address
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


def authenticate(account: CarrierAccount, signed: SignedRequest) -> None:
    """Raises AuthenticationFailed unless it has the account's credentials, or comes from an allowed
    address.
    """
    check_sizes(signed)
    if account.allow and _is_allowed(account.allow, signed.address):
        return
    if not account.auth_tokens:
        raise AuthenticationFailed("the address is not one of those that are allowed")
    scheme = _BASIC.fullmatch(header(signed, AUTHORIZATION))
    if scheme is None:
        raise AuthenticationFailed("the authorization header is not Basic")
    shown = base64_bytes(scheme[1], "the authorization header")
    user, colon, password = shown.decode("utf-8", "backslashreplace").partition(":")
    if not colon:
        raise AuthenticationFailed("the authorization header holds no user and password")
    known = account.auth_id or account.account
    # Where no key is configured there is nothing to compare it with; the token alone is the secret.
    expected = [f"{known or user}:{token.get_secret_value()}" for token in account.auth_tokens]
    if not matches([f"{user}:{password}"], expected):
        raise AuthenticationFailed("the credentials are not this account's")


def _is_allowed(networks: list[str], address: str) -> bool:
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False  # a socket without an address
    forms = {peer}
    # A socket for both families shows IPv4 peers as IPv6 (RFC 4291 §2.5.5.2).
    if isinstance(peer, ipaddress.IPv4Address):
        forms.add(ipaddress.IPv6Address(f"{_V4_IN_V6}{peer}"))
    elif peer.ipv4_mapped is not None:
        forms.add(peer.ipv4_mapped)
    return any(form in ipaddress.ip_network(network) for network in networks for form in forms)
