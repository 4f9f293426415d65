# SPDX-License-Identifier: BSD-2-Clause
"""The plan of a call, from a command line and from the configuration of the gateway that is called."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.config import CarrierAccount, Settings
from gateway.config.loading import load
from gateway.model.addresses import is_loopback, is_service_host, split_service_host
from gateway.simulator.call_plan import CallPlan
from gateway.simulator.call_signing import ExotelSigner, Signer, TwilioSigner, signer_of
from gateway.simulator.command_secrets import is_reference, read_reference, read_secret
from gateway.simulator.wav import Recording


@dataclass(frozen=True, slots=True)
class CallOptions:
    """A call as a command line describes it.

    `url`, `auth_token`: may be references (command_secrets.py). `config`: of the gateway that is called.
    `parameters`: each as NAME=VALUE. `ca`: a PEM file. `account`, `public_url`: instead of the configured.
    """

    url: str
    carrier: str
    agent: str | None = None
    digits: str = ""
    from_number: str | None = None
    to_number: str | None = None
    parameters: tuple[str, ...] = ()
    body: str | None = None
    config: Path | None = None
    auth_token: str | None = None
    account: str | None = None
    public_url: str | None = None
    ca: Path | None = None
    insecure: bool = False
    expect_audio: bool = False


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A plan, and what the operator should know of it."""

    plan: CallPlan
    remarks: tuple[str, ...] = ()


def plan_call(options: CallOptions, speech: Recording) -> PlannedCall:
    """Return the plan of a call. Raises ValueError, in words, and ConfigError."""
    url = read_reference(options.url, "the URL") if is_reference(options.url) else options.url
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss", "http", "https"}:
        raise ValueError(
            "the URL must begin with ws:// or wss://, or for a document with http:// or https://"
        )
    settings = load(options.config, os.environ) if options.config is not None else None
    public_url = options.public_url or (settings.server.public_url if settings is not None else None)
    account, remarks = _account(settings, options, url) if settings is not None else (None, ())
    is_ours = options.public_url is not None or _is_here(url, public_url)
    signer = _signer(options, account if is_ours else None)
    if signer is None and options.carrier == "exotel" and parts.username is not None:
        signer = ExotelSigner(unquote(parts.username), unquote(parts.password or ""))
    if account is not None and not is_ours:
        # A signature, and credentials all the more, are good at the gateway for whoever gets them.
        remarks = (
            *remarks,
            f"not signed: {parts.hostname} is neither this machine nor public_url; {_SAY_SO}",
        )
    elif signer is None and account is not None and account.can_authenticate and not account.allow:
        remarks = (*remarks, _CANNOT_SIGN.get(options.carrier, "the account has nothing to sign with"))
    return PlannedCall(
        CallPlan(
            url=url,
            carrier=options.carrier,
            speech=speech.pcm,
            speech_rate=speech.sample_rate,
            agent=options.agent,
            digits=options.digits,
            from_number=options.from_number,
            to_number=options.to_number,
            parameters=_parameters(options.parameters),
            body=_json_text(options.body),
            account=options.account or (account.account if account is not None else None),
            signer=signer,
            public_url=public_url if is_ours else None,
            tls=_tls(options),
            expect_audio=options.expect_audio,
        ),
        remarks,
    )


_SAY_SO = "--public-url says that it is the gateway nevertheless"

_CANNOT_SIGN = {
    "telnyx": "not signed: Telnyx signs with a key that nobody else has. List the public half of a key of "
    "your own in public_keys, and give its private half with --auth-token"
}


def _is_here(url: str, public_url: str | None) -> bool:
    """Return True if the URL is the gateway's public one, a region's, or of this machine."""
    host = urlsplit(url).hostname or ""
    public = urlsplit(public_url or "").hostname
    is_public = public is not None and (host == public or host.endswith(f".{public}"))
    return is_public or is_loopback(host) or host.endswith(".localhost")


def _account(
    settings: Settings, options: CallOptions, url: str
) -> tuple[CarrierAccount | None, tuple[str, ...]]:
    """Return the account that the call is of, if the configuration has one. Raises ValueError."""
    organization = _organization(settings, options, url)
    found = [
        (owner.name, account)
        for owner in settings.organizations
        for account in owner.carriers
        if account.carrier == options.carrier and organization in (None, owner.name)
    ]
    if not found:
        return None, (f"not signed: the configuration has no account with {options.carrier} for this call",)
    if len({name for name, _ in found}) > 1:
        raise ValueError(
            f"several organisations have an account with {options.carrier}: name the agent, as with --agent"
        )
    accounts = [account for _, account in found]
    return next((each for each in accounts if each.can_authenticate), accounts[0]), ()


def _organization(settings: Settings, options: CallOptions, url: str) -> str | None:
    """Return the organisation that the call is for, as far as URL, agent and called number say it."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if query.get("agent") and query.get("org"):
        return query["org"]
    named = [options.agent, query.get("serviceHost"), query.get("agent"), *parts.path.split("/")]
    for service_host in filter(None, named):
        if is_service_host(service_host):
            return split_service_host(service_host)[1]
    agents = [each.agent for each in settings.numbers if each.number == options.to_number]
    return split_service_host(agents[0])[1] if agents else None


def _signer(options: CallOptions, account: CarrierAccount | None) -> Signer | None:
    user = options.account or (account and (account.auth_id or account.account)) or ""
    if options.auth_token is not None:
        return signer_of(options.carrier, read_secret(options.auth_token, "--auth-token"), user)
    if account is None:
        return None
    if account.auth_tokens:
        return signer_of(options.carrier, account.auth_tokens[0].get_secret_value(), user)
    if account.signing_keys:
        return TwilioSigner(account.signing_keys[0].get_secret_value(), uses_sha256=True)
    return None


def _parameters(given: Iterable[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or name in parameters:
            raise ValueError("--param takes NAME=VALUE, each name once")
        parameters[name] = value
    return parameters


def _json_text(body: str | None) -> str | None:
    if body is None:
        return None
    text = read_reference(body, "--body") if is_reference(body) else body
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except (ValueError, RecursionError):
        raise ValueError("--body is no JSON") from None


def _tls(options: CallOptions) -> ssl.SSLContext | None:
    if options.ca is None and not options.insecure:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except ssl.SSLError:
        raise ValueError(f"{options.ca} has no certificates") from None
    except OSError as error:
        raise ValueError(f"{options.ca} cannot be read: {error.strerror}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
