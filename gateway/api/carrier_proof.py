# SPDX-License-Identifier: BSD-2-Clause
"""The proof that a webhook is a carrier's: asked of each where the organisation has an account for it."""

from __future__ import annotations

from gateway.api.operation import Context
from gateway.calls.signature import signed_request
from gateway.carriers.proof import NotProven
from gateway.errors import CallEnd, Endings


def prove_request(context: Context, carrier: str, organization: str) -> None:
    """Raises CallEnd(unauthorized), 403, where the organisation wants proof and this has none."""
    accounts = context.services.board.accounts
    if not accounts.wants_proof(organization, carrier):
        return
    signed = signed_request(accounts, context.request, context.raw_body, context.services.now())
    try:
        accounts.prove(organization, carrier, signed)
    except NotProven as refused:
        raise CallEnd(Endings.unauthorized, f"the request is not proven: {refused.reason}") from None


def prove_anybodys(context: Context, carrier: str) -> None:
    """The same where it is not known whose the call is: 403 only where there is nobody who wants no proof."""
    accounts = context.services.board.accounts
    if accounts.everybody_wants_proof(carrier):
        signed = signed_request(accounts, context.request, context.raw_body, context.services.now())
        if not accounts.proven(carrier, signed):
            raise CallEnd(Endings.unauthorized, "the request is not proven to be anybody's")
