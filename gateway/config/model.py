# SPDX-License-Identifier: BSD-2-Clause
"""The settings model: every value an operator can set, with its unit, its default and its bounds.

It reads nothing by itself: `gateway.config.load` gives it the file and the environment. The
descriptions are the text of docs/configuration.md. Names, limits and regions follow public-api.md
("Media sockets", "Management").
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config import values
from gateway.config.checks import CROSS_CHECK, findings

Whole = Annotated[int, BeforeValidator(values.no_boolean)]
Seconds = Annotated[float, BeforeValidator(values.no_boolean), Field(allow_inf_nan=False)]
Wait = Annotated[Seconds, Field(gt=0, le=3600)]
Rate = Annotated[float, BeforeValidator(values.no_boolean), Field(gt=0, le=100_000, allow_inf_nan=False)]
Label = Annotated[str, AfterValidator(values.label)]
PublicKey = Annotated[str, AfterValidator(values.public_key)]
PrivateKey = Annotated[SecretStr, AfterValidator(values.private_key)]
InstanceUrl = Annotated[str, AfterValidator(values.instance_url)]
CarrierKey = Annotated[SecretStr, AfterValidator(values.carrier_key)]
BaseUrl = Annotated[str, AfterValidator(values.base_url)]
CarrierId = Annotated[str, AfterValidator(values.carrier_id)]
Ed25519Key = Annotated[str, AfterValidator(values.ed25519_key)]
Base64Secret = Annotated[SecretStr, AfterValidator(values.base64_secret)]
Network = Annotated[str, AfterValidator(values.network)]
FileName = Annotated[str, AfterValidator(values.file_name)]


class Table(BaseModel):
    """What all tables share: they do not change, and know no key but their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Server(Table):
    """`[server]`: the port, and the process behind it."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Whole = Field(
        default=7860,
        ge=0,
        le=65535,
        description="Port for HTTP and media sockets alike; 0 takes any free one.",
    )
    public_url: Annotated[str, AfterValidator(values.public_url)] | None = Field(
        default=None,
        description="The http(s) URL under which carriers reach this gateway. Signatures are over it, and it "
        "is never guessed from a request.",
    )
    tls_certificate: FileName | None = Field(
        default=None,
        description="PEM file with the certificate, and those between it and the root behind it: the port "
        "then speaks TLS. Read again on SIGHUP, and within seconds of a change, for calls to come. "
        "Left out: no TLS, for a port behind a proxy that does it.",
    )
    tls_key: FileName | None = Field(
        default=None,
        description="PEM file with the certificate's key, without a passphrase. Left out: it stands in the "
        "certificate's file.",
    )
    trusted_proxies: list[Network] = Field(
        default_factory=list,
        description="Addresses, or networks as in `10.0.0.0/8`, of proxies before this port. From them, and "
        "from nobody else, `X-Forwarded-For` says who the client is.",
    )
    region: Label = Field(
        default="us-west",
        description="The region of a host name that names none, and of agents that name none.",
    )
    workers: Whole = Field(default=1, ge=1, le=1024, description="Processes that share the port.")
    relay_batch_ms: float = Field(
        default=2.0,
        ge=0,
        le=20,
        description="Milliseconds that sound may be held back under load, so that more of it is passed on at "
        "a time; nothing is held back while the process has little to do. 0 never does.",
    )
    api_may_set_instances: bool = Field(
        default=False,
        description="Whether agents made through the API may name instances of their own. Left off, they may "
        "use only those that this file lists for the same organisation. Turned on, whoever holds a private "
        "key chooses where the gateway connects, which may be inside your network.",
    )
    drain_timeout: Seconds = Field(
        default=7200.0,
        ge=0,
        le=86400,
        description="Seconds that running calls get to finish after SIGTERM.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="How log lines look; `auto` is `console` on a terminal and `json` otherwise.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important line that is logged."
    )


class StoreSettings(Table):
    """`[store]`: what outlives a process."""

    url: Annotated[str, AfterValidator(values.store_url)] = Field(
        default="sqlite:///patchbay.db",
        description="Where sessions are kept: `sqlite:///FILE`, relative to the working directory, or "
        "`sqlite:////ABSOLUTE/FILE`. All workers share it.",
    )
    on_failure: Literal["refuse", "admit"] = Field(
        default="refuse",
        description="What becomes of new calls while the store does not answer: `refuse` them, or `admit` "
        "them with each worker counting places for itself, so that an agent may be given more calls than it "
        "has places, and a token be used once in each worker. It is all written when the store is back.",
    )

    @property
    def path(self) -> Path:
        """The SQLite file, relative to the working directory unless the URL has four slashes."""
        return Path(self.url.removeprefix(values.SQLITE))


class Region(Table):
    """`[[regions]]`: a place that agents are in."""

    code: Label = Field(description="The region's label in host names, as in `eu-central.api.example.com`.")
    display_name: str = Field(min_length=1, description="The region's name for people.")


def contract_regions() -> list[Region]:
    """The four regions of public-api.md ("Management"), which stand where none is configured."""
    return [
        Region(code="us-west", display_name="US West (Oregon)"),
        Region(code="us-east", display_name="US East (Virginia)"),
        Region(code="eu-central", display_name="Europe (Frankfurt)"),
        Region(code="ap-south", display_name="Asia Pacific (Mumbai)"),
    ]


class DailySettings(Table):
    """`[organizations.daily]`: the organisation's domain at Daily, for rooms and calls through it."""

    api_key: CarrierKey = Field(description="The domain's API key. Never printed.")
    api_url: BaseUrl = Field(
        default="https://api.daily.co/v1", description="Daily's REST; agents are told it too."
    )
    webhook_secrets: list[Base64Secret] = Field(
        default_factory=list,
        description="The `hmac` of the numbers' dial-in configuration, base64; several are valid at once, so "
        "that one can be replaced. With any, an unsigned dial-in webhook is refused.",
    )


