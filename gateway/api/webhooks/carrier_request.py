# SPDX-License-Identifier: BSD-2-Clause
"""Requests of carriers: their authentication, and the fields of a request for a document.

A carrier's fields are the form of a POST, or in the query of a GET beside those that the operator put into
the URL (docs/reference/carriers.md §2.4, §3.4, §4.4, §5.3). Forms are read by `read_form`, as signatures
are checked over the same fields. A carrier that signs no fields may send them in other ways too
(`Carrier.form_types`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from gateway.api.framework.operation import Context
from gateway.api.framework.strict_json import parse
from gateway.api.webhooks.multipart_form import read_multipart
from gateway.calls.authorization import signed_request, signed_url, unproven
from gateway.carriers.agent_body import read_body
from gateway.carriers.callback_event import json_fields
from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import (
    JSON,
    MULTIPART_FORM,
    AuthenticationFailed,
    SignedRequest,
    media_type,
    read_form,
)
from gateway.carriers.stream_documents import RETURNS, USUAL_RATE, IncomingCall
from gateway.config import CarrierAccount
from gateway.model.addresses import is_service_host, service_host, split_service_host
from gateway.model.reasons import CallEnded, Reasons


def authenticate_request(context: Context, carrier: str, organization: str) -> CarrierAccount | None:
    """Check the signature of a carrier's request, and return the account that it is of.

    No check, and None, if the organisation has no account that can authenticate this carrier. Raises
    CallEnded (unauthorized).
    """
    accounts = context.services.calls.accounts
    if not accounts.requires_authentication(organization, carrier):
        return None
    signed = _signed(context)
    try:
        return accounts.authenticate(organization, carrier, signed)
    except AuthenticationFailed as refused:
        detail = f"the request is not proven: {refused.reason}"
        raise unproven(detail, signed_url(carrier, signed)) from None


def authenticate_any(context: Context, carrier: str) -> None:
    """Authenticate a request whose organisation is unknown. Raises CallEnded (unauthorized).

    It is rejected only if every organisation requires authentication and no account accepts the signature.
    """
    if context.services.calls.accounts.always_authenticated(carrier) and not is_authenticated(
        context, carrier
    ):
        raise unproven("the request is not proven to be anybody's", signed_url(carrier, _signed(context)))


def is_authenticated(context: Context, carrier: str) -> bool:
    """Return True if an account of any organisation accepts the request's signature."""
    accounts = context.services.calls.accounts
    return bool(accounts.authenticated_organizations(carrier, _signed(context)))


def _signed(context: Context) -> SignedRequest:
    calls = context.services.calls
    return signed_request(calls.accounts, context.request, context.raw_body, calls.now())


MAX_FIELDS: Final = 200
MAX_CALL_ID: Final = 256
MAX_NUMBER: Final = 256
"""Characters; a caller may also be a SIP address."""
MAX_PARAMETERS: Final = 50
MAX_REGION: Final = 63

SAMPLE_RATES: Final = ("8000", "16000", "24000")

_CALL_IDS: Final = ("CallSid", "CallUUID")
_FROM: Final = ("CallFrom", "From")
_TO: Final = ("CallTo", "To")
_OURS: Final = frozenset(
    {"agent", "org", "serviceHost", "region", "body", "sample_rate", "sample-rate", RETURNS}
)
_NOT_CUSTOM: Final = frozenset({"bodySHA256", "flow_id", "tenant_id"})
"""Parameters in small letters that carriers add to a query: Twilio's hash, Exotel's ids."""
_CARRIERS_OWN: Final = re.compile(r"[A-Z]")
_CALL_ID: Final = re.compile(r"[!-~]+")
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f]+")

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class DocumentRequest:
    """A carrier's request for the document of a call.

    `agents`: the service hosts, AGENT.ORG, in the URL; empty if the called number names the agent.
    `organization` and `region`: those of the URL.
    """

    call: IncomingCall
    agents: tuple[str, ...]
    organization: str | None
    region: str | None


async def read_document_request(context: Context, carrier: str, max_body_bytes: int) -> DocumentRequest:
    """Return the request for a document. Raises CallEnded: bad_request, too_large."""
    query = read_query(context)
    is_post = context.request.method == "POST"
    fields = await read_fields(context, carrier) if is_post else query
    agents = _agents(query)
    returns = _value(query, RETURNS) or "0"
    rate = _value(query, "sample_rate", "sample-rate") or str(USUAL_RATE)
    if not (returns.isascii() and returns.isdigit()) or len(returns) > 3:
        raise CallEnded(Reasons.bad_request, f"{RETURNS} is no small number")
    if rate not in SAMPLE_RATES:
        raise CallEnded(Reasons.bad_request, f"sample_rate is none of {', '.join(SAMPLE_RATES)}")
    call = IncomingCall(
        carrier=carrier,
        call_id=_call_id(fields),
        from_number=_number(fields, _FROM),
        to_number=_number(fields, _TO),
        body=read_body(_value(query, "body"), max_body_bytes),
        parameters=_parameters(query, is_post=is_post),
        sample_rate=int(rate),
        returns=int(returns),
    )
    region = _value(query, "region")
    if region is not None and len(region) > MAX_REGION:
        raise CallEnded(Reasons.bad_request, "region is none")
    organization = split_service_host(agents[0])[1] if agents else None
    return DocumentRequest(call, agents, organization, region)


