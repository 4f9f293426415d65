# SPDX-License-Identifier: BSD-2-Clause
"""Daily's REST client for the start of a session: rooms and meeting tokens (docs/reference/carriers.md §6.4,
§6.5).

No room outlives its session: it expires with the session, and a room that may have been created although the
answer was lost is deleted again. Daily's answers are foreign input: only validated values are passed on.
Neither the API key nor a token appears in an error message or a log line.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import quote, urlsplit

import aiohttp
import structlog

from gateway.model.connection_errors import cause_of_failed_request

API_URL = "https://api.daily.co/v1"
TIMEOUT_S = 10.0
UNDO_TIMEOUT_S = 2.0  # in addition to the failed request, while the caller of the API waits
DELETE_ATTEMPTS = 3  # deleting is idempotent, and has the tightest of Daily's rate limits
DELETE_PAUSE_S = 0.5
MAX_ANSWER_BYTES = 262_144
MAX_RETRY_AFTER_S = 3600
MAX_DETAIL = 200  # characters of Daily's error text that are passed on

Reason = Literal["refused", "rate_limited", "broken", "unreadable", "unreachable", "timeout"]

_ROOM_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")  # docs.daily.co, POST /rooms, `name`
_HEADER_SAFE = re.compile(r"[!-~]{1,4096}")  # it is sent to the agent as a header
_ERROR_TYPE = re.compile(r"[a-z-]{1,64}")  # docs.daily.co, "Errors": `error`, stable; `info`, for people
_SIP_PREFIX = re.compile(r"(?:sip:)*", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}")

_log = structlog.get_logger(__name__)


class DailyFailed(Exception):  # noqa: N818 - named after what happened
    """Daily did not carry out a request.

    `status`: the status of the API's own answer: 504 if Daily took too long, else 502. `detail`: one sentence
    for the caller of the API, without secrets. `reason`: a label for logs and metrics. `retry_after`:
    seconds, if Daily named them. `undone`: whether it is certain that Daily did nothing.
    """

    def __init__(
        self, reason: Reason, detail: str, *, retry_after: int | None = None, undone: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.status: Literal[502, 504] = 504 if reason == "timeout" else 502
        self.detail = detail
        self.retry_after = retry_after
        self.undone = undone


@dataclass(frozen=True, slots=True)
class Room:
    """A new room. `sip_endpoint`: `sip:USER@HOST` if the room accepts SIP calls, else None.

    `url` must not be logged: anyone who has it can enter the room.
    """

    name: str
    url: str
    sip_endpoint: str | None


ANONYMOUS = "Anonymous"
"""The name that SIP gives to a caller who withholds his own (RFC 3323 §4.1.1.3)."""


def dialin_properties(display_name: str | None) -> dict[str, Any]:
    """Return the properties of a room for a telephone caller (docs/reference/carriers.md §6.4, §6.5).

    `display_name`: None for an anonymous caller.

    They are those of pipecat's `configure()`, plus the codecs, without which the call would be narrow band.
    """
    sip = {
        "display_name": display_name or ANONYMOUS,
        "video": False,
        "sip_mode": "dial-in",
        "num_endpoints": 1,
        "codecs": {"audio": ["OPUS"], "video": ["H264"]},
    }
    return {"sip": sip, "start_video_off": True}


class Daily:
    """The REST client of one organisation's domain at Daily.

    `http`: shared, and closed by its owner. `api_key`: of the domain. `timeout_s`: seconds that a method may
    take; deleting a room that may have been created takes up to UNDO_TIMEOUT_S more.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        api_key: str,
        api_url: str = API_URL,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._http = http
        self._api_key = api_key
        self._api_url = api_url.rstrip("/")
        self._timeout_s = timeout_s

    async def create_room(
        self,
        properties: Mapping[str, Any] | None,
        *,
        expires_at: float,
        name: str | None = None,
        privacy: Literal["public", "private"] = "public",
    ) -> Room:
        """Create a room (`POST /rooms`) that ends at the Unix time `expires_at` and then ejects its
        participants.

        `properties`: Daily's room properties. They take precedence over ours, but `exp` can only be earlier.
        `name`: 1 to 128 of A-Z a-z 0-9 _ -; None for a name of 122 random bits. `privacy`: "public" as in
        pipecat's `configure()`, so that anyone with the URL can join, including SIP callers; a "private" room
        requires a token. Raises DailyFailed, and ValueError for an invalid name or `exp`; then there is no
        room.
        """
        name = f"patchbay-{uuid.uuid4().hex}" if name is None else name
        if not _ROOM_NAME.fullmatch(name):
            raise ValueError("a room's name must be 1 to 128 letters, digits, hyphens and underscores")
        room_properties = {"eject_at_room_exp": True, **(properties or {})}
        room_properties["exp"] = _expiry(room_properties, expires_at)
        request = {"name": name, "privacy": privacy, "properties": room_properties}
        has_sip = bool(room_properties.get("sip"))
        try:
            return _room(await self._send("POST", "/rooms", request), has_sip=has_sip)
        except (DailyFailed, asyncio.CancelledError) as failure:
            # After a refusal there is no new room. A room of this name may be another's: it must not be
            # deleted.
            if not (isinstance(failure, DailyFailed) and failure.undone):
                await self._undo(name)
            raise

    async def create_token(
        self, room_name: str, properties: Mapping[str, Any] | None, *, expires_at: float
    ) -> str:
        """Return a meeting token (`POST /meeting-tokens`) for one room, valid until the Unix time
        `expires_at`.

        `properties`: Daily's token properties. They take precedence over ours (`is_owner` true, as required
        for dial-out and SIP transfer) except for the room's name, and `exp` can only be earlier. Raises
        DailyFailed, and ValueError for an invalid `exp`.
        """
        token_properties = {"is_owner": True, **(properties or {}), "room_name": room_name}
        token_properties["exp"] = _expiry(token_properties, expires_at)
        answer = await self._send("POST", "/meeting-tokens", {"properties": token_properties})
        token = answer.get("token")
        if not isinstance(token, str) or not _HEADER_SAFE.fullmatch(token):
            raise DailyFailed("unreadable", "Daily answered without a usable meeting token")
        return token

    async def delete_room(self, name: str) -> None:
        """Delete a room (`DELETE /rooms/{name}`), if there is one. Raises DailyFailed.

        A failed request is repeated within `timeout_s`, because no other part of the program repeats it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        for attempt in range(1, DELETE_ATTEMPTS + 1):
            left = max(deadline - loop.time(), 0.001)  # for aiohttp, 0 means no timeout
            try:
                await self._send("DELETE", f"/rooms/{quote(name, safe='')}", None, timeout_s=left)
            except DailyFailed as failure:
                pause = DELETE_PAUSE_S if failure.retry_after is None else failure.retry_after
                too_late = loop.time() + pause >= deadline
                if failure.reason in ("refused", "timeout") or attempt == DELETE_ATTEMPTS or too_late:
                    raise
                await asyncio.sleep(pause)
            else:
                return

    async def _undo(self, name: str) -> None:
        """Delete a room that may have been created. If that fails, the room ends when it expires."""
        try:
            async with asyncio.timeout(UNDO_TIMEOUT_S):
                await self.delete_room(name)
        except (DailyFailed, TimeoutError) as failure:
            reason = failure.reason if isinstance(failure, DailyFailed) else "timeout"
            _log.warning("room perhaps left at Daily until it expires", reason=reason)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Send one request and return the JSON object of the answer, empty for a 404 of a DELETE.

        Raises DailyFailed.
        """
        try:
            async with self._http.request(
                method,
                self._api_url + path,
                json=body,
                headers={"Authorization": f"Bearer {self._api_key}", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self._timeout_s if timeout_s is None else timeout_s),
                allow_redirects=False,  # the key is sent to the configured host only
            ) as response:
                raw = await _read(response)
                status, headers = response.status, response.headers
        except TimeoutError:
            raise DailyFailed("timeout", f"Daily did not answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            detail = f"Daily could not be reached: {cause_of_failed_request(error)}"
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            raise DailyFailed("unreachable", detail, undone=unsent) from None
        if method == "DELETE" and status == 404:
            return {}
        answer = _parsed(raw)
        if not 200 <= status < 300:
            self._fail(status, headers.get("Retry-After", ""), answer)
        if answer is None:
            raise DailyFailed("unreadable", f"Daily answered {status} with something that is not JSON")
        return answer

    def _fail(self, status: int, retry_after: str, answer: dict[str, Any] | None) -> NoReturn:
        detail = f"Daily answered {status}{self._explanation(answer)}"
        if status == 429:
            seconds = int(retry_after) if _SECONDS.fullmatch(retry_after) else None
            wait = None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)
            raise DailyFailed("rate_limited", f"{detail}: too many requests", retry_after=wait, undone=True)
        if 400 <= status < 500:
            raise DailyFailed("refused", detail, undone=True)
        raise DailyFailed("broken", detail)

    def _explanation(self, answer: dict[str, Any] | None) -> str:
        """Return Daily's explanation of an error in parentheses, or "" if it may contain a secret."""
        kind, info = (answer or {}).get("error"), (answer or {}).get("info")
        if not isinstance(kind, str) or not _ERROR_TYPE.fullmatch(kind):
            return ""
        if kind != "invalid-request-error" or not isinstance(info, str):
            return f" ({kind})"
        safe = info.isprintable() and self._api_key not in info and "bearer" not in info.lower()
        return f" ({kind}: {info[:MAX_DETAIL]})" if safe and info else f" ({kind})"