class WhatsAppSettings(Table):
    """`[organizations.whatsapp]`: the organisation's app at Meta."""

    app_secrets: list[CarrierKey] = Field(
        default_factory=list,
        description="The app's secrets; several are valid at once. With any, an unsigned event is refused.",
    )


_OF_EVERY_CARRIER = {"carrier", "account", "api_url", "calls_per_second"}
_OF_CARRIER = {
    "twilio": {"auth_id", "auth_tokens", "signing_keys"},
    "telnyx": {"public_keys", "api_key", "connection_id"},
    "plivo": {"auth_id", "auth_tokens"},
    "exotel": {"auth_id", "auth_tokens", "allow"},
}


class CarrierAccount(Table):
    """`[[organizations.carriers]]`: an account with a carrier: what proves its calls, and calls out.

    With anything that can prove a call given (`auth_tokens`, `signing_keys`, `public_keys`, `allow`), what
    comes from that carrier for this organisation without proof is refused.
    """

    carrier: Literal["twilio", "telnyx", "plivo", "exotel"] = Field(description="The carrier.")
    account: CarrierId | None = Field(
        default=None,
        description="The account as the stream's `start` names it: Twilio's and Exotel's account SID, "
        "Plivo's auth id, Telnyx's user id. A call of another account is refused.",
    )
    auth_id: CarrierId | None = Field(
        default=None,
        description="Who calls the carrier's REST: Plivo's auth id, Exotel's API key. Left out: the account.",
    )
    auth_tokens: list[CarrierKey] = Field(
        default_factory=list,
        description="Twilio's and Plivo's auth tokens, Exotel's API token. The first calls the carrier's "
        "REST; all of them prove a call, so that one can be replaced. Never printed.",
    )
    signing_keys: list[CarrierKey] = Field(
        default_factory=list,
        description="Twilio's shared keys for webhook signatures with SHA-256. Never printed.",
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
        default=None, description="The carrier's REST, for another region. Left out: the carrier's usual one."
    )
    calls_per_second: Rate = Field(
        default=1.0,
        description="Outbound calls a second that the carrier takes; more wait in line, over all workers.",
    )

    @model_validator(mode="after")
    def _only_its_own(self) -> Self:
        given = {name for name in self.model_fields_set if getattr(self, name) not in (None, [])}
        foreign = sorted(given - _OF_EVERY_CARRIER - _OF_CARRIER[self.carrier])
        if foreign:
            raise ValueError(f"{self.carrier} has no {', '.join(foreign)}")
        return self

    @property
    def proves(self) -> bool:
        """Whether there is anything that a call can be held against."""
        return bool(self.auth_tokens or self.signing_keys or self.public_keys or self.allow)


