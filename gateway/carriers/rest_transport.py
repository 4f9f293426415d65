# SPDX-License-Identifier: BSD-2-Clause
"""Sends one request to a carrier's REST API: bounded in time and size, failing with CarrierFailed alone.

A carrier's error text is foreign input. Its error code and its ordinary words are passed on; numbers, URLs,
ids and everything that was sent to the carrier are left out.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import aiohttp
from yarl import URL

from gateway.carriers.rest_interface import CarrierFailed, RestLogin, base_url_of, basic_authorization
from gateway.config import CarrierAccount
from gateway.model.connection_errors import cause_of_failed_request

CONNECT_TIMEOUT_S = 3.0
TIMEOUT_S = 10.0  # for the whole request, the connection included
MAX_ANSWER_BYTES = 262_144
MAX_RETRY_AFTER_S = 3600
MAX_DETAIL = 160
"""Characters of a carrier's error text that are passed on."""

_SECONDS = re.compile(r"[0-9]{1,9}")
_CODE = re.compile(r"[0-9]{1,6}|[A-Z][A-Z_]{1,39}")
_ORDINARY_WORD = re.compile(r"(?:[A-Z]?[a-z]{1,15}|[A-Z]{2,5})(?:[-'][a-z]{1,15})?[.,:;]?")

Error = tuple[object, object]
"""Code and text from a carrier's error answer, as they came."""


@dataclass(frozen=True, slots=True)
class RestApi:
    """A carrier's REST API, the same for all accounts.

    `name`: the carrier's name for people. `url`: what paths are appended to. `read_error`: takes code and
    text from the JSON of an error answer. `gone_codes`: the error codes that mean that the call is over; a
    404 means it too.
    """

    name: str
    url: str
    read_error: Callable[[Mapping[str, Any]], Error]
    gone_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RestAccess:
    """One account's access to the API.

    `base_url`: the account's own URL of the API. `authorization`: the header's value. `secrets`: texts that
    must not appear in any message.
    """

    base_url: str
    authorization: str
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestTimeouts:
    """Seconds that a request may take: until it has a connection, and altogether."""

    connect_s: float = CONNECT_TIMEOUT_S
    total_s: float = TIMEOUT_S


def password_access(api: RestApi, account: CarrierAccount, login: RestLogin) -> RestAccess:
    """Return the access of an account with user and password."""
    return RestAccess(
        base_url_of(account, api.url), basic_authorization(login.user, login.password), (login.password,)
    )


class RestTransport:
    """Sends requests to the REST API for one account.

    `http`: shared, and closed by its owner. `now`: Unix seconds, for `Retry-After` dates.
    """

    def __init__(
        self,
        api: RestApi,
        access: RestAccess,
        http: aiohttp.ClientSession,
        timeouts: RestTimeouts = RestTimeouts(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._base_url = access.base_url.rstrip("/")
        self._http = http
        self._authorization = access.authorization
        self._secrets = tuple(secret.lower() for secret in access.secrets)
        self._timeouts = timeouts
        self._now = now

    async def send(
        self,
        method: str,
        path: str,
        *,
        form: Iterable[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request and return the JSON object of a 2xx answer, empty if the answer has no body.

        `path`: percent-encoded. Sends `form`, or `body` as JSON, or neither. Raises CarrierFailed.
        """
        url = URL(self._base_url + path, encoded=True)
        timeouts = self._timeouts
        try:
            async with self._http.request(
                method,
                url.with_query(query) if query else url,
                data=None if form is None else aiohttp.FormData(list(form)),
                json=body,
                headers={"Authorization": self._authorization, "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(
                    total=timeouts.total_s, connect=timeouts.connect_s, sock_connect=timeouts.connect_s
                ),
                allow_redirects=False,  # the credentials go to the configured host, and nowhere else
            ) as response:
                raw = await self._read(response)
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except aiohttp.ConnectionTimeoutError:
            detail = f"{self._api.name} took no connection within {timeouts.connect_s:g} s"
            raise CarrierFailed("unreachable", detail) from None
        except TimeoutError:
            detail = f"{self._api.name} did not answer within {timeouts.total_s:g} s"
            raise CarrierFailed("timeout", detail, uncertain=True) from None
        except (aiohttp.ClientError, OSError) as error:
            detail = f"{self._api.name} could not be reached: {cause_of_failed_request(error)}"
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            raise CarrierFailed("unreachable", detail, uncertain=not unsent) from None
        answer = _parse(raw)
        if not 200 <= status < 300:
            self._fail(status, self._retry_after(retry_after), answer or {})
        if answer is None and raw.strip():
            detail = f"{self._api.name} answered {status} with something that is no JSON object"
            raise CarrierFailed("broken", detail, status=status, uncertain=True)
        return answer or {}

    def unreadable(self, missing: str) -> NoReturn:
        """Raise CarrierFailed for a 2xx answer that lacks a required part, which `missing` names."""
        raise CarrierFailed("broken", f"{self._api.name} answered without {missing}", uncertain=True)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for chunk in response.content.iter_any():
            raw += chunk
            if len(raw) > MAX_ANSWER_BYTES:
                detail = f"{self._api.name} answered with more than {MAX_ANSWER_BYTES} bytes"
                raise CarrierFailed("broken", detail, status=response.status, uncertain=True)
        return bytes(raw)

    def _fail(self, status: int, retry_after_s: int | None, answer: Mapping[str, Any]) -> NoReturn:
        code, text = self._api.read_error(answer)
        known = str(code) if isinstance(code, str | int) and _CODE.fullmatch(str(code)) else None
        detail = f"{self._api.name} answered {status}"
        if known is not None:
            detail += f", error {known}"
        if ordinary := self._ordinary_words(text):
            detail += f": {ordinary}"
        if status == 429:
            raise CarrierFailed(
                "rate_limited", detail, status=status, code=known, retry_after_s=retry_after_s
            )
        if status == 408:  # the answer does not tell whether the request had arrived completely
            raise CarrierFailed("timeout", detail, status=status, code=known, uncertain=True)
        refused = 400 <= status < 500
        raise CarrierFailed(
            "refused" if refused else "broken",
            detail,
            status=status,
            code=known,
            retry_after_s=retry_after_s,
            uncertain=not refused,
            gone=refused and (status == 404 or known in self._api.gone_codes),
        )

    def _retry_after(self, value: str) -> int | None:
        """Return the seconds of a `Retry-After` header (RFC 9110 §10.2.3), which has seconds or a date."""
        if _SECONDS.fullmatch(value):
            return min(int(value), MAX_RETRY_AFTER_S)
        try:
            at = parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError, TypeError):
            return None
        return min(max(round(at - self._now()), 0), MAX_RETRY_AFTER_S)

    def _ordinary_words(self, text: object) -> str:
        """Return the ordinary words of an error text, "…" in place of the others; "" if there are none."""
        if not isinstance(text, str) or any(secret in text.lower() for secret in self._secrets):
            return ""
        words: list[str] = []
        for word in text[: 2 * MAX_DETAIL].split():
            passed = word if _ORDINARY_WORD.fullmatch(word) or word in ("a", "A", "I") else "…"
            if passed != "…" or words[-1:] != ["…"]:
                words.append(passed)
        return " ".join(words)[:MAX_DETAIL].rstrip() if any(word != "…" for word in words) else ""


def _parse(raw: bytes) -> dict[str, Any] | None:
    """Return the JSON object, or None if the bytes are none."""
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
