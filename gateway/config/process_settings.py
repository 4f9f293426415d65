# SPDX-License-Identifier: BSD-2-Clause
"""`[server]`, `[store]` and `[limits]`: the port and its workers, the store, and every limit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway.config.values import (
    SQLITE,
    BaseUrl,
    FileName,
    Label,
    Network,
    Rate,
    Seconds,
    StoreUrl,
    Table,
    Wait,
    Whole,
)


class Server(Table):
    """`[server]`: the port, and the process behind it."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Whole = Field(
        default=7860,
        ge=0,
        le=65535,
        description="Port for HTTP and media sockets alike; 0 takes any free one.",
    )
    public_url: BaseUrl | None = Field(
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

    url: StoreUrl = Field(
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
        """The file of the SQLite store, relative to the working directory unless the URL has four slashes."""
        return Path(self.url.removeprefix(SQLITE))


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