class Organization(Table):
    """`[[organizations]]`: who owns agents, and the keys that prove it."""

    name: Label = Field(description="The organisation's name, the second half of a service host.")
    public_keys: list[PublicKey] = Field(
        default_factory=list, description="Keys (`pk_…`) that may start sessions of its agents."
    )
    private_keys: list[PrivateKey] = Field(
        default_factory=list,
        description="Keys (`sk_…`, or personal tokens `pcc_pat_…`) that may do everything. Never printed.",
    )
    daily: DailySettings | None = Field(
        default=None, description="Its domain at Daily. Without one, no room is made for a start."
    )
    whatsapp: WhatsAppSettings | None = Field(default=None, description="Its app at Meta.")
    carriers: list[CarrierAccount] = Field(
        default_factory=list, description="Its accounts with carriers: proofs of calls, and calls out."
    )
    dial_prefixes: list[Annotated[str, AfterValidator(values.number_prefix)]] = Field(
        default_factory=list,
        description="What numbers it calls may begin with, as in `+1` or `+4930`; `+` allows all. With none, "
        "no calls out: whoever gets hold of a key could otherwise dial at your cost.",
    )
    dial_per_minute: Whole = Field(
        default=10, ge=1, description="Calls out it may ask for in a minute, over all workers."
    )


