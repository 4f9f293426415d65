# SPDX-License-Identifier: BSD-2-Clause
"""Who may call: the bearer key of a request (RFC 6750 §2.1; docs/reference/public-api.md, "Keys")."""

from __future__ import annotations

import math

from starlette.datastructures import Headers

from gateway.api.framework.errors import not_private, too_many_unknown, unauthorized
from gateway.api.framework.operation import Access, Operation
from gateway.auth.api_keys import Keyring, Principal
from gateway.auth.rate_limits import FailedKeyLimiter


async def authenticate(  # noqa: PLR0917 - what there is to know of a caller
    headers: Headers,
    address: str,
    operation: Operation,
    api_keys: Keyring,
    strangers: FailedKeyLimiter,
    now: float,
) -> Principal | None:
    """Who calls, from `address`; None where the operation asks nobody. Raises ApiError, StoreFailed.

    Which organisation's things a caller may know is decided where they are looked up.
    """
    if operation.access is Access.NONE:
        return None
    key = bearer(headers)
    if key is None:
        raise unauthorized(operation.unauthorized, operation.style)
    if wait_s := strangers.retry_after_s(key, address, now):
        raise too_many_unknown(math.ceil(wait_s), operation.style)
    principal = await api_keys.identify(key)
    if principal is None:
        strangers.record_failure(key, address, now)
        raise unauthorized(operation.unauthorized, operation.style)
    strangers.record_success(key)
    return principal


def check_kind(principal: Principal, operation: Operation) -> None:
    """Raises ApiError where the operation wants a private key and this is none."""
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