def read_query(context: Context) -> Pairs:
    """Return the decoded query. Raises CallEnded (bad_request)."""
    text = context.request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise CallEnded(Reasons.bad_request, "the query is not in UTF-8") from None
    except ValueError:
        raise CallEnded(Reasons.bad_request, f"the query has more than {MAX_FIELDS} fields") from None


def read_custom_query(context: Context) -> dict[str, str]:
    """Return the custom parameters that the operator put into the query of a webhook whose fields stand in
    its body. Raises CallEnded (bad_request).
    """
    return _parameters(read_query(context), is_post=True)


async def read_fields(context: Context, carrier: str) -> Pairs:
    """Return the fields of a POST in a form in which the carrier sends them; none for an empty body.

    Raises CallEnded (bad_request).
    """
    if not context.raw_body:
        return []
    content_type = context.request.headers.get("Content-Type", "")
    try:
        kind = media_type(content_type)
        if kind not in CARRIERS[carrier].form_types:
            raise CallEnded(Reasons.bad_request, "the body is not a form in which this carrier sends fields")
        if kind == MULTIPART_FORM:
            return await read_multipart(content_type, context.raw_body, MAX_FIELDS)
        if kind == JSON:
            return list(json_fields(parse(context.raw_body)).items())
        return read_form(content_type, context.raw_body)
    except AuthenticationFailed as error:
        raise CallEnded(Reasons.bad_request, error.reason) from None
    except ValueError as error:
        raise CallEnded(Reasons.bad_request, str(error)) from None


def _value(pairs: Pairs, *names: str) -> str | None:
    """Return the value of the first name that is present and not empty.

    Raises CallEnded if one is given twice.
    """
    for name in names:
        values = [value for each, value in pairs if each == name]
        if len(values) > 1:
            raise CallEnded(Reasons.bad_request, f"{name} is given twice")
        if values and values[0]:
            return values[0]
    return None


def _agents(query: Pairs) -> tuple[str, ...]:
    """Return the service hosts in the query. Raises CallEnded (bad_request)."""
    agent, organization = _value(query, "agent"), _value(query, "org")
    by_service_host = _value(query, "serviceHost")
    if agent is not None and organization is None and "." in agent:
        agents = [agent]
    elif agent is not None and organization is not None:
        agents = [service_host(agent, organization)]
    elif agent is None and organization is None:
        agents = []
    else:
        raise CallEnded(Reasons.bad_request, "agent and org go together")
    agents += [by_service_host] if by_service_host is not None else []
    if not all(map(is_service_host, agents)):
        raise CallEnded(Reasons.bad_request, "agent and org are no names of an agent and its organisation")
    return tuple(agents)


def _call_id(fields: Pairs) -> str | None:
    call_id = _value(fields, *_CALL_IDS)
    if call_id is not None and not (len(call_id) <= MAX_CALL_ID and _CALL_ID.fullmatch(call_id)):
        raise CallEnded(Reasons.bad_request, "the call's id is none")
    return call_id


def _number(fields: Pairs, names: tuple[str, ...]) -> str | None:
    """Return the carrier's number or address; None if it is missing, too long or not printable."""
    number = _value(fields, *names)
    if number is None:
        return None
    # An unescaped plus sign in a query is a space.
    number = f"+{number[1:]}" if re.fullmatch(r" [0-9]+", number) else number
    return number if len(number) <= MAX_NUMBER and _PRINTABLE.fullmatch(number) else None


def _parameters(query: Pairs, *, is_post: bool) -> dict[str, str]:
    """Return the operator's custom parameters. In the query of a GET, names in capitals are the carrier's."""
    custom = [
        (name, value)
        for name, value in query
        if name not in _OURS and name not in _NOT_CUSTOM and (is_post or not _CARRIERS_OWN.match(name))
    ]
    twice = [name for name, count in Counter(name for name, _ in custom).items() if count > 1]
    if twice:
        raise CallEnded(Reasons.bad_request, "a custom parameter is given twice")
    if len(custom) > MAX_PARAMETERS or any(not name for name, _ in custom):
        raise CallEnded(
            Reasons.bad_request, f"there are more than {MAX_PARAMETERS} custom parameters, or nameless"
        )
    return dict(custom)
