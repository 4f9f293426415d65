# SPDX-License-Identifier: BSD-2-Clause
"""Authentication by the bearer key of a request (RFC 6750 §2.1; docs/reference/public-api.md, "Keys")."""

from __future__ import annotations

import math

from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.api.framework.errors import not_private, rate_limited, too_many_unknown, unauthorized
from gateway.api.framework.operation import Access, Operation, Style
from gateway.auth.api_keys import Principal
from gateway.auth.limited_keys import LimitedKeys, TooManyOfKey, TooManyUnknownKeys


async def authenticate(request: Request, operation: Operation, keys: LimitedKeys) -> Principal | None:
    """Return the owner of the request's key; None if the operation needs no key.

    Which of the organisation's things the key may reach is decided where they are looked up.

    Raises:
        ApiError: 401 without a valid key, 429 as `identify` does.
        StoreFailed: the store did not answer.
    """
    if operation.access is Access.NONE:
        return None
    key = bearer(request.headers)
    if key is None:
        raise unauthorized(operation.unauthorized, operation.style)
    principal = await identify(request, key, keys, operation.style)
    if principal is None:
        raise unauthorized(operation.unauthorized, operation.style)
    return principal


async def identify(request: Request, key: str, keys: LimitedKeys, style: Style) -> Principal | None:
    """Return the owner of a key in the request, None if it is unknown.

    Raises:
        ApiError: 429 if the client's address has tried too many unknown keys.
        StoreFailed: the store did not answer.
    """
    try:
        return await keys.identify(key, request.client.host if request.client else "")
    except TooManyUnknownKeys as limit:
        raise too_many_unknown(math.ceil(limit.wait_s), style) from None


def charge(principal: Principal, keys: LimitedKeys, style: Style) -> None:
    """Count the request against its key. Raises ApiError (429) if the key has none left."""
    try:
        keys.charge(principal)
    except TooManyOfKey as limit:
        raise rate_limited(math.ceil(limit.wait_s), style) from None


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