def _expiry(properties: Mapping[str, Any], expires_at: float) -> int:
    """Return the earlier of `expires_at` and the caller's `exp` in whole Unix seconds. Raises ValueError."""
    requested = properties.get("exp")
    if requested is None:
        return math.floor(expires_at)
    if isinstance(requested, bool) or not isinstance(requested, int | float) or not requested >= 0:
        raise ValueError("exp must be a number of Unix seconds")
    return math.floor(min(requested, expires_at))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise DailyFailed("unreadable", f"Daily answered with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(raw)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _room(answer: Mapping[str, Any], *, has_sip: bool) -> Room:
    name, url, config = answer.get("name"), answer.get("url"), answer.get("config")
    if not isinstance(name, str) or not _ROOM_NAME.fullmatch(name):
        raise DailyFailed("unreadable", "Daily answered without a usable room name")
    if not isinstance(url, str) or not _HEADER_SAFE.fullmatch(url) or not _is_web_url(url):
        raise DailyFailed("unreadable", "Daily answered without a usable room URL")
    sip_uri = config.get("sip_uri") if isinstance(config, Mapping) else None
    endpoint = sip_uri.get("endpoint") if isinstance(sip_uri, Mapping) else None
    sip_endpoint = _sip(endpoint) if isinstance(endpoint, str) else None
    if has_sip and sip_endpoint is None:
        raise DailyFailed("unreadable", "Daily answered without a SIP endpoint for the room")
    return Room(name, url, sip_endpoint)


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.netloc)


def _sip(endpoint: str) -> str | None:
    """Return `sip:USER@HOST` with one prefix: Daily sends it with and without (docs/reference/carriers.md
    §6.4).
    """
    bare = endpoint[len(_SIP_PREFIX.match(endpoint)[0]) :]  # type: ignore[index] # it always matches, if only nothing
    return f"sip:{bare}" if _HEADER_SAFE.fullmatch(bare) else None
