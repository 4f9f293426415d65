# SPDX-License-Identifier: BSD-2-Clause
"""Authentication by the bearer key of a request (RFC 6750 §2.1; docs/reference/public-api.md, "Keys")."""

from __future__ import annotations

import math

from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.api.framework.errors import not_private, too_many_unknown, unauthorized
from gateway.api.framework.operation import Access, Operation
from gateway.auth.api_keys import Keyring, Principal
from gateway.auth.rate_limits import FailedKeyLimiter


async def authenticate(
    request: Request,
    operation: Operation,
    api_keys: Keyring,
    failed_key_limiter: FailedKeyLimiter,
    now: float,
) -> Principal | None:
    """Return the owner of the request's key; None if the operation needs no key. `now`: Unix seconds.

    Which of the organisation's things the key may reach is decided where they are looked up.

    Raises:
        ApiError: 401 without a valid key, 429 if the client's address has tried too many unknown keys.
        StoreFailed: the store did not answer.
    """
    if operation.access is Access.NONE:
        return None
    key = bearer(request.headers)
    if key is None:
        raise unauthorized(operation.unauthorized, operation.style)
    address = request.client.host if request.client else ""
    if wait_s := failed_key_limiter.retry_after_s(key, address, now):
        raise too_many_unknown(math.ceil(wait_s), operation.style)
    principal = await api_keys.identify(key)
    if principal is None:
        failed_key_limiter.record_failure(key, address, now)
        raise unauthorized(operation.unauthorized, operation.style)
    failed_key_limiter.record_success(key)
    return principal


def check_kind(principal: Principal, operation: Operation) -> None:
    """Raise ApiError if the operation needs a private key and the principal's is public."""
    if operation.access is Access.PRIVATE and principal.kind != "private":
        raise not_private(operation.unauthorized, operation.style)


def bearer(headers: Headers) -> str | None:
    """Return the key of `Authorization: Bearer KEY`; None if there is no such header, or several."""
    values = headers.getlist("Authorization")
    if len(values) != 1:
        return None
    scheme, _, key = values[0].partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key else None
