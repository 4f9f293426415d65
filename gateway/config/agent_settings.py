# SPDX-License-Identifier: BSD-2-Clause
"""`[[agents]]` and `[[numbers]]`: the agents that answer calls, and how their callers are treated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

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
from gateway.config.values import (
    AgentName,
    InstanceUrl,
    Label,
    PhoneNumber,
    Seconds,
    Table,
    Wait,
    Whole,
    empty_for_none,
)
from gateway.model.addresses import service_host
from texml.document import AfterStream, Busy, HangUp, Reject, parse_after_stream, parse_busy


class AgentSettings(Table):
    """`[[agents]]`: an agent, and the instances that run it."""

    name: AgentName = Field(
        description="2 to 54 characters: small letters, digits and inner hyphens. Unique within its "
        "organisation, over all regions."
    )
    organization: Label = Field(
        description="The organisation that owns it; one of `[[organizations]]` if any are listed."
    )
    region: Annotated[str, BeforeValidator(empty_for_none)] = Field(
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
    after: Annotated[AfterStream, ParsedText(parse_after_stream)] = Field(
        default=HangUp(),
        description="What the carrier does once the stream is over, where its document comes from here: "
        "`hangup`; `redirect`, which asks again, so that a call whose gateway died comes back; a number to "
        "dial; or elements of the carrier's own XML, as they are to stand in the document.",
    )
    busy: Annotated[Busy, ParsedText(parse_busy)] = Field(
        default=Reject(),
        description="What a caller gets where no place is free, the gateway drains, or the agent is unknown: "
        "`reject`; `say TEXT`; `play URL`; `queue`, which waits and asks again; or a number to dial.",
    )
    max_returns: Whole = Field(
        default=3, ge=0, le=20, description="How often one call may come back through `redirect` or `queue`."
    )
    hold: Annotated[Hold, ParsedText(parse_hold)] = Field(
        default=Ringback(),
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
    overflow: Annotated[Overflow, ParsedText(parse_overflow)] = Field(
        default=Refuse(),
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
    fallback: Annotated[Fallback, ParsedText(parse_fallback)] = Field(
        default=HangUp(),
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
        return service_host(self.name, self.organization)


class NumberRoute(Table):
    """`[[numbers]]`: the agent that answers a called number when the call names none."""

    number: PhoneNumber = Field(description="The called number in E.164 form, as in `+15559876543`.")
    agent: str = Field(description="The service host `AGENT.ORG` of an agent in `[[agents]]`.")
