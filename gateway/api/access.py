# SPDX-License-Identifier: BSD-2-Clause
"""Who may call: the bearer key of a request (RFC 6750 §2.1; public-api.md, "Keys")."""

from __future__ import annotations

from starlette.datastructures import Headers

from gateway.api.keys import Keyring, Principal
from gateway.api.operation import Access, Operation
from gateway.api.refusals import not_private, unauthorized


async def caller_of(headers: Headers, operation: Operation, keyring: Keyring) -> Principal | None:
    """Who calls; None where the operation asks nobody. Raises Refusal, StoreFailed.

    Which organisation's things a caller may know is decided where they are looked up.
    """
    if operation.access is Access.NONE:
        return None
    key = bearer(headers)
    principal = None if key is None else await keyring.identify(key)
    if principal is None:
        raise unauthorized(operation.unauthorized, operation.style)
    if operation.access is Access.PRIVATE and principal.kind != "private":
        raise not_private(operation.unauthorized, operation.style)
    return principal


def bearer(headers: Headers) -> str | None:
    """The key of `Authorization: Bearer KEY`; None where there is none, or more than one."""
    given = headers.getlist("Authorization")
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key else None
