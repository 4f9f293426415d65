# SPDX-License-Identifier: BSD-2-Clause
"""The reason of a call whose carrier or agent leaves first."""

from __future__ import annotations

import pytest

from gateway.media.disconnect import CONNECTION_LOST, Disconnect, reason_for_agent, reason_for_carrier


@pytest.mark.parametrize(
    ("disconnect", "of_carrier", "of_agent", "detail"),
    [
        (Disconnect(1000), "caller_hangup", "agent_ended", "closed with 1000"),
        (Disconnect(1001, "bye"), "caller_hangup", "agent_ended", "closed with 1001: bye"),
        (Disconnect(1005), "caller_hangup", "agent_ended", "closed without a code"),
        (Disconnect(1011, "oh"), "carrier_lost", "agent_failed", "closed with 1011: oh"),
        (Disconnect(4000), "carrier_lost", "agent_failed", "closed with 4000"),
        (
            Disconnect(1006, "bad", violation_code=1002),
            "carrier_protocol_error",
            "agent_protocol_error",
            "bad",
        ),
        (
            Disconnect(1006, "bad", violation_code=1007),
            "carrier_protocol_error",
            "agent_protocol_error",
            "bad",
        ),
        (Disconnect(1006, "big", violation_code=1009), "too_large", "agent_protocol_error", "big"),
    ],
)
def test_the_reason_follows_from_how_a_side_left(
    disconnect: Disconnect, of_carrier: str, of_agent: str, detail: str
) -> None:
    assert (reason_for_carrier(disconnect).reason.code, reason_for_carrier(disconnect).detail) == (
        of_carrier,
        detail,
    )
    assert (reason_for_agent(disconnect).reason.code, reason_for_agent(disconnect).detail) == (
        of_agent,
        detail,
    )


def test_a_lost_connection_has_the_sentence_of_its_reason() -> None:
    assert reason_for_carrier(CONNECTION_LOST).detail == "the carrier's socket was lost without a close"
    assert reason_for_agent(CONNECTION_LOST).detail == "the agent's socket was lost without a close"
    assert not CONNECTION_LOST.has_code
    assert Disconnect(4000, "x").has_code