class AgentSettings(Table):
    """`[[agents]]`: an agent, and the instances that run it."""

    name: Annotated[str, AfterValidator(values.agent_name)] = Field(
        description="2 to 54 characters: small letters, digits and inner hyphens. Unique within its "
        "organisation, over all regions."
    )
    organization: Label = Field(
        description="The organisation that owns it; one of `[[organizations]]` if any are listed."
    )
    region: Annotated[str, BeforeValidator(values.empty_for_none)] = Field(
        default="",
        description="The region it is in, and the only one it is reached through. Left out: the server's.",
    )
    instances: list[InstanceUrl] = Field(
        default_factory=lambda: ["http://127.0.0.1:8080"],
        min_length=1,
        description="http(s) URLs of the running copies, each a scheme, a host and a port.",
    )
    sessions_per_instance: Whole = Field(
        default=1, ge=1, description="Sessions that one instance runs at the same time."
    )
    min_agents: Whole = Field(
        default=0,
        ge=0,
        description="Instances to keep ready; no more than `max_agents`. Told to clients as it is.",
    )
    max_agents: Whole = Field(default=50, ge=1, description="Instances that may be in use at the same time.")
    max_session_duration: Whole = Field(
        default=7200,
        ge=1,
        le=14400,
        description="Seconds after which a session is ended. The hosted service takes 60 to 14400.",
    )
    media: Literal["bytes", "messages"] = Field(
        default="bytes",
        description="How the two legs are coupled. `bytes` passes everything on as it comes. `messages` "
        "looks at every message: what is none never reaches the agent, nor does the outbound track, and "
        "sound for Exotel is cut to the sizes it plays without gaps; costs about twice as much.",
    )
    websocket_auth: Literal["none", "token"] = Field(
        default="none", description="Whether a media socket must bring a token of ours: `token`, or `none`."
    )
    idle_timeout: Seconds = Field(
        default=30.0,
        gt=0,
        le=14400,
        description="Seconds of silence from the carrier's socket that end a call.",
    )
    after: Annotated[str, AfterValidator(values.tail)] = Field(
        default="hangup",
        description="What the carrier does once the stream is over, where its document comes from here: "
        "`hangup`; `redirect`, which asks again, so that a call whose gateway died comes back; a number to "
        "dial; or elements of the carrier's own XML, as they are to stand in the document.",
    )
    busy: Annotated[str, AfterValidator(values.busy)] = Field(
        default="reject",
        description="What a caller gets where no place is free, the gateway drains, or the agent is unknown: "
        "`reject`; `say TEXT`; `play URL`; `queue`, which waits and asks again; or a number to dial.",
    )
    max_returns: Whole = Field(
        default=3, ge=0, le=20, description="How often one call may come back through `redirect` or `queue`."
    )
    hold: Annotated[str, AfterValidator(values.hold)] = Field(
        default="ringback",
        description="What a caller hears until the agent's first sound, where the agent is not there at "
        "once: `ringback`, made here; `none`; or a WAV file of at most two minutes, played again and again. "
        "In a call out nobody hears ringback, since it has been answered.",
    )
    hold_tone: Literal["auto", "us", "eu", "in"] = Field(
        default="auto",
        description="Which country's ringback: `us` 440 and 480 Hz, 2 s on and 4 s off; `eu` 425 Hz, 1 s and "
        "4 s; `in` 400 Hz modulated with 25, twice 0.4 s. `auto` goes by the agent's region.",
    )
    hold_limit: Annotated[Seconds, Field(ge=0, le=3600)] = Field(
        default=5.0,
        description="Seconds that the sound goes on once the agent is connected and says nothing: some wait "
        "for the caller to speak first.",
    )
    keep_early_audio: Annotated[Seconds, Field(ge=0, le=3600)] | None = Field(
        default=None,
        description="Seconds of what the caller says before the agent is there that the agent is told then, "
        "the latest; 0 none of it. Left out: all of it, up to `max_early_bytes`. Digits are always kept.",
    )
    queue_size: Whole = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Carriers' calls that may wait, over all workers, where every place is taken; 0 refuses.",
    )
    queue_timeout: Wait = Field(default=40.0, description="Seconds that a call waits for a place.")
    overflow: Annotated[str, AfterValidator(values.overflow)] = Field(
        default="refuse",
        description="What becomes of a carrier's call for which there is no place, nor one in the line, or "
        "not in time: `refuse`; the service host of another agent of the organisation; a number, to which "
        "the carrier transfers it, where the organisation has an account; or a WAV file, played once before "
        "it is refused.",
    )
    reserve_inbound: Whole = Field(
        default=0,
        ge=0,
        description="Places that calls out leave free: one begins only where more than these are free.",
    )
    reserve_outbound: Whole = Field(
        default=0, ge=0, description="Places that all other sessions leave free for calls out."
    )
    hangup_on_agent_end: bool | None = Field(
        default=None,
        description="Whether the carrier's call is hung up when the agent ends the session, after its last "
        "sound was played; where the organisation has an account with the carrier. Left out: yes, unless "
        "`after` is a number or XML, which would then never be heard.",
    )
    max_resumes: Whole = Field(
        default=2,
        ge=0,
        le=20,
        description="How often in one call an agent whose socket is lost without a close is replaced by "
        "another; a carrier's calls only.",
    )
    resume_timeout: Wait = Field(
        default=10.0, description="Seconds in which another agent must have taken over a call."
    )
    fallback: Annotated[str, AfterValidator(values.fallback)] = Field(
        default="hangup",
        description="What becomes of a caller whose agent is lost and not replaced: `hangup`; a number, to "
        "which the carrier transfers the call, where the organisation has an account; or a WAV file, played "
        "once before the call ends.",
    )
    hide_call_id: bool = Field(
        default=False,
        description="Whether the agent is told the session's id in place of the carrier's call id, so that "
        "hanging up through the carrier when its socket closes, as Pipecat's serializers do, ends nothing. "
        "For agents whose calls are transferred.",
    )

    @property
    def service_host(self) -> str:
        """`AGENT.ORG`, by which carriers name the agent, as in "support.acme"."""
        return f"{self.name}.{self.organization}"


class NumberRoute(Table):
    """`[[numbers]]`: the agent that answers a called number when the call names none."""

    number: Annotated[str, AfterValidator(values.phone_number)] = Field(
        description="The called number in E.164 form, as in `+15559876543`."
    )
    agent: str = Field(description="The service host `AGENT.ORG` of an agent in `[[agents]]`.")


