# SPDX-License-Identifier: BSD-2-Clause
"""Who may open a media socket: the carrier's signature, the document's token, or one of our own.

A signature or credentials prove the carrier (docs/reference/carriers.md §9) where the organisation has an
account that can. A call token proves that the document which named the URL was ours. The token of agents
that want one is of docs/reference/public-api.md, "Media sockets".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.requests import Request

from gateway.auth.call_tokens import Audience, CallClaims, is_call_token
from gateway.auth.media_tokens import MediaTokens, TokenRejected
from gateway.calls.target import Target
from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.config import AgentSettings
from gateway.media.accept import Upgrade
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.services import CallServices


def signed_upgrade(accounts: CarrierAccounts, upgrade: Upgrade, now: float) -> SignedRequest:
    """An upgrade that is not answered yet. `now`: Unix seconds."""
    assert upgrade.request is not None
    return SignedRequest(
        method="GET",
        urls=accounts.urls(upgrade.request.target, "wss"),
        headers=_joined(upgrade.request.headers),
        body=b"",
        address=upgrade.address,
        now=now,
    )


def signed_request(accounts: CarrierAccounts, request: Request, body: bytes, now: float) -> SignedRequest:
    """A webhook. `body`: as it came. `now`: Unix seconds."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    return SignedRequest(
        method=request.method,
        urls=accounts.urls(f"{path}?{query}" if query else path, "https"),
        headers=_joined(request.headers.items()),
        body=body,
        address=request.client.host if request.client else "",
        now=now,
    )


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Under lower-case names; the values of a repeated one joined with commas."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


_NOT_FOR_THIS_ONE = ("for another agent", "malformed")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A token that was taken: the agent it is for, and the session that was promised with it."""

    service_host: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the caller has shown before its socket is opened.

    `token`: one of ours for this agent, taken. `claims`: what a call token says; not taken yet, because that
    takes the call's id. `organizations`: those for which the upgrade is proven, where somebody wants that.
    """

    token: Requirement | None = None
    claims: CallClaims | None = None
    organizations: frozenset[str] = frozenset()


NO_CREDENTIALS: Final = Credentials()


async def prove_upgrade(
    services: CallServices, upgrade: Upgrade, target: Target, agent: AgentSettings | None
) -> Credentials:
    """Judges an upgrade by all that it shows itself. `agent`: the one that the URL names.

    Raises CallEnded: unauthorized where it is not proven and can be nobody's call, store_failed.
    """
    token = bearer_token(upgrade.header("Authorization")) or target.token
    claims = None
    if token is not None and is_call_token(token):
        claims, token = _read_claims(services.tokens, token, target.carrier, agent), None
    organizations: frozenset[str] = frozenset()
    if target.carrier in services.authenticated_carriers:
        organizations = _proven_for(services, upgrade, target, agent, claims)
    if claims is not None:
        return Credentials(None, claims, organizations)
    taken = await redeem(token, agent, services.agents.agents, services.tokens, target.body)
    return Credentials(taken, None, organizations) if taken or organizations else NO_CREDENTIALS


def prove_start(
    services: CallServices, carrier: str, start: Start, agent: AgentSettings, shown: Credentials
) -> None:
    """Judges what the opening says, now that the agent is known for certain. Raises
    CallEnded(unauthorized).
    """
    organization = agent.organization
    if carrier in services.authenticated_carriers:
        wanted = services.accounts.requires_authentication(organization, carrier)
        if wanted and organization not in shown.organizations:
            raise CallEnded(Reasons.unauthorized, f"the upgrade is not proven to be {organization}'s")
    accounts = {account.account for account in services.accounts.of(organization, carrier)}
    # A carrier that names none in its stream (docs/reference/carriers.md §5.2) has proven itself otherwise,
    # or need not.
    if (
        start.account_id is not None
        and None not in accounts
        and accounts
        and start.account_id not in accounts
    ):
        raise CallEnded(Reasons.unauthorized, f"the call is of an account that is not {organization}'s")
    if shown.claims is None:
        check(agent, shown.token)


def _read_claims(tokens: MediaTokens, token: str, carrier: str, agent: AgentSettings | None) -> CallClaims:
    if agent is None:
        raise CallEnded(Reasons.unauthorized, "the token of a call goes with a URL that names its agent")
    try:
        return tokens.read_call(token, Audience(agent.service_host, agent.organization, carrier))
    except TokenRejected as refused:
        raise CallEnded(Reasons.unauthorized, f"the token is refused: {refused.reason}") from None


def _proven_for(
    services: CallServices,
    upgrade: Upgrade,
    target: Target,
    agent: AgentSettings | None,
    claims: CallClaims | None,
) -> frozenset[str]:
    """The organisations for which the upgrade is proven. Raises CallEnded where it can be no other's."""
    accounts, carrier = services.accounts, target.carrier
    if agent is not None and not accounts.requires_authentication(agent.organization, carrier):
        return frozenset()
    if agent is not None and claims is not None and not CARRIERS[carrier].profile.signs_upgrades:
        return frozenset({agent.organization})  # its document was proven, and nothing else could be
    signed = signed_upgrade(accounts, upgrade, services.now())
    if agent is None:
        found = accounts.authenticated_organizations(carrier, signed)
        if not found and accounts.always_authenticated(carrier):
            raise CallEnded(Reasons.unauthorized, "the upgrade is not proven to be anybody's")
        return found
    try:
        accounts.authenticate(agent.organization, carrier, signed)
    except AuthenticationFailed as refused:
        raise CallEnded(Reasons.unauthorized, f"the upgrade is not proven: {refused.reason}") from None
    return frozenset({agent.organization})


def bearer_token(authorization: str) -> str | None:
    """The token of an Authorization header, None where it has none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def redeem(
    token: str | None,
    agent: AgentSettings | None,
    agents: Iterable[AgentSettings],
    tokens: MediaTokens,
    body: str | None,
) -> Requirement | None:
    """Takes a token, which is used up by this; None where there is none to take.

    An agent that wants no token is still told the session of one that is good: it was promised that way.
    `agent`: the one the URL names. Where it names none, the token itself says which of `agents` it is for.
    Raises CallEnded: unauthorized where the agent wants a token and this is not a good one, store_failed.
    """
    if agent is not None:
        check(agent, token)
    if token is None:
        return None
    for candidate in (agent,) if agent is not None else agents:
        wanted = candidate.websocket_auth == "token"
        if not wanted and agent is None:
            continue
        try:
            redeemed = await tokens.redeem(token, candidate.service_host, candidate.organization)
        except TokenRejected as refused:
            if not wanted or (agent is None and refused.reason in _NOT_FOR_THIS_ONE):
                continue  # a path may end in anything where no token is asked for
            raise CallEnded(Reasons.unauthorized, f"the token is refused: {refused.reason}") from None
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        if not redeemed.allows(body):
            raise CallEnded(Reasons.unauthorized, "the body is not the one the token was made with")
        return Requirement(candidate.service_host, redeemed.session_id)
    return None


def check(agent: AgentSettings, proof: object) -> None:
    """Raises CallEnded(unauthorized) where the agent wants a token and there is nothing."""
    if agent.websocket_auth == "token" and proof is None:
        raise CallEnded(Reasons.unauthorized, f"{agent.service_host} wants a token")
