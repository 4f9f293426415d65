# SPDX-License-Identifier: BSD-2-Clause
"""Who may open a media socket: the carrier's signature, the document's token, or one of our own.

A signature or credentials prove the carrier (carriers.md §9) where the organisation has an account that can.
A call token proves that the document which named the URL was ours. The token of agents that want one is of
public-api.md, "Media sockets".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.calls.signature import signed_upgrade
from gateway.calls.target import Target
from gateway.carriers.habits import HABITS
from gateway.carriers.proof import NotProven
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.media.upgrade import Upgrade
from gateway.sessions.call_tokens import CallClaims, looks_like_one
from gateway.sessions.store import StoreFailed
from gateway.sessions.tokens import TokenRefused, Tokens
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

_NOT_FOR_THIS_ONE = ("for another agent", "malformed")


@dataclass(frozen=True, slots=True)
class Proof:
    """A token that was taken: the agent it is for, and the session that was promised with it."""

    service_host: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What the caller has shown before its socket is opened.

    `token`: one of ours for this agent, taken. `claims`: what a call token says; not taken yet, because that
    takes the call's id. `organizations`: those for which the upgrade is proven, where somebody wants that.
    """

    token: Proof | None = None
    claims: CallClaims | None = None
    organizations: frozenset[str] = frozenset()


NOTHING: Final = Shown()


async def prove_upgrade(
    board: Switchboard, upgrade: Upgrade, target: Target, agent: AgentSettings | None
) -> Shown:
    """Judges an upgrade by all that it shows itself. `agent`: the one that the URL names.

    Raises CallEnd: unauthorized where it is not proven and can be nobody's call, store_failed.
    """
    token = bearer_token(upgrade.header("Authorization")) or target.token
    claims = None
    if token is not None and looks_like_one(token):
        claims, token = _read_claims(board.tokens, token, target.carrier, agent), None
    organizations: frozenset[str] = frozenset()
    if target.carrier in board.proving_carriers:
        organizations = _proven_for(board, upgrade, target, agent, claims)
    if claims is not None:
        return Shown(None, claims, organizations)
    taken = await redeem(token, agent, board.directory.agents, board.tokens, target.body)
    return Shown(taken, None, organizations) if taken or organizations else NOTHING


def prove_start(board: Switchboard, carrier: str, start: Start, agent: AgentSettings, shown: Shown) -> None:
    """Judges what the opening says, now that the agent is known for certain. Raises CallEnd(unauthorized)."""
    organization = agent.organization
    if carrier in board.proving_carriers:
        wanted = board.accounts.wants_proof(organization, carrier)
        if wanted and organization not in shown.organizations:
            raise CallEnd(Endings.unauthorized, f"the upgrade is not proven to be {organization}'s")
    accounts = {account.account for account in board.accounts.of(organization, carrier)}
    # A carrier that names none in its stream (carriers.md §5.2) has proven itself otherwise, or need not.
    if (
        start.account_id is not None
        and None not in accounts
        and accounts
        and start.account_id not in accounts
    ):
        raise CallEnd(Endings.unauthorized, f"the call is of an account that is not {organization}'s")
    if shown.claims is None:
        check(agent, shown.token)


def _read_claims(tokens: Tokens, token: str, carrier: str, agent: AgentSettings | None) -> CallClaims:
    if agent is None:
        raise CallEnd(Endings.unauthorized, "the token of a call goes with a URL that names its agent")
    try:
        return tokens.read_call(token, agent.service_host, agent.organization, carrier)
    except TokenRefused as refused:
        raise CallEnd(Endings.unauthorized, f"the token is refused: {refused.reason}") from None


def _proven_for(
    board: Switchboard,
    upgrade: Upgrade,
    target: Target,
    agent: AgentSettings | None,
    claims: CallClaims | None,
) -> frozenset[str]:
    """The organisations for which the upgrade is proven. Raises CallEnd where it can be no other's."""
    accounts, carrier = board.accounts, target.carrier
    if agent is not None and not accounts.wants_proof(agent.organization, carrier):
        return frozenset()
    if agent is not None and claims is not None and not HABITS[carrier].signs:
        return frozenset({agent.organization})  # its document was proven, and nothing else could be
    signed = signed_upgrade(accounts, upgrade, board.now())
    if agent is None:
        found = accounts.proven(carrier, signed)
        if not found and accounts.everybody_wants_proof(carrier):
            raise CallEnd(Endings.unauthorized, "the upgrade is not proven to be anybody's")
        return found
    try:
        accounts.prove(agent.organization, carrier, signed)
    except NotProven as refused:
        raise CallEnd(Endings.unauthorized, f"the upgrade is not proven: {refused.reason}") from None
    return frozenset({agent.organization})


def bearer_token(authorization: str) -> str | None:
    """The token of an Authorization header, None where it has none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def redeem(
    token: str | None,
    agent: AgentSettings | None,
    agents: Iterable[AgentSettings],
    tokens: Tokens,
    body: str | None,
) -> Proof | None:
    """Takes a token, which is used up by this; None where there is none to take.

    An agent that wants no token is still told the session of one that is good: it was promised that way.
    `agent`: the one the URL names. Where it names none, the token itself says which of `agents` it is for.
    Raises CallEnd: unauthorized where the agent wants a token and this is not a good one, store_failed.
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
        except TokenRefused as refused:
            if not wanted or (agent is None and refused.reason in _NOT_FOR_THIS_ONE):
                continue  # a path may end in anything where no token is asked for
            raise CallEnd(Endings.unauthorized, f"the token is refused: {refused.reason}") from None
        except StoreFailed as error:
            raise CallEnd(Endings.store_failed, str(error)) from None
        if not redeemed.fits(body):
            raise CallEnd(Endings.unauthorized, "the body is not the one the token was made with")
        return Proof(candidate.service_host, redeemed.session_id)
    return None


def check(agent: AgentSettings, proof: object) -> None:
    """Raises CallEnd(unauthorized) where the agent wants a token and there is nothing."""
    if agent.websocket_auth == "token" and proof is None:
        raise CallEnd(Endings.unauthorized, f"{agent.service_host} wants a token")
