# SPDX-License-Identifier: BSD-2-Clause
"""An agent's sessions through the management API: every filter, one session, and the stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session_ids import ulid_of

DAY = 1_700_000_000.0
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def ids(api: Any, target: str) -> list[str]:
    """The sessions that a list has; its total is as many."""
    reply = await api("GET", target)
    assert reply.status == 200, reply.json
    found = [each["sessionId"] for each in reply.json["sessions"]]
    assert reply.json["total_count"] == len(found)
    return found


async def test_a_session_has_the_fields_of_the_contract(api: Any, agents: str) -> None:
    session = await api.begins(at=DAY, running_after=1.25, start_type="cold", metadata='{"ticket": 7}')
    await api.ends(session, SessionState.ENDED, Reasons.caller_hangup, DAY + 60)
    agent = (await api("GET", "/v1/agents/support")).json
    reply = await api("GET", f"{agents}/support/sessions")
    assert reply.json == {
        "total_count": 1,
        "sessions": [
            {
                "sessionId": session,
                "serviceId": agent["id"],
                "organizationId": "acme",
                "deploymentId": agent["activeDeploymentId"],
                "createdAt": "2023-11-14T22:13:20.000Z",
                "updatedAt": "2023-11-14T22:14:20.000Z",
                "endedAt": "2023-11-14T22:14:20.000Z",
                "botStartSeconds": 1.25,
                "coldStart": True,
                "completionStatus": "WS_CONNECTION_CLOSED",
                "endState": "completed",
                "metadata": {"ticket": 7},
            }
        ],
    }


async def test_one_session_comes_with_its_steps(api: Any, agents: str) -> None:
    session = await api.begins(at=DAY)
    found = (await api("GET", f"{agents}/support/sessions/{session.upper()}")).json
    assert found == (await api("GET", f"{agents}/support/sessions/{ulid_of(session)}")).json
    assert (found["sessionId"], found["endedAt"], found["endState"]) == (session, None, "active")
    assert (found["resourceMetrics"], found["meetingIds"]) == (None, [])
    assert found["events"] == [
        {"eventCode": "SESSION_START_INITIATED", "eventTs": "2023-11-14T22:13:20.000Z"},
        {"eventCode": "REQUEST_ARRIVED_AT_BOT", "eventTs": "2023-11-14T22:13:20.500Z"},
    ]


async def test_pages_are_of_ten_newest_first(api: Any, agents: str) -> None:
    made = [await api.begins(at=DAY + number) for number in range(12)]
    page = (await api("GET", f"{agents}/support/sessions")).json
    assert page["total_count"] == 12
    assert [each["sessionId"] for each in page["sessions"]] == made[:1:-1]
    rest = (await api("GET", f"{agents}/support/sessions?limit=5&offset=10")).json
    assert (rest["total_count"], [each["sessionId"] for each in rest["sessions"]]) == (12, made[1::-1])


async def test_sessions_are_filtered_by_time_status_and_kind_of_start(api: Any, agents: str) -> None:
    over = await api.begins(at=DAY, running_after=4, start_type="cold")
    await api.ends(over, SessionState.ENDED, Reasons.caller_hangup, DAY + 60)
    active = await api.begins(at=DAY + 100, running_after=1, start_type="warm")
    begun = await api.begins(at=DAY + 200, running_after=None)
    at = f"{agents}/support/sessions"
    assert await ids(api, at) == [begun, active, over]
    assert await ids(api, f"{at}?startTime={DAY + 100:.0f}") == [begun, active]
    assert await ids(api, f"{at}?endTime={DAY + 100:.0f}") == [over]
    assert await ids(api, f"{at}?startTime={DAY + 1}&endTime={DAY + 150}") == [active]
    assert await ids(api, f"{at}?status=active") == [begun, active]
    assert await ids(api, f"{at}?status=ended") == [over]
    assert await ids(api, f"{at}?status=all&startType=all") == [begun, active, over]
    assert await ids(api, f"{at}?startType=cold") == [over]
    assert await ids(api, f"{at}?startType=warm&status=ended") == []
    assert await ids(api, f"{at}?startTimeMin=2") == [over]
    assert await ids(api, f"{at}?startTimeMax=2") == [active]
    assert await ids(api, f"{at}?startTimeMin=0&startTimeMax=0") == [begun, active, over]
    assert await ids(api, f"{at}?deploymentId=d") == []


@pytest.fixture
async def histories(api: Any) -> dict[str, str]:
    """A session for each end state."""
    ends: dict[str, tuple[SessionState, Any, float | None]] = {
        "completed": (SessionState.ENDED, Reasons.caller_hangup, 0.5),
        "ended_before_agent_start": (SessionState.CANCELED, Reasons.caller_hangup, None),
        "agent_start_timeout": (SessionState.FAILED, Reasons.agent_start_timeout, None),
        "terminated": (SessionState.ENDED, Reasons.stopped, 0.5),
        "agent_error": (SessionState.FAILED, Reasons.agent_lost, 0.5),
        "unknown": (SessionState.FAILED, Reasons.carrier_lost, 0.5),
    }
    made = {"active": await api.begins(at=DAY)}
    for end_state, (state, reason, running_after) in ends.items():
        made[end_state] = await api.begins(at=DAY, running_after=running_after)
        await api.ends(made[end_state], state, reason, DAY + 9)
    return made


async def test_sessions_are_filtered_by_how_they_went(
    api: Any, agents: str, histories: dict[str, str]
) -> None:
    for end_state, session in histories.items():
        assert await ids(api, f"{agents}/support/sessions?endState={end_state}") == [session]
        found = (await api("GET", f"{agents}/support/sessions/{session}")).json
        assert found["endState"] == end_state
    assert await ids(api, f"{agents}/support/sessions?endState=completed&status=active") == []
    assert await ids(api, f"{agents}/support/sessions?endState=active&status=ended") == []
    assert await ids(api, f"{agents}/support/sessions?endState=terminated&status=ended") == [
        histories["terminated"]
    ]


async def test_a_filtered_list_has_pages_too(api: Any) -> None:
    made = []
    for number in range(3):
        made.append(await api.begins(at=DAY + number))
        await api.ends(made[-1], SessionState.ENDED, Reasons.stopped, DAY + 9)
    await api.begins(at=DAY + 5)
    page = (await api("GET", "/v1/agents/support/sessions?endState=terminated&limit=1&offset=1")).json
    assert (page["total_count"], [each["sessionId"] for each in page["sessions"]]) == (3, [made[1]])


async def test_completion_status_says_how_the_agents_side_ended(api: Any, histories: dict[str, str]) -> None:
    async def status(session: str) -> Any:
        return (await api("GET", f"/v1/agents/support/sessions/{session}")).json["completionStatus"]

    assert await status(histories["active"]) is None
    assert await status(histories["completed"]) == "WS_CONNECTION_CLOSED"
    assert await status(histories["ended_before_agent_start"]) is None
    assert await status(histories["agent_start_timeout"]) == "504"
    held = await api.begins(transport="daily")
    await api.ends(held, SessionState.ENDED, Reasons.agent_ended, DAY, completion_status="HTTP_COMPLETED")
    assert await status(held) == "HTTP_COMPLETED"
    stopped = await api.begins(transport="daily")
    await api.ends(stopped, SessionState.ENDED, Reasons.stopped, DAY)
    assert await status(stopped) == "HTTP_COMPLETED"
    lost = await api.begins(transport="webrtc")
    await api.ends(lost, SessionState.FAILED, Reasons.gateway_lost, DAY)
    assert await status(lost) == "HTTP_ERROR"
    unheard = await api.begins(transport="webrtc", running_after=None)
    await api.ends(unheard, SessionState.CANCELED, Reasons.stopped, DAY)
    assert await status(unheard) is None


@pytest.mark.parametrize(
    "query",
    [
        "status=odd",
        "startType=tepid",
        "endState=odd",
        "limit=0",
        "limit=1001",
        "limit=x",
        "offset=-1",
        "offset=99999999999999999999",
        "startTime=yesterday",
        "startTime=nan",
        "endTime=-1",
        "limit=1&limit=2",
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(api: Any, agents: str, query: str) -> None:
    reply = await api("GET", f"{agents}/support/sessions?{query}")
    assert (reply.status, reply.json["code"]) == (400, "400")


async def test_a_stop_is_asked_of_whoever_carries_the_session(work: Callable[..., Any], agents: str) -> None:
    carrying, asked = await work(), await work()
    session = await carrying.begins()
    reply = await asked("DELETE", f"{agents}/support/sessions/{session}")
    assert (reply.status, reply.json) == (200, {"status": "terminated", "session_id": session})
    assert await carrying.store.stop_requests() == [session]
    assert (await asked("DELETE", f"{agents}/support/sessions/{session}")).status == 200
    await carrying.ends(session, SessionState.ENDED, Reasons.stopped, DAY)
    reply = await asked("DELETE", f"{agents}/support/sessions/{session}")
    assert (reply.status, reply.json["error"]) == (404, "The session is over already")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_id_that_is_no_uuid_is_a_bad_request_and_an_unknown_one_not_found(
    api: Any, agents: str, method: str
) -> None:
    for wrong in ("mine", UNKNOWN.replace("-", ""), f"{UNKNOWN}0", f"{{{UNKNOWN}}}"):
        reply = await api(method, f"{agents}/support/sessions/{wrong}")
        assert (reply.status, reply.json["code"]) == (400, "400"), wrong
    reply = await api(method, f"{agents}/support/sessions/{UNKNOWN}")
    assert (reply.status, reply.json["code"]) == (404, "404")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_sessions_of_others_are_not_found(api: Any, method: str) -> None:
    of_sales = await api.begins("sales.globex")
    of_night = await api.begins("night.acme")
    for agent, session in (("sales", of_sales), ("support", of_sales), ("support", of_night)):
        assert (await api(method, f"/v1/agents/{agent}/sessions/{session}")).status == 404
    assert (await api("GET", "/v1/agents/sales/sessions")).status == 404
    assert (await api("GET", "/v1/organizations/globex/services/sales/sessions")).status == 404
    assert await api.store.stop_requests() == []
