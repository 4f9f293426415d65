# SPDX-License-Identifier: BSD-2-Clause
"""`[[organizations]]`: the owners of agents, their API keys, and their accounts with carriers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.config.values import (
    Base64Secret,
    BaseUrl,
    CarrierId,
    CarrierKey,
    DailyProperty,
    Ed25519Key,
    IceUrl,
    Label,
    Network,
    NumberPrefix,
    PrivateKey,
    PublicKey,
    Rate,
    Table,
    Whole,
)


class DailySettings(Table):
    """`[organizations.daily]`: the organisation's domain at Daily, for rooms and calls through it."""

    api_key: CarrierKey = Field(description="The domain's API key. Never printed.")
    api_url: BaseUrl = Field(
        default="https://api.daily.co/v1", description="The URL of Daily's REST API; agents get it, too."
    )
    room_properties: list[DailyProperty] = Field(
        default_factory=list,
        description="Properties of rooms that a start may set besides those that cost nothing and give "
        "nobody rights, as in `enable_recording` or `sip`. `docs/daily.md` has the list.",
    )
    token_properties: list[DailyProperty] = Field(
        default_factory=list,
        description="The same for the client's meeting token. It is never an owner's.",
    )
    webhook_secrets: list[Base64Secret] = Field(
        default_factory=list,
        description="The `hmac` of the numbers' dial-in configuration, base64; several are valid at once, so "
        "that one can be replaced. Without any, dial-in webhooks are refused.",
    )
    allow_unsigned: bool = Field(
        default=False,
        description="Whether dial-in webhooks need no signature, in place of `webhook_secrets`. Whoever "
        "knows their URL can then start sessions, and gets a room with the agent and an owner's token.",
    )

    @model_validator(mode="after")
    def _is_signed_or_not(self) -> Self:
        if self.allow_unsigned and self.webhook_secrets:
            raise ValueError("allow_unsigned goes without webhook_secrets")
        return self


class WhatsAppSettings(Table):
    """`[organizations.whatsapp]`: the organisation's app at Meta."""

    app_secrets: list[CarrierKey] = Field(
        default_factory=list,
        description="The app's secrets; several are valid at once. Without any, events are refused.",
    )
    allow_unsigned: bool = Field(
        default=False,
        description="Whether events need no signature, in place of `app_secrets`. Whoever knows their URL "
        "can then start sessions, and reaches the agent's `POST /whatsapp`.",
    )

    @model_validator(mode="after")
    def _is_signed_or_not(self) -> Self:
        if self.allow_unsigned and self.app_secrets:
            raise ValueError("allow_unsigned goes without app_secrets")
        return self


class IceServers(Table):
    """`[[organizations.ice_servers]]`: STUN or TURN servers for the organisation's WebRTC clients."""

    urls: list[IceUrl] = Field(
        min_length=1,
        description="Their URLs, as in `stun:stun.example.com:3478` or "
        "`turn:turn.example.com:3478?transport=udp`.",
    )
    username: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="The user name of all clients at TURN servers.",
    )
    credential: CarrierKey | None = Field(
        default=None, description="Its password, which every client that starts a session gets."
    )
    shared_secret: CarrierKey | None = Field(
        default=None,
        description="In place of both: the secret that the TURN server shares with us (coturn: "
        "`static-auth-secret`). Each session gets a user name and a password of its own, good as long as it "
        "may last. Never printed.",
    )

    @model_validator(mode="after")
    def _authenticates_at_turn_servers(self) -> Self:
        if (self.username is None) != (self.credential is None):
            raise ValueError("username and credential go together")
        if self.shared_secret is not None and self.username is not None:
            raise ValueError("shared_secret goes without username and credential")
        has_turn = any(url.startswith("turn") for url in self.urls)
        has_credentials = self.shared_secret is not None or self.username is not None
        if has_turn and not has_credentials:
            raise ValueError("a TURN server needs username and credential, or shared_secret")
        if has_credentials and not has_turn:
            raise ValueError("STUN servers want no credentials")
        return self


CarrierName = Literal["twilio", "telnyx", "plivo", "exotel"]

_KEYS_OF_EVERY_CARRIER = {"carrier", "account", "api_url", "calls_per_second"}
_KEYS_OF_CARRIER = {
    "twilio": {"auth_id", "auth_tokens", "signing_keys", "signs_upgrades"},
    "telnyx": {"public_keys", "api_key", "connection_id"},
    "plivo": {"auth_id", "auth_tokens", "signs_upgrades"},
    "exotel": {"auth_id", "auth_tokens", "allow"},
}


