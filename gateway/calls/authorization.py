# SPDX-License-Identifier: BSD-2-Clause
"""Authorization of media sockets: by the carrier's signature, a call token, or a media token.

A signature or credentials authenticate the carrier (docs/reference/carriers.md §9), if the organisation has
an account that can check them. A call token shows that a document of this gateway named the URL. A media
token is what agents with `websocket_auth = "token"` require (docs/reference/public-api.md, "Media sockets").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from starlette.requests import Request

from gateway.auth.call_tokens import Audience, CallClaims, is_call_token
from gateway.auth.media_tokens import MediaClaims, MediaTokens, TokenRejected
from gateway.calls.services import CallServices
from gateway.calls.target import Target
from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.config import AgentSettings, Server
from gateway.media.accept import Upgrade
from gateway.model.addresses import is_service_host, split_service_host
from gateway.model.reasons import CallEnded, Reasons
from serializers.events import Start


def signed_upgrade(accounts: CarrierAccounts, upgrade: Upgrade, now: float) -> SignedRequest:
    """Make the request whose signature is checked of an upgrade that is not answered yet.

    `now`: Unix seconds."""
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
    """Make the request whose signature is checked of a webhook. `body`: unchanged. `now`: Unix seconds."""
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


def signed_url(carrier: str, signed: SignedRequest) -> str:
    """Return, for the log, the end of a sentence with the URL that a signature was checked for.

    The most frequent fault is a public_url that is not the one at the carrier. Of the query only the names
    are named, and of a media socket's path nothing that may be a token. Empty if the carrier signs no URLs.
    """
    if not CARRIERS[carrier].profile.signs_upgrades or not signed.urls:
        return ""
    url, _, query = signed.urls[0].partition("?")
    place, media, segments = url.partition("/ws/")
    if media:
        name, *others = segments.split("/")
        safe = [part if is_service_host(part) else "…" for part in others]
        url = "/".join([f"{place}{media}{name}", *safe])
    names = "&".join(f"{pair.partition('=')[0]}=…" for pair in query.split("&"))
    return f"; its URL counts as {url}{'?' if query else ''}{names if query else ''}"[:MAX_URL_LOGGED]


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by lower-case name; the values of a repeated header are joined with commas."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined


MAX_ORIGIN_LOGGED: Final = 100
"""Characters of an origin that is not allowed."""

MAX_URL_LOGGED: Final = 500
"""Characters of a URL that a signature was checked for."""

_OTHER_AGENT: Final = ("for another agent", "malformed")
"""The reasons for which a token may still be another agent's."""


