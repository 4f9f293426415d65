# SPDX-License-Identifier: BSD-2-Clause
"""`[server]`, `[store]` and `[limits]`: the port and its workers, the store, and every limit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from gateway import DISTRIBUTION
from gateway.config.values import (
    SQLITE,
    BaseUrl,
    FileName,
    Label,
    ListenHost,
    NameServer,
    Network,
    NodeSecret,
    NodeUrl,
    Origin,
    Rate,
    Seconds,
    StoreUrl,
    Table,
    Wait,
    WebsocketAuth,
    Whole,
)
from gateway.model.addresses import is_loopback
from gateway.store.redis.redis_address import StorePasswords, is_redis, parse_redis_url


class Server(Table):
    """`[server]`: the port, and the process behind it."""

    host: ListenHost = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on, or a name of one, without a port. `0.0.0.0` is all of IPv4, `::` "
        "all of IPv6 and IPv4.",
    )
    port: Whole = Field(
        default=7860,
        ge=0,
        le=65535,
        description="Port for HTTP and media sockets alike; 0 takes any free one.",
    )
    public_url: BaseUrl | None = Field(
        default=None,
        description="The http(s) URL at which carriers reach this gateway. It is part of their signatures, "
        "and never guessed from a request.",
    )
    tls_certificate: FileName | None = Field(
        default=None,
        description="PEM file with the certificate, followed by its intermediate certificates: the port then "
        "speaks TLS. Reloaded on SIGHUP, and within seconds of a change, for new connections. Left out: no "
        "TLS, for a port behind a proxy that terminates it.",
    )
    tls_key: FileName | None = Field(
        default=None,
        description="PEM file with the certificate's key, without a passphrase. Left out: the key is in the "
        "certificate's file.",
    )
    trusted_proxies: list[Network] = Field(
        default_factory=list,
        description="Addresses, or networks as in `10.0.0.0/8`, of proxies in front of this port. Only from "
        "them `X-Forwarded-For` is taken as the client's address.",
    )
    allowed_origins: list[Origin] = Field(
        default_factory=list,
        description="The web pages whose browsers may use this gateway, as in `https://app.example.com`; `*` "
        "for any. They may call `/v1/public/…` (CORS), and open media sockets without a token. Left out: no "
        "page may call the API, and a media socket's `Origin` is not looked at.",
    )
    region: Label = Field(
        default="us-west",
        description="The region of host names and of agents that name none.",
    )
    websocket_auth: WebsocketAuth | None = Field(
        default=None,
        description="How media sockets must authenticate for agents that do not say: see there. Left out: "
        "`required` if `host` is any address but this machine's loopback address, or if there is a "
        "`public_url` and the agent's organisation has an account that can authenticate; else `none`.",
    )
    workers: Whole = Field(default=1, ge=1, le=1024, description="Processes that share the port.")
    node_url: NodeUrl | None = Field(
        default=None,
        description="The internal address of this machine, as in `http://10.0.0.5:7861`, where the gateways "
        "of the other machines reach this one; it listens there as well. With `https://` it speaks TLS with "
        "`tls_certificate`, which must be for this host. Left out: commands to calls go through the store, "
        "and a call continues on this machine alone.",
    )
    node_secret: NodeSecret | None = Field(
        default=None,
        description="What the machines authenticate each other with, the same on all, as in "
        "`env:NODE_SECRET`. Left out: a secret that the first one makes, in the store.",
    )
    relay_batch_ms: float = Field(
        default=2.0,
        ge=0,
        le=20,
        description="Milliseconds that frames may be delayed under load, so that more are relayed at a time; "
        "a process with little to do delays none. 0 for no delay.",
    )
    api_may_set_instances: bool = Field(
        default=False,
        description="Whether agents made through the API may have instances of their own. If not, they may "
        "use only those that this file lists for the same organisation. If so, the holder of a private key "
        "chooses where the gateway connects, which may be inside your network.",
    )
    api_may_set_commands: bool = Field(
        default=False,
        description="Whether the API may say what the gateway runs: `command`, `cwd` and any `environment` "
        "of agents. If so, the holder of a private key runs programs on this machine, as the gateway's user.",
    )
    pool_folder: FileName = Field(
        default="patchbay-pool",
        description="The folder of this node for the instances that the gateway starts: which run, and what "
        "they print; relative to the working directory. Gateways of one machine that share a store must have "
        "the same: with another one the instances that run are not found. Made when it is needed first.",
    )
    nameservers: list[NameServer] = Field(
        default_factory=list,
        description="Addresses of the name servers that are asked for `dns://` in `instances`, as in "
        "`127.0.0.1:8600`. Left out: the system's. Other names are always the system's.",
    )
    drain_timeout: Seconds = Field(
        default=7200.0,
        ge=0,
        le=86400,
        description="Seconds that running calls may take to finish after SIGTERM.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="The format of log lines; `auto` is `console` on a terminal and `json` otherwise.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe level that is logged."
    )

    @property
    def has_public_host(self) -> bool:
        """Whether `public_url` names another host than this machine's loopback address."""
        host = urlsplit(self.public_url or "").hostname
        return host is not None and not is_loopback(host)

    @property
    def scheme(self) -> Literal["http", "https"]:
        """The scheme of the URLs by which clients reach this gateway."""
        if self.public_url is not None:
            return "https" if urlsplit(self.public_url).scheme == "https" else "http"
        return "http" if self.tls_certificate is None else "https"

    def allows_origin(self, origin: str) -> bool:
        """Return True if a page of this origin, as in the header `Origin`, is in `allowed_origins`."""
        return "*" in self.allowed_origins or origin in self.allowed_origins


