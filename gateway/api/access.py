# SPDX-License-Identifier: BSD-2-Clause
"""Who may call: the bearer key of a request (RFC 6750 §2.1; public-api.md, "Keys")."""

from __future__ import annotations

import math

from starlette.datastructures import Headers

from gateway.api.keys import Keyring, Principal
from gateway.api.operation import Access, Operation
from gateway.api.refusals import not_private, too_many_unknown, unauthorized
from gateway.api.strangers import Strangers


async def caller_of(  # noqa: PLR0917 - what there is to know of a caller
    headers: Headers,
    address: str,
    operation: Operation,
    keyring: Keyring,
    strangers: Strangers,
    now: float,
) -> Principal | None:
    """Who calls, from `address`; None where the operation asks nobody. Raises Refusal, StoreFailed.

    Which organisation's things a caller may know is decided where they are looked up.
    """
    if operation.access is Access.NONE:
        return None
    key = bearer(headers)
    if key is None:
        raise unauthorized(operation.unauthorized, operation.style)
    if wait_s := strangers.wait(key, address, now):
        raise too_many_unknown(math.ceil(wait_s), operation.style)
    principal = await keyring.identify(key)
    if principal is None:
        strangers.refused(key, address, now)
        raise unauthorized(operation.unauthorized, operation.style)
    strangers.opened(key)
    return principal


def check_kind(principal: Principal, operation: Operation) -> None:
    """Raises Refusal where the operation wants a private key and this is none."""
    if operation.access is Access.PRIVATE and principal.kind != "private":
        raise not_private(operation.unauthorized, operation.style)


def bearer(headers: Headers) -> str | None:
    """The key of `Authorization: Bearer KEY`; None where there is none, or more than one."""
    given = headers.getlist("Authorization")
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key else None