class Limits(Table):
    """`[limits]`: how long the gateway waits, and how much it takes."""

    start_timeout: Wait = Field(
        default=10.0, description="Seconds a carrier has, from the upgrade on, to send its opening messages."
    )
    agent_connect_timeout: Wait = Field(
        default=15.0, description="Seconds an agent has to accept the socket of a new session."
    )
    instance_failures: Whole = Field(
        default=3,
        ge=0,
        le=1000,
        description="Failures within 30 s, connections refused or agents lost, after which an instance gets "
        "no caller for a while, and then one to try it; an agent's only instance gets them all the same. "
        "0 never.",
    )
    reconnect_timeout: Seconds = Field(
        default=5.0,
        ge=0,
        le=60,
        description="Seconds that an agent is kept for a call whose carrier's socket is lost without a "
        "close, where the carrier may open another one. 0: a second socket is a session of its own.",
    )
    stall_timeout: Wait = Field(
        default=10.0, description="Seconds a side may stop reading before the call is ended."
    )
    close_timeout: Wait = Field(default=2.0, description="Seconds to wait for the other side's close frame.")
    max_message_bytes: Whole = Field(
        default=1048576, ge=1, description="Bytes of the longest message relayed."
    )
    max_opening_bytes: Whole = Field(
        default=65536, ge=1, description="Bytes of all that a carrier may send before its call is routed."
    )
    max_body_bytes: Whole = Field(
        default=4096, ge=1, description="Bytes of JSON in the query's `body`, decoded."
    )
    max_early_bytes: Whole = Field(
        default=262144,
        ge=1,
        description="Bytes of sound kept for each side while the other is being connected.",
    )
    session_api_timeout: Wait = Field(
        default=60.0,
        description="Seconds without a byte either way that end a request passed on by the Session API.",
    )
    requests_per_second: Rate = Field(
        default=50.0,
        description="Requests a second that one API key may make in the long run, of each worker.",
    )
    requests_burst: Whole = Field(
        default=100, ge=1, description="Requests that one API key may make at once, of each worker."
    )
    handshake_timeout: Wait = Field(
        default=10.0,
        description="Seconds a client has for its TLS handshake, and then for the head of each request.",
    )
    connections_per_address: Whole = Field(
        default=0,
        ge=0,
        description="Connections that one address (of IPv6 one /64) may have open at each worker; more are "
        "answered with 429. 0 sets no limit: carriers send all calls from a few addresses.",
    )
    calls_per_organization: Whole = Field(
        default=0,
        ge=0,
        description="Calls that all agents of one organisation may have at the same time, over all workers. "
        "0 sets no limit but the agents' places.",
    )
    upgrades_per_second: Rate = Field(
        default=1000.0,
        description="Media sockets a second that each worker takes; more are refused with 503.",
    )
    max_calls: Whole | None = Field(
        default=None,
        ge=1,
        description="Media sockets that each worker carries at the same time; more are refused with 503, so "
        "that those that run keep their pace. Left out: as many as open files allow.",
    )
    ping_interval: Seconds = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds between keep-alive pings on both legs of a call, so that no proxy between takes "
        "a quiet one for dead. An answer is not asked for. 0 sends none.",
    )
    agent_silence: Seconds = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds after which an agent that neither says anything nor answers a ping is lost; "
        "pings are sent at least three times as often. 0 never.",
    )


class Settings(BaseSettings):
    """All settings. A value of this class is consistent: what it refers to exists, once."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    server: Server = Field(default_factory=Server)
    store: StoreSettings = Field(default_factory=StoreSettings)
    regions: list[Region] = Field(default_factory=contract_regions)
    organizations: list[Organization] = Field(default_factory=list)
    agents: list[AgentSettings] = Field(default_factory=list)
    numbers: list[NumberRoute] = Field(default_factory=list)
    limits: Limits = Field(default_factory=Limits)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller gives: `load` merges file and environment, lists item by item, before."""
        return (init_settings,)

    @field_validator("regions")
    @classmethod
    def _four_for_none(cls, regions: list[Region]) -> list[Region]:
        return regions or contract_regions()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        region = {"region": self.server.region}
        agents = [agent if agent.region else agent.model_copy(update=region) for agent in self.agents]
        object.__setattr__(self, "agents", agents)  # the model is frozen from here on
        found = [
            InitErrorDetails(
                type=PydanticCustomError(CROSS_CHECK, "{words}", {"words": words}), loc=loc, input=None
            )
            for loc, words in findings(self.model_dump())
        ]
        if found:
            raise ValidationError.from_exception_data("Settings", found, hide_input=True)
        return self