class StoreSettings(Table):
    """`[store]`: what outlives a process."""

    url: StoreUrl = Field(
        default="sqlite:///patchbay.db",
        description="Where sessions are kept: `sqlite:///FILE`, relative to the working directory, or "
        "`sqlite:////ABSOLUTE/FILE`, which the workers of one machine share; or "
        "`redis://HOST:PORT/DATABASE`, with `rediss://` over TLS, which the gateways of many machines share "
        f"(`pip install '{DISTRIBUTION}[redis]'`). Several hosts, with commas, are nodes of one cluster. "
        "`redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE` names Sentinels, and the service that they "
        "watch.",
    )
    password: SecretStr | None = Field(
        default=None,
        description="The password of the Redis server, of the user in the URL if one is there: as "
        '`"env:REDIS_PASSWORD"` it is not in the file.',
    )
    sentinel_username: str | None = Field(
        default=None, description="The user of the Sentinels, if not their default one."
    )
    sentinel_password: SecretStr | None = Field(
        default=None, description="The password of the Sentinels, which have one of their own."
    )
    on_failure: Literal["refuse", "admit"] = Field(
        default="refuse",
        description="What becomes of new calls while the store does not answer: `refuse` them, or `admit` "
        "them with each worker counting slots by itself, so that an agent may get more calls than it has "
        "slots, and a token be used once in each worker. Everything is written when the store is back.",
    )
    retention_days: Whole = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days after its end for which a session is kept: then its numbers, the carrier's ids, "
        "metadata, transcript and results are blanked, and the session is removed. The totals of "
        "`/v1/usage` stay. 0 keeps everything.",
    )
    audit_days: Whole = Field(
        default=365,
        ge=0,
        le=36_500,
        description="Days for which management calls are kept (`/v1/audit`). 0 keeps everything.",
    )

    max_history: Whole = Field(
        default=100_000,
        ge=0,
        le=100_000_000,
        description="Sessions that are over, and management calls of one organisation, of which a store on "
        "Redis keeps no more, the newest: all of it is in memory there, about 2 kB a session. 0 keeps all "
        "for `retention_days` and `audit_days`.",
    )

    @model_validator(mode="after")
    def _check_passwords(self) -> StoreSettings:
        if (self.password or self.sentinel_password or self.sentinel_username) and not self.is_redis:
            raise ValueError("password, sentinel_username and sentinel_password go with a URL of Redis")
        has_sentinels = self.is_redis and parse_redis_url(self.url, self.passwords).service
        if (self.sentinel_password or self.sentinel_username) and not has_sentinels:
            raise ValueError("sentinel_username and sentinel_password go with redis+sentinel://")
        return self

    @property
    def is_redis(self) -> bool:
        """Whether the store is on a Redis server."""
        return is_redis(self.url)

    @property
    def passwords(self) -> StorePasswords:
        """The passwords of the Redis server and its Sentinels, but for one in the URL."""

        def text(secret: SecretStr | None) -> str:
            return secret.get_secret_value() if secret is not None else ""

        return StorePasswords(text(self.password), self.sentinel_username or "", text(self.sentinel_password))

    @property
    def path(self) -> Path:
        """The file of the SQLite store, relative to the working directory unless the URL has four slashes."""
        return Path(self.url.removeprefix(SQLITE))


