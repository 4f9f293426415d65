# SPDX-License-Identifier: BSD-2-Clause
"""One request to a carrier's REST and its answer: bounded in time and size, or one clear CarrierFailed.

What a carrier answers is another's text. Of an error, its code and its plain words go on: never a number, a
URL, an id or whatever else could be somebody's, and never what we sent.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import aiohttp
from yarl import URL

from gateway.carriers.rest_interface import CarrierFailed, base_of, basic, login_of
from gateway.config import CarrierAccount

CONNECT_TIMEOUT_S = 3.0
TIMEOUT_S = 10.0  # all of it, the connection included
MAX_ANSWER_BYTES = 262_144
MAX_RETRY_AFTER_S = 3600
MAX_WORDS = 160

_SECONDS = re.compile(r"[0-9]{1,9}")
_CODE = re.compile(r"[0-9]{1,6}|[A-Z][A-Z_]{1,39}")
_PLAIN = re.compile(r"(?:[A-Z]?[a-z]{1,15}|[A-Z]{2,5})(?:[-'][a-z]{1,15})?[.,:;]?")

Error = tuple[object, object]
"""What a carrier's error answer says: its code, its text."""


class RestRequest:
    """The way to one account's REST.

    `carrier`: its name for people. `base`: URL that paths are put behind. `http`: shared, closed by its
    owner. `authorization`: the header's value. `secrets`: what no words may hold. `read_error`: finds
    code and text in an error's JSON. `gone`: the error codes that mean that the call is over; a 404 does
    too. `now`: Unix seconds.
    """

    def __init__(
        self,
        carrier: str,
        base: str,
        http: aiohttp.ClientSession,
        authorization: str,
        *,
        secrets: Collection[str],
        read_error: Callable[[Mapping[str, Any]], Error],
        gone: Collection[str] = (),
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._carrier = carrier
        self._base = base.rstrip("/")
        self._http = http
        self._authorization = authorization
        self._secrets = tuple(secret.lower() for secret in secrets)
        self._read_error = read_error
        self._gone = frozenset(gone)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._now = now

    async def ask(
        self,
        method: str,
        path: str,
        *,
        form: Iterable[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object of a 2xx answer, empty where there is no body. `path`: encoded already.

        Sends `form` or `body` (JSON), or neither. Raises CarrierFailed.
        """
        url = URL(self._base + path, encoded=True)
        try:
            async with self._http.request(
                method,
                url.with_query(query) if query else url,
                data=None if form is None else aiohttp.FormData(list(form)),
                json=body,
                headers={"Authorization": self._authorization, "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout_s,
                    connect=self._connect_timeout_s,
                    sock_connect=self._connect_timeout_s,
                ),
                allow_redirects=False,  # the credentials go to the configured host, and nowhere else
            ) as response:
                raw = await self._read(response)
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except aiohttp.ConnectionTimeoutError:
            detail = f"{self._carrier} took no connection within {self._connect_timeout_s:g} s"
            raise CarrierFailed("unreachable", detail) from None
        except TimeoutError:
            detail = f"{self._carrier} did not answer within {self._timeout_s:g} s"
            raise CarrierFailed("timeout", detail, uncertain=True) from None
        except (aiohttp.ClientError, OSError) as error:
            # The class alone: an error's text may hold what was sent.
            detail = f"{self._carrier} could not be reached: {type(error).__name__}"
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            raise CarrierFailed("unreachable", detail, uncertain=not unsent) from None
        answer = _parsed(raw)
        if not 200 <= status < 300:
            self._fail(status, self._wait(retry_after), answer or {})
        if answer is None and raw.strip():
            detail = f"{self._carrier} answered {status} with something that is no JSON object"
            raise CarrierFailed("broken", detail, status=status, uncertain=True)
        return answer or {}

    def unreadable(self, missing: str) -> NoReturn:
        """Says that a 2xx answer lacks what it must have."""
        raise CarrierFailed("broken", f"{self._carrier} answered without {missing}", uncertain=True)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for chunk in response.content.iter_any():
            raw += chunk
            if len(raw) > MAX_ANSWER_BYTES:
                detail = f"{self._carrier} answered with more than {MAX_ANSWER_BYTES} bytes"
                raise CarrierFailed("broken", detail, status=response.status, uncertain=True)
        return bytes(raw)

    def _fail(self, status: int, wait: int | None, answer: Mapping[str, Any]) -> NoReturn:
        code, text = self._read_error(answer)
        known = str(code) if isinstance(code, str | int) and _CODE.fullmatch(str(code)) else None
        detail = f"{self._carrier} answered {status}"
        if known is not None:
            detail += f", error {known}"
        if told := self._told(text):
            detail += f": {told}"
        if status == 429:
            raise CarrierFailed("rate_limited", detail, status=status, code=known, retry_after_s=wait)
        if status == 408:  # whether it gave up before or after it had everything, it does not say
            raise CarrierFailed("timeout", detail, status=status, code=known, uncertain=True)
        if 400 <= status < 500:
            gone = status == 404 or known in self._gone
            raise CarrierFailed("refused", detail, status=status, code=known, retry_after_s=wait, gone=gone)
        raise CarrierFailed("broken", detail, status=status, code=known, retry_after_s=wait, uncertain=True)

    def _wait(self, retry_after: str) -> int | None:
        """Seconds to wait, of RFC 9110 §10.2.3: seconds, or a date."""
        if _SECONDS.fullmatch(retry_after):
            return min(int(retry_after), MAX_RETRY_AFTER_S)
        try:
            at = parsedate_to_datetime(retry_after).timestamp()
        except (ValueError, OverflowError, TypeError):
            return None
        return min(max(round(at - self._now()), 0), MAX_RETRY_AFTER_S)

    def _told(self, text: object) -> str:
        """The plain words of the carrier's own account; "…" for all else."""
        if not isinstance(text, str) or any(secret in text.lower() for secret in self._secrets):
            return ""
        told: list[str] = []
        for word in text[: 2 * MAX_WORDS].split():
            plain = word if _PLAIN.fullmatch(word) or word in ("a", "A", "I") else "…"
            if plain != "…" or told[-1:] != ["…"]:
                told.append(plain)
        return " ".join(told)[:MAX_WORDS].rstrip() if any(word != "…" for word in told) else ""


def with_password(
    carrier: str,
    account: CarrierAccount,
    api_url: str,
    http: aiohttp.ClientSession,
    *,
    read_error: Callable[[Mapping[str, Any]], Error],
    gone: Collection[str] = (),
    timeout_s: float,
) -> RestRequest:
    """To an account that is asked with user and password, at its own `api_url` or else this one.

    The rest as in RestRequest. Raises CredentialsMissing.
    """
    _, user, password = login_of(account)
    return RestRequest(
        carrier,
        base_of(account, api_url),
        http,
        basic(user, password),
        secrets=[password],
        read_error=read_error,
        gone=gone,
        timeout_s=timeout_s,
    )


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