@dataclass(frozen=True, slots=True)
class TokenSession:
    """The session that a media token was made for, and its agent (AGENT.ORG).

    `claims`: the token's. It may be used already, or expired (token_session.py).
    """

    service_host: str
    claims: MediaClaims

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.claims.session_id


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of an upgrade, verified before it is answered.

    `session`: of a media token, which is not used up yet: that comes with the answer to the upgrade.
    `claims`: of a call token, which is not used up yet, because that takes the carrier's call id.
    `organizations`: those for which the carrier's signature is valid, if any organisation requires one.
    `signed_url`: of a signature that is nobody's, as `signed_url` returns it.
    """

    session: TokenSession | None = None
    claims: CallClaims | None = None
    organizations: frozenset[str] = frozenset()
    signed_url: str = ""


NO_CREDENTIALS: Final = Credentials()


def authenticate_upgrade(
    services: CallServices, upgrade: Upgrade, target: Target, agent: AgentSettings | None
) -> Credentials:
    """Check all that the upgrade shows, and return what it proves. `agent`: the one that the URL names.

    Raises CallEnded(unauthorized) if the upgrade can be no agent's call.
    """
    token = bearer_token(upgrade.header("Authorization")) or target.token
    claims = None
    if token is not None and is_call_token(token):
        claims, token = _read_claims(services.tokens, token, target.carrier, agent), None
    organizations: frozenset[str] = frozenset()
    if target.carrier in services.authenticated_carriers:
        organizations = _authenticated_organizations(services, upgrade, target, agent, claims)
    if claims is not None:
        return Credentials(None, claims, organizations)
    session = _read_token(services, token, agent, target.body, organizations)
    if session or organizations:
        return Credentials(session, None, organizations)
    _check_origin(services.settings.server, upgrade.header("Origin"))
    if agent is None and target.carrier in services.authenticated_carriers:  # the agent may want a signature
        signed = signed_upgrade(services.accounts, upgrade, services.now())
        return Credentials(signed_url=signed_url(target.carrier, signed))
    return NO_CREDENTIALS


def _check_origin(server: Server, origin: str) -> None:
    """Check the origin of the web page that opened a socket without credentials (RFC 6455 §10.2).

    A browser opens a socket for any page, also to a gateway that only this browser's machine can reach. It
    sends the page's origin; other clients send none. Raises CallEnded(unauthorized).
    """
    if origin and server.allowed_origins and not server.allows_origin(origin):
        detail = f"it brings no token, and its page {origin[:MAX_ORIGIN_LOGGED]!r} is not in allowed_origins"
        raise CallEnded(Reasons.unauthorized, detail)


def authenticate_start(
    services: CallServices, carrier: str, start: Start, agent: AgentSettings, credentials: Credentials
) -> None:
    """Check the opening against the credentials, now that the agent is known for certain.

    Raises CallEnded(unauthorized).
    """
    organization = agent.organization
    if carrier in services.authenticated_carriers:
        is_required = services.accounts.requires_authentication(organization, carrier)
        if is_required and organization not in credentials.organizations:
            detail = f"the upgrade is not proven to be {organization}'s"
            raise unproven(detail, credentials.signed_url)
    accounts = {account.account for account in services.accounts.of(organization, carrier)}
    # A carrier that names no account in its stream (docs/reference/carriers.md §5.2) is authenticated in
    # another way, or need not be.
    if (
        start.account_id is not None
        and None not in accounts
        and accounts
        and start.account_id not in accounts
    ):
        raise CallEnded(Reasons.unauthorized, f"the call is of an account that is not {organization}'s")
    if credentials.claims is None:
        _require_token(agent, credentials.session, credentials.organizations)


def as_without_credentials(
    services: CallServices,
    end: CallEnded,
    service_hosts: Iterable[str],
    check: Callable[[AgentSettings], object],
) -> CallEnded:
    """Return the refusal of a call for an agent that is not served here, as others may read it.

    A call without credentials for an agent that requires them learns which it lacks. So that nobody can find
    out the names of those agents by trying, every other name is refused in the same words. The log has the
    true reason. `service_hosts`: the agents that the call names. `check`: raises CallEnded if the call has
    not the credentials that an agent requires.
    """
    names = set(service_hosts)
    if end.reason not in (Reasons.unknown_agent, Reasons.wrong_region) or len(names) != 1:
        return end
    agent = services.agents.find(service_host := names.pop()) or _stand_in(services, service_host)
    try:
        if agent is not None:
            check(agent)
    except CallEnded as refused:
        return CallEnded(
            end.reason,
            end.detail,
            public_reason=refused.public_reason,
            public_detail=refused.public_detail,
        )
    return end


def _stand_in(services: CallServices, service_host: str) -> AgentSettings | None:
    """Return an agent of this name as it would be; None if no agent can have the name."""
    name, organization = split_service_host(service_host)
    any_is_closed = any(not agent.is_open for agent in services.agents.agents)
    try:
        agent = AgentSettings(
            name=name, organization=organization, websocket_auth="required" if any_is_closed else None
        )
    except ValidationError:
        return None
    return services.settings.with_defaults(agent)


def _read_claims(tokens: MediaTokens, token: str, carrier: str, agent: AgentSettings | None) -> CallClaims:
    if agent is None:
        raise CallEnded(Reasons.unauthorized, "the token of a call goes with a URL that names its agent")
    try:
        return tokens.read_call(token, Audience(agent.service_host, agent.organization, carrier))
    except TokenRejected as rejected:
        raise CallEnded(Reasons.unauthorized, f"the token is refused: {rejected.reason}") from None


def _authenticated_organizations(
    services: CallServices,
    upgrade: Upgrade,
    target: Target,
    agent: AgentSettings | None,
    claims: CallClaims | None,
) -> frozenset[str]:
    """Return the organisations for which the upgrade is authentic.

    Raises CallEnded if it can be no other's.
    """
    accounts, carrier = services.accounts, target.carrier
    if agent is not None and not accounts.requires_authentication(agent.organization, carrier):
        return frozenset()
    if agent is not None and claims is not None:
        signs = CARRIERS[carrier].profile.signs_upgrades
        if not signs or (
            claims.unsigned_upgrade and accounts.has_unsigned_upgrades(agent.organization, carrier)
        ):
            return frozenset({agent.organization})  # the request for its document was authenticated
    signed = signed_upgrade(accounts, upgrade, services.now())
    if agent is None:
        organizations = accounts.authenticated_organizations(carrier, signed)
        if not organizations and accounts.always_authenticated(carrier):
            raise unproven("the upgrade is not proven to be anybody's", signed_url(carrier, signed))
        return organizations
    try:
        accounts.authenticate(agent.organization, carrier, signed)
    except AuthenticationFailed as failure:
        detail = f"the upgrade is not proven: {failure.reason}"
        raise unproven(detail, signed_url(carrier, signed)) from None
    return frozenset({agent.organization})


def unproven(detail: str, url: str) -> CallEnded:
    """Return the refusal of what is not proven to be a carrier's. `url`: of `signed_url`, for the log."""
    return CallEnded(Reasons.unauthorized, f"{detail}{url}", public_detail=detail)