class Limits(Table):
    """`[limits]`: how long the gateway waits, and how much it takes."""

    start_timeout: Wait = Field(
        default=10.0,
        description="Seconds from the upgrade within which a carrier must send its opening messages.",
    )
    agent_connect_timeout: Wait = Field(
        default=15.0, description="Seconds within which an agent must accept the socket of a new session."
    )
    instance_failures: Whole = Field(
        default=3,
        ge=0,
        le=1000,
        description="Failures within 30 s (refused connections and lost agents) after which an instance gets "
        "no calls for a while, and then one as a trial. An agent's only instance gets calls all the same. 0 "
        "for never.",
    )
    reconnect_timeout: Seconds = Field(
        default=5.0,
        ge=0,
        le=60,
        description="Seconds that an agent is held for a call whose carrier's socket is lost without a "
        "close, if the carrier may open another one. 0: a second socket is a session of its own.",
    )
    stall_timeout: Wait = Field(
        default=10.0, description="Seconds that a side may stop reading before the call is ended."
    )
    close_timeout: Wait = Field(default=2.0, description="Seconds to wait for the other side's close frame.")
    playback_timeout: Seconds = Field(
        default=60.0,
        ge=0,
        le=600,
        description="Seconds that a hang-up or a transfer waits at the longest until the caller has heard "
        "what the agent has said. 0: it does not wait.",
    )
    max_message_bytes: Whole = Field(
        default=1048576, ge=1, description="Bytes of the longest message relayed."
    )
    max_opening_bytes: Whole = Field(
        default=65536, ge=1, description="Bytes that a carrier may send before its call is routed."
    )
    max_body_bytes: Whole = Field(
        default=4096, ge=1, description="Bytes of JSON in the query's `body`, decoded."
    )
    max_early_bytes: Whole = Field(
        default=262144,
        ge=1,
        description="Bytes that are buffered from each side while the other is being connected.",
    )
    session_api_timeout: Wait = Field(
        default=60.0,
        description="Seconds without a byte in either direction after which a request through the Session "
        "API is ended.",
    )
    requests_per_second: Rate = Field(
        default=50.0,
        description="Requests a second that one API key may make in the long run, at each worker.",
    )
    requests_burst: Whole = Field(
        default=100, ge=1, description="Requests that one API key may make at once, at each worker."
    )
    pending_per_key: Whole = Field(
        default=1000,
        ge=1,
        description="Sessions with the transport `websocket` that one API key may have started and whose "
        "media socket has not come, over all workers; more are answered with 429. Such a session ends by "
        "itself after five minutes, and is forgotten a day later.",
    )
    json_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of a worker's time that reading the JSON bodies of one API key may take in the "
        "long run, after half a second at once; more are answered with 429.",
    )
    handshake_timeout: Wait = Field(
        default=10.0,
        description="Seconds that a client may take for its TLS handshake, and then for the head of each "
        "request.",
    )
    answer_timeout: Wait = Field(
        default=30.0,
        description="Seconds after which a client must have taken some of the answer that waits for it, at "
        "1,000 bytes a second; one that is slower is disconnected.",
    )
    unsent_bytes_per_address: Whole = Field(
        default=33554432,
        ge=4194304,
        description="Bytes of large answers, those over 64 KiB, that each worker holds for the clients of "
        "one address (of IPv6 one /64) to read; more are answered with 429.",
    )
    connections_per_address: Whole = Field(
        default=0,
        ge=0,
        description="Connections that one address (of IPv6 one /64) may have open at each worker; more are "
        "answered with 429. 0 for no limit: carriers send all calls from a few addresses.",
    )
    calls_per_organization: Whole = Field(
        default=0,
        ge=0,
        description="Calls that all agents of one organisation may have at the same time, over all workers. "
        "0 for no limit but the agents' slots.",
    )
    awaited_per_organization: Whole = Field(
        default=50,
        ge=0,
        description="Calls of one organisation whose document took their slot (`admit_at`) and whose stream "
        "has not come, over all workers. Further calls take their slot with their stream.",
    )
    upgrades_per_second: Rate = Field(
        default=1000.0,
        description="Media sockets a second that each worker accepts; more are refused with 503. Only those "
        "count that have authenticated, where that is required, and whose agent exists. How many "
        "that come to nothing each worker takes of one address is `requests_per_second` and `requests_burst` "
        "as well.",
    )
    max_calls: Whole | None = Field(
        default=None,
        ge=1,
        description="Media sockets that each worker carries at the same time; more are refused with 503, so "
        "that the running calls keep their quality. Left out: as many as open files allow.",
    )
    ping_interval: Seconds = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds between keep-alive pings on both legs of a call, so that no proxy closes a "
        "quiet one. An answer is not required. 0 for no pings.",
    )
    agent_silence: Seconds = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds after which an agent that neither sends anything nor answers a ping counts as "
        "lost; pings are sent at least three times as often. 0 for never.",
    )
