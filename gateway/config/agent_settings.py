# SPDX-License-Identifier: BSD-2-Clause
"""`[[agents]]` and `[[numbers]]`: the agents that answer calls, and how their callers are treated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from gateway.config.agent_command import (
    DEFAULT_PORTS,
    Command,
    Directory,
    Environment,
    Ports,
    SystemUser,
)
from gateway.config.agent_paths import (
    DEFAULT_HEALTH_INTERVAL_S,
    DEFAULT_HEALTH_PATH,
    DEFAULT_MEDIA_PATH,
    check_health_interval,
    check_health_path,
    check_media_path,
)
from gateway.config.call_handling import (
    Fallback,
    Hold,
    Overflow,
    ParsedText,
    Refuse,
    Ringback,
    parse_fallback,
    parse_hold,
    parse_overflow,
)
from gateway.config.provider_settings import Provider, with_provider_defaults
from gateway.config.source_urls import Instance
from gateway.config.values import (
    AgentName,
    Label,
    PhoneNumber,
    Seconds,
    Table,
    Wait,
    WebsocketAuth,
    Whole,
    empty_for_none,
)
from gateway.model.addresses import service_host
from texml.document import AfterStream, Busy, HangUp, Reject, parse_after_stream, parse_busy

AS_CARRIER: Final = "as-carrier"
"""The `dialect` of an agent that reads the messages of each carrier as they come."""


AgentDialectName = Literal[
    "as-carrier",
    "twilio",
    "telnyx",
    "plivo",
    "exotel",
    "vonage",
    "pcm16",
    "pipecat",
    "openai-realtime",
    "elevenlabs",
    "deepgram",
]


class AgentSettings(Table):
    """`[[agents]]`: an agent, its instances, and how its callers are treated."""

    name: AgentName = Field(
        description="2 to 54 characters: small letters, digits and inner hyphens. Unique within its "
        "organisation, over all regions."
    )
    organization: Label = Field(
        description="The organisation that owns the agent; one of `[[organizations]]` if any are listed."
    )
    region: Annotated[str, BeforeValidator(empty_for_none)] = Field(
        default="",
        description="The agent's region; it is reached through no other. Left out: the server's.",
    )
    command: Command = Field(
        default_factory=list,
        description="The program that runs one instance, and its arguments: the gateway then starts them "
        "itself ([agents.md](agents.md)), and `instances` is left out. `{port}` is the port to listen "
        "on, `{host}` for the address. Left out: the gateway starts none.",
    )
    cwd: Directory = Field(
        default="",
        description="The directory that the program runs in. Left out: the gateway's working directory.",
    )
    environment: Environment = Field(
        default_factory=dict,
        description="Variables for the program, besides those of the gateway whose names do not begin with "
        "`PATCHBAY_`; `{port}` and `{host}` as in `command`.",
    )
    user: SystemUser = Field(
        default="",
        description="The user that the program runs as, with no variables of the gateway but `PATH`, `LANG` "
        "and `TZ`; only where the gateway runs as root. Left out: the gateway's own.",
    )
    log_folder: Directory = Field(
        default="",
        description="The folder for what the instances print. Left out: the server's `pool_folder`.",
    )
    ports: Ports = Field(
        default=DEFAULT_PORTS,
        description="The ports for started instances. Agents may share them; a port in use is passed over.",
    )
    buffer: Whole | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Instances that are started beyond those that have sessions, so that the next caller "
        "finds one ready. Left out: as many as have sessions.",
    )
    cooldown: Annotated[Seconds, Field(ge=0, le=86_400)] = Field(
        default=300.0,
        description="Seconds without a session after which a started instance is stopped, if it is one too "
        "many.",
    )
    start_limit: Wait = Field(
        default=60.0,
        description="Seconds within which a started instance must be ready (`health_path`), else it is "
        "stopped. A caller waits for it as long.",
    )
    stop_grace: Annotated[Seconds, Field(ge=0, le=3600)] = Field(
        default=10.0,
        description="Seconds from SIGTERM to SIGKILL for an instance that is to stop. None has a session.",
    )
    recycle_after_sessions: Whole = Field(
        default=0,
        ge=0,
        description="Sessions after which a started instance is replaced by another; 0 for never.",
    )
    recycle_above_mb: Whole = Field(
        default=0,
        ge=0,
        description="Megabytes of memory, of all its processes, above which a started instance is replaced "
        "once it has no session; 0 for never.",
    )
    instances: list[Instance] = Field(
        default_factory=lambda: ["http://127.0.0.1:8080"],
        description="http(s) URLs of the running copies, each a scheme, a host and a port; or where they are "
        "found, as in `dns://support.default.svc:8080` or `kubernetes://default/support:8080` "
        "([agents.md](agents.md)).",
    )
    media_path: Annotated[str, AfterValidator(check_media_path)] = Field(
        default=DEFAULT_MEDIA_PATH,
        description="The path of the instances' WebSocket for calls. In it `{session}` stands for the "
        "session's id, `{carrier}` for the carrier's name or `generic`, and `{call_id}` for the carrier's id "
        "of the call, or the session's where there is none or `hide_call_id` is set. The query that the "
        "gateway passes on is added.",
    )
    health_path: Annotated[str, AfterValidator(check_health_path)] = Field(
        default=DEFAULT_HEALTH_PATH,
        description="The path at which an instance says whether it is ready: 503 says no, any other answer "
        "yes. Empty: a health check only looks whether something listens.",
    )
    health_interval: Annotated[Seconds, Field(ge=0, le=3600), AfterValidator(check_health_interval)] = Field(
        default=DEFAULT_HEALTH_INTERVAL_S,
        description="Seconds between two health checks of an instance, in each worker; at least 0.5. 0: "
        "there are none, and what becomes of calls is all that is known of it.",
    )
    sessions_per_instance: Whole = Field(
        default=1, ge=1, description="Sessions that one instance runs at the same time."
    )
    min_agents: Whole = Field(
        default=0,
        ge=0,
        description="Instances to keep ready; at most `max_agents`. Without `command` the gateway starts "
        "none, and only reports this number.",
    )
    max_agents: Whole = Field(
        default=50,
        ge=1,
        description="Instances that may be in use, or run if the gateway starts them, at the same time.",
    )
    max_session_duration: Whole = Field(
        default=7200,
        ge=1,
        le=14400,
        description="Seconds after which a session is ended. The hosted service takes 60 to 14400.",
    )
    media: Literal["bytes", "messages"] = Field(
        default="bytes",
        description="How frames are relayed. `bytes` passes everything on as it comes. `messages` parses "
        "every message: what is none never reaches the agent, nor does the outbound track, and audio for "
        "Exotel is cut to the sizes that it plays without gaps. It costs about twice as much.",
    )
    dialect: AgentDialectName = Field(
        default=AS_CARRIER,
        description="What the agent speaks on its media socket. `as-carrier`: what the call's carrier does, "
        "byte for byte. A carrier's name: that carrier's messages, whatever carrier the call comes from. "
        "`pcm16`: raw sound in binary messages, signed 16-bit little-endian. `pipecat`: Pipecat's protobuf "
        "frames. `openai-realtime`, `elevenlabs`, `deepgram`: a provider's API (`[agents.provider]`). "
        "Everything is translated, sound included ([translation.md](translation.md)).",
    )
    provider: Provider | None = Field(
        default=None, description="What a provider's API is told; for an agent whose dialect is a provider's."
    )
    audio_rate: Literal[8000, 16000, 24000] = Field(
        default=16000,
        description="Hz of the sound of an agent whose dialect is `pcm16`, `pipecat` or `vonage`, both ways.",
    )
    start_message: bool = Field(
        default=False,
        description="Whether an agent whose dialect is `pcm16` gets text messages with JSON as well: the "
        "call that begins, keys, marks that were played, and the end.",
    )
    websocket_auth: WebsocketAuth | None = Field(
        default=None,
        description="How a media socket must authenticate: `token`, with a token that the gateway issued; "
        "`required`, with such a token or as a carrier, by the organisation's account; `none`, so that "
        "whoever reaches the port can call the agent. A carrier that the organisation has an account with "
        "must authenticate in any case. Left out: the server's.",
    )
    idle_timeout: Seconds = Field(
        default=30.0,
        gt=0,
        le=14400,
        description="Seconds without a message from the carrier after which a call is ended.",
    )
    after: Annotated[AfterStream, ParsedText(parse_after_stream)] = Field(
        default=HangUp(),
        description="What the carrier does after the stream, if the gateway wrote its document: `hangup`; "
        "`redirect`, which requests another document, so that a call whose gateway died comes back; a "
        "number to dial; or elements of the carrier's own XML, which are inserted as they are.",
    )
    busy: Annotated[Busy, ParsedText(parse_busy)] = Field(
        default=Reject(),
        description="What a caller gets if no slot is free, the gateway drains, or the agent is unknown: "
        "`reject`; `say TEXT`; `play URL`; `queue`, which waits and requests another document; or a number "
        "to dial.",
    )
    max_returns: Whole = Field(
        default=3, ge=0, le=20, description="How often one call may come back by `redirect` or `queue`."
    )
    hold: Annotated[Hold, ParsedText(parse_hold)] = Field(
        default=Ringback(),
        description="What a caller hears until the agent's first audio, if the agent is not connected at "
        "once: `ringback`, which the gateway generates; `none`; or a WAV file of at most two minutes, which "
        "is repeated. An outbound call hears no ringback, because it has been answered.",
    )
    hold_tone: Literal["auto", "us", "eu", "in"] = Field(
        default="auto",
        description="Which country's ringback: `us` 440 and 480 Hz, 2 s on and 4 s off; `eu` 425 Hz, 1 s and "
        "4 s; `in` 400 Hz modulated with 25, twice 0.4 s. `auto` goes by the agent's region.",
    )
    hold_limit: Annotated[Seconds, Field(ge=0, le=3600)] = Field(
        default=5.0,
        description="Seconds that the hold audio goes on after the agent is connected, if the agent sends no "
        "audio: some agents wait for the caller to speak first.",
    )
    keep_early_audio: Annotated[Seconds, Field(ge=0, le=3600)] | None = Field(
        default=None,
        description="Seconds of the caller's audio from before the agent was connected that the agent then "
        "gets: the latest ones; 0 for none. Left out: all of it, up to `max_early_bytes`. Digits are always "
        "kept.",
    )
    queue_size: Whole = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Carriers' calls that may be queued, over all workers, if every slot is taken; 0 for no "
        "queue.",
    )
    queue_timeout: Wait = Field(default=40.0, description="Seconds that a call may be queued.")
    overflow: Annotated[Overflow, ParsedText(parse_overflow)] = Field(
        default=Refuse(),
        description="What becomes of a carrier's call that gets no slot, because the queue is full or it was "
        "queued for too long: `refuse`; the service host of another agent of the organisation; a number "
        "that the carrier transfers it to, if the organisation has an account; or a WAV file, played once "
        "before it is refused.",
    )
    reserve_inbound: Whole = Field(
        default=0,
        ge=0,
        description="Slots that outbound calls leave free: one begins only if more slots are free.",
    )
    reserve_outbound: Whole = Field(
        default=0, ge=0, description="Slots that all other sessions leave free for outbound calls."
    )
    admit_at: Literal["stream", "document"] | None = Field(
        default=None,
        description="When an incoming call takes its slot: when its `stream` has come; or when its carrier "
        "requests the call's `document`, seconds before, so that an instance can get ready meanwhile. Only a "
        "request that an account of the organisation has authenticated takes one; it is given back if no "
        "stream comes within 15 s. Left out: `document` for an agent with `command`, whose instance may have "
        "to be started, else `stream`.",
    )
    hangup_on_agent_end: bool | None = Field(
        default=None,
        description="Whether the carrier's call is hung up when the agent ends the session, after its last "
        "audio was played; needs an account with the carrier. Left out: yes, unless `after` is a number or "
        "XML, which would then have no effect.",
    )
    max_resumes: Whole = Field(
        default=2,
        ge=0,
        le=20,
        description="How often one call gets another instance after its agent was lost: its process died, "
        "its connection was reset, or it froze. Carriers' calls only.",
    )
    resume_after_reset: bool = Field(
        default=True,
        description="Whether an agent is replaced whose connection was reset although its instance still "
        "answers. `false` for agents that stop reading their WebSocket before they leave it without closing: "
        "the system resets such a connection, and the agent would be run again.",
    )
    resume_timeout: Wait = Field(
        default=10.0, description="Seconds within which another instance must take over."
    )
    fallback: Annotated[Fallback, ParsedText(parse_fallback)] = Field(
        default=HangUp(),
        description="What becomes of a caller whose agent is lost and not replaced, or could not be started "
        "(`command`): `hangup`; a number that "
        "the carrier transfers the call to, if the organisation has an account; or a WAV file, played once "
        "before the call ends.",
    )
    stop_timeout: Annotated[Seconds, Field(ge=0, le=14400)] = Field(
        default=120.0,
        description="Seconds after the end of a session from which its instance counts as free, if it was "
        "not seen to be free before: a stop, the longest duration or a lost connection does not end what the "
        "agent does. Nobody else gets its slot until then. 0 frees it at once.",
    )
    hide_call_id: bool = Field(
        default=False,
        description="Whether the agent gets the session's id in place of the carrier's call id. An agent "
        "that hangs up through the carrier when its socket closes, as Pipecat's serializers do, then ends "
        "nothing. For agents whose calls are transferred.",
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_instances(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and table.get("command") and "instances" not in table:
            return {**table, "instances": []}
        return with_provider_defaults(table) if isinstance(table, Mapping) else table

    @field_validator("instances")
    @classmethod
    def _check_instances(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if "command" not in info.data:  # it is wrong itself
            return value
        has_command = bool(info.data["command"])
        if has_command and value:
            raise ValueError("must be left out beside command, which starts them")
        if not has_command and not value:
            raise ValueError("must name at least one")
        return value

    @property
    def service_host(self) -> str:
        """The agent's address `AGENT.ORG`, as in "support.acme"."""
        return service_host(self.name, self.organization)

    @property
    def is_open(self) -> bool:
        """Whether its media sockets need no authentication, but for those of carriers with an account."""
        return self.websocket_auth in (None, "none")

    @property
    def admits_at_document(self) -> bool:
        """Whether the request for a call's document takes its slot, and not its stream."""
        return (self.admit_at or ("document" if self.command else "stream")) == "document"

    def with_defaults(self, region: str, websocket_auth: WebsocketAuth) -> AgentSettings:
        """Return the agent with these values in place of those that are not set."""
        return self.model_copy(
            update={
                "region": self.region or region,
                "websocket_auth": self.websocket_auth or websocket_auth,
            }
        )


class NumberRoute(Table):
    """`[[numbers]]`: the agent that answers a called number when the call names none."""

    number: PhoneNumber = Field(description="The called number in E.164 form, as in `+15559876543`.")
    agent: str = Field(description="The service host `AGENT.ORG` of an agent in `[[agents]]`.")
