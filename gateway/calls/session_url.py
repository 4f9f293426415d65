# SPDX-License-Identifier: BSD-2-Clause
"""URLs of the Session API: the session that one names, and the headers that are forwarded to its instance
(docs/reference/public-api.md, "Session API").

Requests (gateway/api/pipecat_cloud/session_proxy.py) and WebSockets (session_socket.py) share it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.agents.media_socket import is_media_path
from gateway.model.addresses import service_host
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.model.session_ids import canonical_session_id
from gateway.store.interface import Store
from gateway.store.notifications import Topic

Header = tuple[bytes, bytes]
"""A header's name in lower case, and its value."""

PREFIX: Final = "/v1/public/"
_OWN_SEGMENTS: Final = 6  # "", v1, public, {agent}, sessions, {session_id}: the rest is the instance's

SESSION_ID: Final = b"x-daily-session-id"

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that concern one connection alone (RFC 9110 §7.6.1), besides those that `Connection` names."""

NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"authorization",
    b"expect",  # answered by this hop (RFC 9110 §10.1.1)
    SESSION_ID,  # set by Patchbay, never by the client
    b"cookie",  # the agents share this gateway's host (docs/decisions/0054-who-the-client-is.md)
    b"cookie2",
    b"forwarded",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
    b"cf-connecting-ipv6",
    b"fastly-client-ip",
    b"x-envoy-external-address",
    b"x-rewrite-url",
    b"client-cert",
    b"client-cert-chain",
    b"remote-user",
    b"x-remote-user",
    b"x-remote-group",
    b"x-remote-addr",
}
"""Headers of a client that do not reach the instance: those of this hop, and what only a proxy may say."""

FORWARDED_FOR: Final = "X-Forwarded-For"
FORWARDED_PROTO: Final = "X-Forwarded-Proto"

_CLAIMS: Final = (b"x-forwarded-", b"x-original-", b"x-auth-request-", b"x-ssl-client-", b"ssl-client-")
"""The beginnings of more names with which proxies tell servers who the client is, or where it went."""

OF_THE_ORIGIN: Final = frozenset(
    {
        b"set-cookie",
        b"set-cookie2",
        b"clear-site-data",
        b"strict-transport-security",
        b"alt-svc",
        b"service-worker-allowed",
        b"nel",
        b"report-to",
        b"reporting-endpoints",
    }
)
"""Headers of an answer that hold for the whole host, which is this gateway's and not one agent's."""

MAX_PATH_CHARACTERS: Final = 8000
"""Length that every server is to take (RFC 9110 §4.1); a longer path would take time to look through."""

RESERVED: Final = frozenset({"bot", "ws", "whatsapp", "readyz", "livez"})
"""Routes of an instance that only Patchbay calls (docs/reference/agent-container.md).

Through one of them a client could run bots that take no slot.
"""

_MAX_DECODINGS: Final = 5
"""A path that is percent-encoded more often counts as reserved: some servers decode more than once."""

_PATH: Final = re.compile(r"/(?:[!\"$&->@-\[\]-~]|%[0-9A-Fa-f]{2})*")
"""Printable characters without broken escapes and backslashes: some servers read a backslash as a slash."""
_QUERY: Final = re.compile(r"[!-~]*")
_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FOLDED: Final = re.compile(rb"[^a-z0-9]")
"""Characters of a header's name that a CGI-like server does not tell apart (RFC 3875 §4.1.18)."""
_SEPARATOR: Final = re.compile(r"[/\\]")
_PATH_END: Final = re.compile(r"[?#\x00]")
_BLANKS: Final = "".join(map(chr, range(0x21)))


@dataclass(frozen=True, slots=True)
class KnownClient:
    """A client as this gateway knows it by itself, whatever that says.

    `address`: as the connection or trusted proxies tell it, "" if unknown. `scheme`: of the URL, "https".
    """

    address: str
    scheme: str


@dataclass(frozen=True, slots=True)
class SessionUrl:
    """A parsed Session API URL. `path`: the part of the path for the instance, still escaped."""

    agent: str
    session_id: str
    path: str
    query: str

    @property
    def target(self) -> str:
        """Path and query for the request to the instance."""
        return f"{self.path}?{self.query}" if self.query else self.path


def read_session_url(path: str, query: str) -> SessionUrl:
    """Parse a path and a query, both still escaped.

    Raises CallEnded: not_found for another path, or if the instance could read the rest as a reserved path
    (RESERVED); bad_request if it cannot be forwarded unchanged, or if a
    segment is `.` or `..` in any spelling, because the instance's server would resolve it to another path.
    """
    if len(path) > MAX_PATH_CHARACTERS:
        raise CallEnded(Reasons.bad_request, f"the path has more than {MAX_PATH_CHARACTERS} characters")
    segments = path.split("/", _OWN_SEGMENTS)
    own = [unquote(segment) for segment in segments[:_OWN_SEGMENTS]]
    if len(segments) <= _OWN_SEGMENTS or (*own[:3], own[4]) != ("", "v1", "public", "sessions"):
        raise CallEnded(Reasons.not_found, "the path is /v1/public/{agent}/sessions/{session_id}/…")
    rest = f"/{segments[_OWN_SEGMENTS]}"
    if not _PATH.fullmatch(rest) or not _QUERY.fullmatch(query):
        raise CallEnded(Reasons.bad_request, "the path or the query has characters that no URL has")
    if _may_be(rest, _is_reserved):
        raise _reserved()
    if _may_climb(rest):
        raise CallEnded(Reasons.bad_request, "the path has segments that climb: . or ..")
    return SessionUrl(own[3], canonical_session_id(own[5]), rest, query)


