# SPDX-License-Identifier: BSD-2-Clause
"""The carrier's way from a call to its media stream: it asks a URL for the call's document, and does what
that says (docs/reference/carriers.md §2.4, §3.4, §4.4, §5.3).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from yarl import URL

from gateway.model.reasons import status_phrase
from gateway.simulator.call_document import DocumentUnusableError, FetchNext, OpenStream, Wait, steps
from gateway.simulator.call_plan import CallPlan
from gateway.simulator.call_signing import Fields, as_fields
from gateway.simulator.carrier_profiles import PROFILES, Ids
from gateway.simulator.connection_trouble import trouble
from gateway.simulator.dial_url import body_as_query
from gateway.simulator.gateway_address import GatewayAddress

MAX_DOCUMENTS: Final = 10
MAX_PAUSE_S: Final = 10.0
MAX_BODY_CHARACTERS: Final = 200
"""How much of an HTTP error's body is repeated."""

FORM: Final = "application/x-www-form-urlencoded"


class CallRefusedError(Exception):
    """The call has got no stream. `status`: of the HTTP answer that refused it, None if there was none."""

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


def fetches_document(url: str) -> bool:
    """Return True if a call begins with its document, and not with its media socket."""
    return url.lower().startswith(("http://", "https://"))


async def follow_documents(plan: CallPlan, ids: Ids) -> CallPlan:
    """Fetch the call's document, and those that it leads to. Return the plan of the stream that they name.

    Raises CallRefusedError.
    """
    try:
        step = FetchNext(_first_url(plan), is_get=plan.carrier == "exotel")
    except ValueError as error:
        raise CallRefusedError(f"not a URL: {error}") from None
    address = GatewayAddress(plan.url, plan.public_url)
    timeout = aiohttp.ClientTimeout(total=plan.connect_timeout)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        for _ in range(MAX_DOCUMENTS):
            text = await _fetch(http, plan, address, step, ids)
            found = await _carry_out(plan.carrier, text, address.public(step.url))
            if isinstance(found, OpenStream):
                stream = replace(plan, url=found.url, parameters=found.parameters, given_url=plan.url)
                return replace(stream, agent=None, body=None)
            step = found
    raise CallRefusedError(f"more than {MAX_DOCUMENTS} documents send the call to the next one")


async def _carry_out(carrier: str, text: str, url: str) -> OpenStream | FetchNext:
    try:
        for step in steps(carrier, text, url):
            if not isinstance(step, Wait):
                return step
            await asyncio.sleep(min(step.seconds, MAX_PAUSE_S))
    except DocumentUnusableError as error:
        raise CallRefusedError(str(error)) from None
    raise AssertionError("a document without an end")


def _first_url(plan: CallPlan) -> str:
    """Return the document's URL with what the plan adds to its query: agent, body, custom parameters."""
    parts = urlsplit(plan.url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    added = dict(plan.parameters)
    if plan.agent is not None and not {"agent", "serviceHost"} & query.keys():
        name, _, organization = plan.agent.partition(".")
        added |= {"agent": name, "org": organization}
    if plan.body is not None:
        added["body"] = body_as_query(plan.body)
    joined = "&".join(filter(None, (parts.query, urlencode(added))))
    return parts._replace(query=joined, fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()


def _fields(plan: CallPlan, ids: Ids) -> Fields:
    """Return what the carrier tells of an incoming call."""
    profile = PROFILES[plan.carrier]
    caller, called = plan.from_number or profile.from_number, plan.to_number or profile.to_number
    match plan.carrier:
        case "plivo":  # which writes numbers without the plus sign
            caller, called = caller.removeprefix("+"), called.removeprefix("+")
            named: list[tuple[str, str | None]] = [("CallUUID", ids.call_id), ("Event", "StartApp")]
        case "exotel":
            pairs = [("CallSid", ids.call_id), ("CallFrom", caller), ("CallTo", called)]
            return as_fields([*pairs, ("Direction", "incoming"), ("CallType", "call-attempt")])
        case "telnyx":
            named = [("CallSid", ids.call_id), ("CallSidLegacy", ids.call_id), ("AccountSid", ids.account_id)]
            named += [("CallerId", caller), ("CallingPartyType", "pstn")]
        case _:
            named = [("CallSid", ids.call_id), ("AccountSid", ids.account_id), ("ApiVersion", "2010-04-01")]
    named += [("From", caller), ("To", called), ("Direction", "inbound"), ("CallStatus", "ringing")]
    return as_fields(named)


async def _fetch(
    http: aiohttp.ClientSession, plan: CallPlan, address: GatewayAddress, step: FetchNext, ids: Ids
) -> str:
    """Return a document. Raises CallRefusedError."""
    fields = _fields(plan, ids)
    url, body = step.url, b""
    if step.is_get:
        url = f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(fields)}"
    else:
        body = urlencode(fields).encode()
    reached = address.reach(url)
    headers = dict(plan.headers) | ({"Content-Type": FORM} if body else {})
    if reached.host is not None:
        headers["Host"] = reached.host
    if plan.signer is not None:
        headers |= plan.signer.sign_request(address.public(url), () if step.is_get else fields, body)
    name = urlsplit(f"//{reached.host}").hostname if reached.host is not None else None
    host = name or urlsplit(reached.url).hostname or ""
    try:
        async with http.request(
            "GET" if step.is_get else "POST",
            URL(reached.url, encoded=True),
            data=body or None,
            headers=headers,
            allow_redirects=False,
            ssl=plan.tls if plan.tls is not None else True,
            server_hostname=name,
        ) as answer:
            text, status = await answer.text(errors="replace"), answer.status
    except TimeoutError:
        raise CallRefusedError(f"the document did not come within {plan.connect_timeout:g} s") from None
    except aiohttp.InvalidURL:
        raise CallRefusedError("the document's URL is none") from None
    except aiohttp.ClientConnectorError as error:
        raise CallRefusedError(f"the document: could not connect: {trouble(error.os_error, host)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise CallRefusedError(f"the document: no answer: {error or type(error).__name__}") from None
    if status != 200:
        raise CallRefusedError(f"the document was {http_error(status, text)}", status)
    return text


def http_error(status: int, text: str) -> str:
    """Return the words for an HTTP answer that refuses. `text`: its body."""
    try:
        detail = f"HTTP {status} {status_phrase(status)}"
    except ValueError:
        detail = f"HTTP {status}"
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, Mapping) and isinstance(body.get("error"), str):
        text = body["error"]
    text = text.strip()
    return f"refused with {detail}" + (f": {text[:MAX_BODY_CHARACTERS]}" if text else "")


def ids_of(plan: CallPlan) -> Ids:
    """Return the ids of a new call, of the plan's account if it has one. Raises CallRefusedError."""
    if plan.carrier not in PROFILES:
        raise CallRefusedError(f"no such carrier: {plan.carrier} (there are {', '.join(PROFILES)})")
    ids = PROFILES[plan.carrier].make_ids()
    return ids if plan.account is None else replace(ids, account_id=plan.account)