def bearer_token(authorization: str) -> str | None:
    """Return the token of an Authorization header, or None if it has none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _read_token(
    services: CallServices,
    token: str | None,
    agent: AgentSettings | None,
    body: str | None,
    organizations: frozenset[str],
) -> TokenSession | None:
    """Return the session of a media token, or None if there is no token that counts.

    A valid token also counts for an agent that requires none: the session was created for it. `agent`: the
    one that the URL names; if it names none, the token itself says which agent it is for. `organizations`:
    those for which the upgrade is authenticated otherwise.

    Raises CallEnded(unauthorized) if the agent requires a token and this one is not valid for it.
    """
    if agent is not None:
        _require_token(agent, token, organizations)
    if token is None:
        return None
    for candidate in (agent,) if agent is not None else services.agents.agents:
        if agent is None and candidate.is_open:
            continue
        try:
            claims = services.tokens.read(token, candidate.service_host, candidate.organization)
        except TokenRejected as rejected:
            is_required = _needs_token(candidate, organizations)
            if not is_required or (agent is None and rejected.reason in _OTHER_AGENT):
                continue  # a path may end in anything if no token is required
            raise CallEnded(Reasons.unauthorized, f"the token is refused: {rejected.reason}") from None
        if not claims.allows(body):
            raise CallEnded(Reasons.unauthorized, "the body is not the one the token was made with")
        return TokenSession(candidate.service_host, claims)
    return None


def _require_token(agent: AgentSettings, token: object, organizations: frozenset[str]) -> None:
    """Raise CallEnded(unauthorized) if the agent requires a token and there is none."""
    if token is None and _needs_token(agent, organizations):
        raise CallEnded(Reasons.unauthorized, f"{agent.service_host} wants a token")


def _needs_token(agent: AgentSettings, organizations: frozenset[str]) -> bool:
    """Return True if the agent's calls need a token, besides the authentication for `organizations`."""
    if agent.websocket_auth == "required":
        return agent.organization not in organizations
    return agent.websocket_auth == "token"