class CarrierAccount(Table):
    """`[[organizations.carriers]]`: an account with a carrier, for authentication and outbound calls.

    If any credential is set that can authenticate a call (`auth_tokens`, `signing_keys`, `public_keys`,
    `allow`), a request from that carrier for this organisation is refused unless it is authenticated.
    """

    carrier: CarrierName = Field(description="The carrier.")
    account: CarrierId | None = Field(
        default=None,
        description="The account as it is named in the stream's `start`: Twilio's and Exotel's account SID, "
        "Plivo's auth id, Telnyx's user id. A call of another account is refused.",
    )
    auth_id: CarrierId | None = Field(
        default=None,
        description="The user name at the carrier's REST API: Plivo's auth id, Exotel's API key. Left out: "
        "the account.",
    )
    auth_tokens: list[CarrierKey] = Field(
        default_factory=list,
        description="Twilio's and Plivo's auth tokens, Exotel's API token. The first is used at the "
        "carrier's REST API; each of them authenticates a call, so that one can be replaced. Never printed.",
    )
    signing_keys: list[CarrierKey] = Field(
        default_factory=list,
        description="Twilio's shared keys for webhook signatures with SHA-256. Never printed.",
    )
    signs_upgrades: bool = Field(
        default=True,
        description="Whether the sender signs the upgrade of a media socket, as Twilio and Plivo do. `false` "
        "is for one that speaks their dialect and signs its webhooks alone: the token in the document that "
        "its signed webhook was answered with then opens the media socket of that call, once. Other accounts "
        "with the carrier are not affected.",
    )
    public_keys: list[Ed25519Key] = Field(
        default_factory=list, description="Telnyx's public keys, base64; several are valid at once."
    )
    api_key: CarrierKey | None = Field(default=None, description="Telnyx's API key. Never printed.")
    connection_id: CarrierId | None = Field(
        default=None, description="Telnyx's Call Control application, which outbound calls belong to."
    )
    allow: list[Network] = Field(
        default_factory=list,
        description="Addresses, or networks as in `203.0.113.0/24`, that Exotel's requests may come from.",
    )
    api_url: BaseUrl | None = Field(
        default=None,
        description="The URL of the carrier's REST API in another region. Left out: the usual one.",
    )
    calls_per_second: Rate = Field(
        default=1.0,
        description="Outbound calls a second that the carrier accepts, over all workers; more are queued.",
    )

    @model_validator(mode="after")
    def _has_only_its_keys(self) -> Self:
        given = {name for name in self.model_fields_set if getattr(self, name) not in (None, [])}
        foreign = sorted(given - _KEYS_OF_EVERY_CARRIER - _KEYS_OF_CARRIER[self.carrier])
        if foreign:
            raise ValueError(f"{self.carrier} has no {', '.join(foreign)}")
        if not self.signs_upgrades and not self.can_authenticate:
            raise ValueError("signs_upgrades = false goes with auth_tokens: its webhooks must be signed")
        return self

    @property
    def can_authenticate(self) -> bool:
        """Whether calls of this account can be authenticated, so that unauthenticated ones are refused."""
        return bool(self.auth_tokens or self.signing_keys or self.public_keys or self.allow)


class Organization(Table):
    """`[[organizations]]`: an owner of agents, and its API keys."""

    name: Label = Field(description="The organisation's name, the second half of a service host.")
    public_keys: list[PublicKey] = Field(
        default_factory=list, description="Keys (`pk_…`) that may start sessions of its agents."
    )
    private_keys: list[PrivateKey] = Field(
        default_factory=list,
        description="Keys (`sk_…`, or personal tokens `pcc_pat_…`) that may do everything. Never printed.",
    )
    daily: DailySettings | None = Field(
        default=None,
        description="Its domain at Daily. Without one, a start cannot create a room, and dial-in webhooks "
        "are not served.",
    )
    whatsapp: WhatsAppSettings | None = Field(
        default=None, description="Its app at Meta. Without one, events of WhatsApp are not served."
    )
    ice_servers: list[IceServers] = Field(
        default_factory=list,
        description="What a start with `webrtc` answers that asks for ICE servers. Without any, one STUN "
        "server of Google's, as Pipecat's own runner answers: enough where no firewall wants a TURN server.",
    )
    carriers: list[CarrierAccount] = Field(
        default_factory=list, description="Its accounts with carriers, for authentication and outbound calls."
    )
    dial_prefixes: list[NumberPrefix] = Field(
        default_factory=list,
        description="The beginnings of numbers that it may call, as in `+1` or `+4930`; `+` allows all. With "
        "none, it makes no outbound calls: a stolen key could otherwise dial at your cost.",
    )
    dial_per_minute: Whole = Field(
        default=10,
        ge=1,
        description="Outbound calls that it may request in a minute, over all workers: dialled, "
        "transferred, or from a room at Daily.",
    )
    forward_per_minute: Whole = Field(
        default=60,
        ge=1,
        description="Callers that its agents' `overflow`, `fallback` and `busy` may send to a number in a "
        "minute, over all workers; further ones are treated as if the setting were not there. "
        "`dial_prefixes` does not apply to these numbers.",
    )
