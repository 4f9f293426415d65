# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp calls that the agent placed: which of its instances an event is for.

The agent asks Meta by itself, so the gateway first hears of such a call by an event of Meta: the answer of
the called party (`connect`), a status, or the end. The call belongs to the session in which the agent placed
it, and takes no slot of its own. Its instance is that session's if the agent gave Meta the session's id as
`biz_opaque_callback_data`, which comes back in every event. Without it the instances are tried: one that did
not place the call cannot do anything with an answer to it, and says so.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from gateway.agents.instance_health import Health
from gateway.api.framework.operation import Context
from gateway.api.webhooks.whatsapp_forward import ForwardResult, post, post_within
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session_ids import canonical_session_id
from gateway.store.interface import SessionFilter

MAX_SESSIONS: Final = 1000
"""The agent's running sessions that are looked through."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """An instance that an event is for, and the session there; None if it is not known which."""

    instance: str
    session_id: str | None


async def offer_until_accepted(
    context: Context, agent: AgentSettings, callback_data: str | None
) -> tuple[Recipient, ForwardResult]:
    """Forward the event to one instance after the other, until one accepts it; return which, and its answer.

    Raises CallEnded: the reason of the last instance's failure, agent_failed if it refused,
    agent_start_timeout if none has accepted within the agent's time to connect; StoreFailed.
    """
    timeout_s = context.services.calls.settings.limits.agent_connect_timeout
    failure = CallEnded(Reasons.agent_unreachable, "no instance is ready")
    try:
        async with asyncio.timeout(timeout_s):
            likely, others = await _recipients(context, agent, callback_data)
            for recipient in (*likely, *others):
                try:
                    result = await post(context, recipient.instance, recipient.session_id)
                except CallEnded as end:
                    failure = end
                    continue
                if result.accepted:
                    return recipient, result
                failure = CallEnded(Reasons.agent_failed, f"/whatsapp answered {result.status}")
    except TimeoutError:
        detail = f"no instance took the answer to a call within {timeout_s:g} s"
        raise CallEnded(Reasons.agent_start_timeout, detail) from None
    raise failure


async def offer_to_all(
    context: Context, agent: AgentSettings, callback_data: str | None
) -> ForwardResult | None:
    """Forward the event to every instance that may have placed its call; return one's acceptance, if any.

    Raises StoreFailed.
    """
    timeout_s = context.services.calls.settings.limits.agent_connect_timeout
    likely, others = await _recipients(context, agent, callback_data)
    recipients = likely or (others if len(others) == 1 else [])
    results = await asyncio.gather(
        *(post_within(context, timeout_s, each.instance, each.session_id) for each in recipients),
        return_exceptions=True,
    )
    accepted: ForwardResult | None = None
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, CallEnded):
            raise result
        if isinstance(result, ForwardResult) and result.accepted:
            accepted = accepted or result
    return accepted


async def _recipients(
    context: Context, agent: AgentSettings, callback_data: str | None
) -> tuple[list[Recipient], list[Recipient]]:
    """Return the instances that run sessions, and the others that are ready: those placed no call just now.

    If `callback_data` is the id of one of these sessions, only its instance is returned. Raises StoreFailed.
    """
    services = context.services.calls
    running, _ = await services.store.sessions(
        SessionFilter(agent=agent.service_host, active=True), limit=MAX_SESSIONS
    )
    session_id = None if callback_data is None else canonical_session_id(callback_data)
    sessions: defaultdict[str, list[str]] = defaultdict(list)
    for record in running:
        if record.session_id == session_id:
            return [Recipient(record.instance, record.session_id)], []
        sessions[record.instance].append(record.session_id)
    likely = [
        Recipient(instance, session_ids[0] if len(session_ids) == 1 else None)
        for instance, session_ids in sessions.items()
    ]
    ranked = sorted(services.health.ranks(agent.instances), key=itemgetter(1))
    others = [
        Recipient(instance, None)
        for instance, health in ranked
        if instance not in sessions and health is not Health.STARTING
    ]
    return likely, others
