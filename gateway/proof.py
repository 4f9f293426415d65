# SPDX-License-Identifier: BSD-2-Clause
"""Who may open a media socket: the token of agents that want one (public-api.md, "Media sockets")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.store import StoreFailed
from gateway.sessions.tokens import TokenRefused, Tokens

_NOT_FOR_THIS_ONE = ("for another agent", "malformed")


@dataclass(frozen=True, slots=True)
class Proof:
    """A token that was taken: the agent it is for, and the session that was promised with it."""

    service_host: str
    session_id: str


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
