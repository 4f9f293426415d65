# SPDX-License-Identifier: BSD-2-Clause
"""Which session a Session API URL names, where it runs, and what may go there
(docs/reference/public-api.md, "Session API").

The same for a request (gateway/api/pipecat_cloud/session_proxy.py) and for a WebSocket
(gateway/calls/session_socket.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.model.addresses import service_host
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import Store

Header = tuple[bytes, bytes]
"""Name, in small letters, and value."""

PREFIX: Final = "/v1/public/"
_NAMED: Final = 6  # "", v1, public, {agent}, sessions, {session_id}: the rest is the instance's

STARTING_POLL_S: Final = 0.05
"""How often a session that is starting is looked at: another worker may be the one that starts it."""

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
"""RFC 9110 §7.6.1; what `Connection` names comes to it."""

NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"authorization",
    b"expect",  # answered by this hop (RFC 9110 §10.1.1)
    SESSION_ID,  # ours, whatever the client says
}

_PATH: Final = re.compile(r"/(?:[!\"$&->@-\[\]-~]|%[0-9A-Fa-f]{2})*")
"""What is printable, but no backslash, which some servers take for a slash, and no broken escape."""
_QUERY: Final = re.compile(r"[!-~]*")
_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class SessionUrl:
    """`path`: as it came, still escaped, from its slash on; a path of the instance and nothing else."""

    agent: str
    session_id: str
    path: str
    query: str

    @property
    def target(self) -> str:
        """Path and query, as they stand in a request line."""
        return f"{self.path}?{self.query}" if self.query else self.path


def read_session_url(path: str, query: str) -> SessionUrl:
    """Reads a path and a query as they came, still escaped.

    Raises CallEnded: not_found for another path, bad_request for one that cannot be passed on as it is, or
    that
    has a segment which climbs, in whatever spelling: the instance's server would read it as another path.
    """
    segments = path.split("/", _NAMED)
    named = [unquote(segment) for segment in segments[:_NAMED]]
    if len(segments) <= _NAMED or (*named[:3], named[4]) != ("", "v1", "public", "sessions"):
        raise CallEnded(Reasons.not_found, "the path is /v1/public/{agent}/sessions/{session_id}/…")
    rest = f"/{segments[_NAMED]}"
    if not _PATH.fullmatch(rest) or not _QUERY.fullmatch(query):
        raise CallEnded(Reasons.bad_request, "the path or the query has characters that no URL has")
    for segment in re.split(r"[/\\]", unquote(rest, "latin-1")):
        if segment.partition(";")[0] in (".", ".."):  # some servers cut parameters off first
            raise CallEnded(Reasons.bad_request, "the path has segments that climb: . or ..")
    return SessionUrl(named[3], named[5], rest, query)


async def running_session(
    store: Store, url: SessionUrl, organization: str, *, wait_s: float
) -> SessionRecord:
    """The session, once it runs. Waits for one that is starting, `wait_s` at the most.

    Raises CallEnded: not_found for one that is over, unknown, or another organisation's or agent's, which
    looks
    the same; agent_start_timeout where it does not start. Raises StoreFailed.
    """
    try:
        async with asyncio.timeout(wait_s):
            while True:
                record = await store.session(url.session_id)
                if (
                    record is None
                    or record.state in TERMINAL
                    or record.organization != organization
                    or record.agent != service_host(url.agent, organization)
                ):
                    raise CallEnded(Reasons.not_found, "there is no such session, or it is over")
                if record.state not in (SessionState.CREATED, SessionState.STARTING):
                    return record
                await asyncio.sleep(STARTING_POLL_S)
    except TimeoutError:
        detail = f"the session does not run yet after {wait_s:g} s"
        raise CallEnded(Reasons.agent_start_timeout, detail) from None


def end_to_end(headers: Iterable[Header], dropped: frozenset[bytes]) -> list[Header]:
    """The headers that are meant for the far end (RFC 9110 §7.6.1), without those `dropped`."""
    given = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower() for name, value in given if name == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in given if name not in dropped and name not in named]


def forwarded(headers: Iterable[Header], session_id: str, request_id: str | None) -> list[tuple[str, str]]:
    """What the instance is told of a client's headers, and of us. Raises CallEnded: bad_request."""
    kept = []
    for name, value in end_to_end(headers, NOT_FORWARDED):
        if request_id is not None and name == b"x-request-id":
            continue
        try:
            kept.append((name.decode("ascii"), value.decode()))
        except UnicodeDecodeError:
            raise CallEnded(Reasons.bad_request, "a header is not UTF-8") from None
        if not is_header((name, value)):
            raise CallEnded(Reasons.bad_request, "a header has characters that no header has")
    kept.append((SESSION_ID.decode(), session_id))
    if request_id is not None:
        kept.append(("X-Request-Id", request_id))
    return kept


def is_header(header: Header) -> bool:
    """Whether name and value can stand in a header without breaking out of it (RFC 9110 §5)."""
    name, value = header
    return _TOKEN.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None