def _may_climb(path: str) -> bool:
    """Return True if a segment is `.` or `..`, however often a server decodes the escaped path."""
    for _ in range(_MAX_DECODINGS):
        # Some servers cut parameters off first.
        if any(segment.partition(";")[0] in (".", "..") for segment in _SEPARATOR.split(path)):
            return True
        path = unquote(path, "latin-1")
    return False  # a path that can be decoded more often counts as reserved


def refuse_media_path(url: SessionUrl, media_paths: Iterable[str]) -> None:
    """Raise CallEnded(not_found) if the instance could read the path as that of its media socket.

    `media_paths`: every `media_path` that the session's agent may have.
    """
    if _may_be(url.path, lambda names: any(is_media_path(each, names) for each in media_paths)):
        raise _reserved()


def _reserved() -> CallEnded:
    return CallEnded(Reasons.not_found, "the path is one of those that only the gateway calls")


def _may_be(path: str, is_it: Callable[[list[str]], bool]) -> bool:
    """Return True if any server could read this escaped path as one of which `is_it` returns True.

    Servers differ in how often they decode a path, in which order they decode and split it, and in what they
    remove from it. So every number of decodings is tried.
    """
    for _ in range(_MAX_DECODINGS):
        if is_it(_names(path)) or is_it(_names(_PATH_END.split(path, maxsplit=1)[0])):
            return True
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return False
        path = decoded
    return True


def _is_reserved(names: list[str]) -> bool:
    """Return True if the path is one of RESERVED, or under `/ws`."""
    return bool(names) and names[0] in RESERVED and (len(names) == 1 or names[0] == "ws")


def _names(path: str) -> list[str]:
    """Return the segments of a decoded path, in small letters, without parameters, `.`, `..` and blanks."""
    names: list[str] = []
    for segment in _SEPARATOR.split(path.lower()):
        name = segment.partition(";")[0].strip(_BLANKS)
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    return names


async def running_session(
    store: Store, url: SessionUrl, organization: str, *, wait_s: float
) -> SessionRecord:
    """Return the session once it runs. Waits at most `wait_s` seconds for one that is starting.

    Raises CallEnded: not_found if it is over, ending, unknown, or belongs to another organisation or agent,
    without a difference; agent_start_timeout if it does not start. Raises StoreFailed.
    """
    try:
        with store.notifications.subscribe(Topic.SESSION_CHANGED, key=url.session_id, urgent=True) as changes:
            async with asyncio.timeout(wait_s):
                while True:
                    record = await store.session(url.session_id)
                    if (
                        record is None
                        or record.state in TERMINAL
                        or record.state is SessionState.ENDING
                        or record.organization != organization
                        or record.agent != service_host(url.agent, organization)
                    ):
                        raise CallEnded(Reasons.not_found, "there is no such session, or it is over")
                    if record.state not in (SessionState.CREATED, SessionState.STARTING):
                        return record
                    await changes.wait()
    except TimeoutError:
        detail = f"the session does not run yet after {wait_s:g} s"
        raise CallEnded(Reasons.agent_start_timeout, detail) from None


def end_to_end(headers: Iterable[Header], dropped: frozenset[bytes]) -> list[Header]:
    """Return the end-to-end headers (RFC 9110 §7.6.1), without those in `dropped`."""
    received = [(name.lower(), value) for name, value in headers]
    connection = {
        token.strip().lower()
        for name, value in received
        if name == b"connection"
        for token in value.split(b",")
    }
    return [(name, value) for name, value in received if name not in dropped and name not in connection]


def forwarded(
    headers: Iterable[Header], session_id: str, request_id: str | None, client: KnownClient
) -> list[tuple[str, str]]:
    """Return the headers for the instance: the client's end-to-end ones, the session's and the request's id,
    and who the client is, from this gateway alone.

    A client's header whose name differs only in punctuation from one in NOT_FORWARDED is dropped too: many
    servers do not tell `x_daily_session_id` from `x-daily-session-id`.
    `request_id`: None for a WebSocket. Raises CallEnded(bad_request) if a header is malformed.
    """
    sent = []
    for name, value in end_to_end(headers, NOT_FORWARDED):
        folded = folded_name(name)
        if folded in NOT_FORWARDED or folded.startswith(_CLAIMS):
            continue
        if request_id is not None and folded == b"x-request-id":
            continue
        try:
            sent.append((name.decode("ascii"), value.decode()))
        except UnicodeDecodeError:
            raise CallEnded(Reasons.bad_request, "a header is not UTF-8") from None
        if not is_header((name, value)):
            raise CallEnded(Reasons.bad_request, "a header has characters that no header has")
    sent.append((SESSION_ID.decode(), session_id))
    if request_id is not None:
        sent.append(("X-Request-Id", request_id))
    if client.address:
        sent.append((FORWARDED_FOR, client.address))
    sent.append((FORWARDED_PROTO, client.scheme))
    return sent


def folded_name(name: bytes) -> bytes:
    """Return a header's name, given in lower case, with a dash for each punctuation character.

    Two names that are then equal are one name to servers that hand headers over as CGI does.
    """
    return _FOLDED.sub(b"-", name)


def is_header(header: Header) -> bool:
    """Return True if name and value are well formed: they cannot inject another header (RFC 9110 §5)."""
    name, value = header
    return _TOKEN.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None
