# SPDX-License-Identifier: BSD-2-Clause
"""Meta's webhook for WhatsApp (docs/reference/carriers.md §7): its verification, and its events.

Events are forwarded to the agent unchanged: those of a call to its instance (whatsapp_handler.py), others
to any.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

import structlog
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response

from gateway.api.framework.authentication import charge, identify
from gateway.api.framework.operation import Access, Context, Handler, Operation, Style
from gateway.api.webhooks.deduplication import joined, take_for
from gateway.api.webhooks.whatsapp_events import read_event
from gateway.api.webhooks.whatsapp_forward import JSON, pass_to_any
from gateway.api.webhooks.whatsapp_handler import RECORD_LIFETIME_S, CallEventHandler
from gateway.calls.whatsapp_call import WhatsAppCall, hold_all
from gateway.carriers.signatures import AuthenticationFailed
from gateway.carriers.whatsapp.auth import SIGNATURE, authenticate_event
from gateway.config import AgentSettings, WhatsAppSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.observability.log import log_at
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

PATH: Final = "/v1/public/webhooks/{org}/{agent}/whatsapp"
MAX_EVENT_BYTES: Final = 262_144
_CHALLENGE: Final = re.compile(r"[0-9A-Za-z_.-]{1,256}")


class Verification(BaseModel):
    """Meta's verification of the webhook's URL."""

    mode: str = Field(default="", alias="hub.mode", description="`subscribe`.")
    verify_token: str = Field(
        default="", alias="hub.verify_token", description="A public key of the organisation."
    )
    challenge: str = Field(default="", alias="hub.challenge", description="The text to answer with.")


async def verify(context: Context) -> Response:
    """Answer Meta's challenge if its token is a public key of the organisation.

    Raises CallEnded; ApiError (429) as a request with this key, or from this address, would be.
    """
    _settings(context)
    query = context.query_as(Verification)
    keys = context.services.calls.limited_keys
    key = await identify(context.request, query.verify_token, keys, Style.PCC)
    if key is not None:
        charge(key, keys, Style.PCC)
    is_own_key = key is not None and (key.organization, key.kind) == (context.path["org"], "public")
    if not is_own_key or query.mode != "subscribe" or not _CHALLENGE.fullmatch(query.challenge):
        detail = "hub.mode must be subscribe, and hub.verify_token a public key of the organisation"
        raise CallEnded(Reasons.unauthorized, detail)
    context.services.calls.agents.of_organization(context.path["org"], context.path["agent"])
    return PlainTextResponse(query.challenge, headers={"X-Content-Type-Options": "nosniff"})


async def event(context: Context) -> Response:
    """Forward an event to the instances of its calls. Raises ApiError, CallEnded, StoreFailed."""
    app = _settings(context)
    _authenticate(context, app)
    agent = context.services.calls.agents.of_organization(context.path["org"], context.path["agent"])
    calls = read_event(context.raw_body)
    active_calls: list[WhatsAppCall] = []
    try:
        if calls and not app.allow_unsigned:
            signature = joined(context.request.headers, SIGNATURE) or ""
            await take_for(context.services.calls, agent.service_host, signature, RECORD_LIFETIME_S)
        if not calls:
            return (await pass_to_any(context, agent)).response()
        for call in calls:  # rarely more than one
            try:
                response = await CallEventHandler(context, agent, call, active_calls).answer()
            except (CallEnded, StoreFailed) as failure:
                if not active_calls:
                    raise
                # Another call of this body has started. Meta repeats the whole body; that call is on record
                # then.
                _log_refused(agent, failure)
                response = Response(b'{"status":"failed"}', HTTPStatus.BAD_GATEWAY, media_type=JSON)
                break
    except (CallEnded, StoreFailed) as failure:
        _log_refused(agent, failure)
        raise
    if active_calls:  # in the request's task, which the server cancels when it stops
        response.background = BackgroundTask(hold_all, active_calls)
    return response


def _log_refused(agent: AgentSettings, failure: CallEnded | StoreFailed) -> None:
    reason = failure.reason if isinstance(failure, CallEnded) else Reasons.store_failed
    detail = failure.detail if isinstance(failure, CallEnded) else str(failure)
    log_at(
        log,
        reason.severity(ran=False),
        "whatsapp event refused",
        agent=agent.service_host,
        organization=agent.organization,
        reason=reason.code,
        words=detail,
    )


def _settings(context: Context) -> WhatsAppSettings:
    """Return the organisation's app at Meta. Raises CallEnded (not_found) if it has none."""
    organization = context.path["org"]
    owner = context.services.calls.settings.find_organization(organization)
    if owner is None:
        raise CallEnded(Reasons.not_found)
    if owner.whatsapp is None:
        detail = "there is no [organizations.whatsapp] of this organisation"  # for the operator alone
        log.info(
            "whatsapp event refused",
            organization=organization,
            reason=Reasons.not_found.code,
            words=detail,
        )
        raise CallEnded(Reasons.not_found)
    return owner.whatsapp


def _authenticate(context: Context, app: WhatsAppSettings) -> None:
    """Check the event's signature, unless it need not have one. Raises CallEnded (unauthorized)."""
    if app.allow_unsigned:
        return
    try:
        if not app.app_secrets:
            raise AuthenticationFailed("there are no app_secrets that could have signed it")
        authenticate_event(app.app_secrets, joined(context.request.headers, SIGNATURE), context.raw_body)
    except AuthenticationFailed as failure:
        log.info(
            "whatsapp event refused",
            organization=context.path["org"],
            reason=Reasons.unauthorized.code,
            words=str(failure),
        )
        raise CallEnded(Reasons.unauthorized, str(failure)) from None


def _operation(method: str, handler: Handler, **more: Any) -> Operation:
    return Operation(
        method=method,
        path=PATH,
        handler=handler,
        access=Access.NONE,
        style=Style.PCC,
        tag="Webhooks",
        any_answer=True,
        path_notes={"org": "The organisation's name.", "agent": "The agent's name."},
        **more,
    )


WHATSAPP: Final = (
    _operation(
        "GET",
        verify,
        summary="Verify the webhook for WhatsApp",
        description="Answers the challenge as plain text, if the token is a public key of the organisation.",
        query=Verification,
        answers={403: None, 404: None},
    ),
    _operation(
        "POST",
        event,
        summary="Something happened on WhatsApp",
        description="Forwarded unchanged to the agent's `POST /whatsapp`. All events of one call go to one "
        "instance: `connect` starts a session, `terminate` ends it. An event without a call goes to any "
        "instance that is ready. Signed with one of the organisation's `app_secrets`: "
        "`X-Hub-Signature-256` is `sha256=` and the HMAC-SHA256 of the body in hex.",
        reads_raw=True,
        max_body_bytes=MAX_EVENT_BYTES,
        answers={400: None, 403: None, 404: None, 429: None, 502: None, 503: None, 504: None},
    ),
)
"""The rows of the route table."""
