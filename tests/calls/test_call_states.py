# SPDX-License-Identifier: BSD-2-Clause
"""The states of a call: every pair of states, and every state with everything that can happen to a call."""

from __future__ import annotations

import asyncio
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.calls import bridge as bridge_module
from gateway.calls.active import ActiveCalls
from gateway.calls.bridge import Bridge
from gateway.calls.call_setup import BridgeSettings, CallSetup
from gateway.calls.command_bus import QUESTIONS, CallCommand
from gateway.calls.deferred_command import FOLLOWED_BY
from gateway.calls.inbound import InboundCall
from gateway.calls.services import CallServices
from gateway.calls.state import CHANGES, INITIAL, CallProgress, CallState, IllegalStateChange, mermaid
from gateway.calls.stream_history import CallStream
from gateway.calls.stream_ownership import StreamOwnership
from gateway.config import AgentSettings, Limits, Settings
from gateway.media.accept import Upgrade
from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.media.relay_options import RelayOptions
from gateway.model.reasons import CallEnded, Reasons
from serializers.events import Start
from serializers.registry import DIALECTS
from tests.harness.transcripts import opening

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
SET_UP = (
    CallState.AUTHENTICATING,
    CallState.OPENING,
    CallState.ROUTING,
    CallState.QUEUED,
    CallState.CONNECTING,
)
WITH_BRIDGE = (CallState.BRIDGED, CallState.AWAITING_AGENT, CallState.AWAITING_CARRIER)
OVER = (CallState.ENDING, CallState.ENDED)
TRANSFER_COMMANDS = {CallCommand.TRANSFER: True, CallCommand.REVOKED: False}


class Log:
    """A log that keeps nothing."""

    def bind(self, **_: object) -> Log:
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class FakeRelay:
    """Stands in for the relay of a bridge: it notes what it is told, and reports a lost leg on request."""

    def __init__(self, carrier: Leg, agent: Leg, options: RelayOptions, *, previous: object) -> None:
        self.options = options
        self.calls: list[tuple[str, object]] = []
        self.ended: asyncio.Future[CallEnded] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed.set_result(None)
        self.traffic = (0, 0, 0, 0)
        self.played_s = 1.5
        self.is_over = False
        self.agent_answered = True

    def start(self) -> None:
        """Nothing is relayed."""

    def end(self, end: CallEnded) -> None:
        self.calls.append(("end", end.reason))

    def set_transfer_pending(self, pending: bool) -> None:
        self.calls.append(("set_transfer_pending", pending))

    def detach_carrier(self, end: CallEnded) -> None:
        self.calls.append(("detach_carrier", end.reason))

    def finish_playback(self, marks: object, longest_s: float, on_done: object) -> None:
        self.calls.append(("finish_playback", longest_s))

    def check_carrier(self) -> None:
        self.calls.append(("check_carrier", None))

    def release_agent(self, end: CallEnded) -> bool:
        self.calls.append(("release_agent", end.reason))
        return self.lose_carrier()

    def lose_carrier(self) -> bool:
        """Report that the carrier was lost. Return True if the bridge took the agent's side."""
        assert self.options.on_carrier_lost is not None
        return self.options.on_carrier_lost(far_side())

    def lose_agent(self) -> None:
        """Report that the agent was lost."""
        assert self.options.on_agent_lost is not None
        self.options.on_agent_lost(far_side())


class FakeTransport(asyncio.Transport):
    """The transport of a leg whose far end says nothing."""

    closing = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Nothing arrives."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written."""

    def is_closing(self) -> bool:
        return self.closing


def far_side() -> Any:
    """A side that a relay has released: a leg is made of its transport and scanner."""
    leg = new_leg()
    return SimpleNamespace(transport=leg.transport, scanner=leg.scanner)


def new_leg(*, client: bool = False) -> Leg:
    return Leg(
        FakeTransport(),
        client=client,
        max_opening_bytes=1 << 16,
        max_buffered_bytes=1 << 16,
        on_disconnect=lambda _: None,
    )


def twilio_start() -> Start:
    start = None
    for message in opening("twilio"):
        start = DIALECTS["twilio"].read_carrier(message.encode()) or start
    assert isinstance(start, Start)
    return start


@pytest.fixture
def agent() -> AgentSettings:
    return AgentSettings(
        name="support",
        organization="acme",
        instances=["http://127.0.0.1:7860"],
        region="us-west",
        max_resumes=1,
        after="redirect",
    )


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, agent: AgentSettings) -> CallServices:
    monkeypatch.setattr(bridge_module, "Relay", FakeRelay)
    monkeypatch.setattr(bridge_module, "hangup_after_playback", lambda *_: None)
    monkeypatch.setattr(bridge_module, "ConsultationHold", lambda *_: SimpleNamespace(stop=lambda: None))
    ids = iter([SESSION])
    store = SimpleNamespace(mark_running=lambda *_: None)
    return cast(
        CallServices,
        SimpleNamespace(
            settings=Settings(agents=[agent], limits=Limits(reconnect_timeout=5)),
            store=store,
            now=lambda: 1000.0,
            new_id=lambda: next(ids),
            commands=SimpleNamespace(answer=lambda *_: None),
        ),
    )


def path_to(state: CallState) -> list[CallState]:
    """The changes that lead from the first state to this one, as few as there can be."""
    paths = [[INITIAL]]
    for path in paths:
        if path[-1] is state:
            return path[1:]
        paths += [[*path, new] for new in CHANGES[path[-1]] if new not in path]
    raise AssertionError(f"nothing leads to {state}")


class Call:
    """An inbound call that is in one state, as a test wants it."""

    def __init__(
        self,
        services: CallServices,
        agent: AgentSettings,
        state: CallState,
        *,
        with_media_token: bool = False,
    ) -> None:
        self.with_media_token = with_media_token
        self.active = ActiveCalls()
        self.upgrade = cast(Upgrade, SimpleNamespace(on_disconnect=None, on_shutdown=None))
        self.call = InboundCall(services, self.active, self.upgrade)
        self.progress: CallProgress = self.call._progress
        self.relay: FakeRelay | None = None
        self.start = None if with_media_token else twilio_start()
        path = path_to(state)
        if state in WITH_BRIDGE:
            for step in path[: path.index(CallState.BRIDGED)]:
                self.progress.change(step)
            self._bridge(services, agent)
            if state is CallState.AWAITING_AGENT:
                self.relay_.lose_agent()
            elif state is CallState.AWAITING_CARRIER:
                assert self.relay_.lose_carrier()
        else:
            for step in path:
                self.progress.change(step)
        assert self.call.state is state

    @property
    def relay_(self) -> FakeRelay:
        assert self.relay is not None
        return self.relay

    def _bridge(self, services: CallServices, agent: AgentSettings) -> None:
        setup = self.call._phase
        assert isinstance(setup, CallSetup)
        setup.carrier_leg, setup.agent_leg = new_leg(), new_leg(client=True)
        for leg in (setup.carrier_leg, setup.agent_leg):
            leg.buffer_messages(1 << 16)
        settings = BridgeSettings(
            requested_agent=agent,
            agent=agent,
            instance=agent.instances[0],
            query="",
            dialect=None if self.with_media_token else DIALECTS["twilio"],
            start=self.start,
            ownership=None
            if self.with_media_token
            else StreamOwnership(
                ("acme", "twilio", "CA1"), CallStream(0, SESSION, "nonce", 1000.0), False, None
            ),
            has_media_token=self.with_media_token,
            max_duration_s=None,
            idle_timeout_s=None,
        )
        self.call._phase = bridge = Bridge(services, self.progress, settings, setup)
        self.relay = cast(FakeRelay, bridge._relay)


# The table


@pytest.mark.parametrize(("old", "new"), list(product(CallState, CallState)))
def test_a_state_changes_as_the_table_says_and_in_no_other_way(old: CallState, new: CallState) -> None:
    progress = CallProgress(SESSION, cast(Any, Log()))
    for step in path_to(old):
        progress.change(step)
    if new in CHANGES[old]:
        progress.change(new)
        assert progress.state is new
    else:
        with pytest.raises(IllegalStateChange) as illegal:
            progress.change(new)
        assert (illegal.value.old, illegal.value.new) == (old, new)
        assert progress.state is old, "a change that was refused changes nothing"


def test_every_state_is_reached_and_every_call_can_end() -> None:
    assert set(CHANGES) == set(CallState)
    for state in CallState:
        path_to(state)
        assert CallState.ENDING in CHANGES[state] or state in OVER
    assert [state for state, changes in CHANGES.items() if not changes] == [CallState.ENDED]


def test_a_leg_is_lost_only_while_the_call_is_bridged() -> None:
    for lost in (CallState.AWAITING_AGENT, CallState.AWAITING_CARRIER):
        assert [state for state, changes in CHANGES.items() if lost in changes] == [CallState.BRIDGED]
        assert set(CHANGES[lost]) == {CallState.BRIDGED, CallState.ENDING}


def test_the_diagram_has_every_change() -> None:
    lines = mermaid().splitlines()
    assert len(lines) == 1 + 1 + sum(map(len, CHANGES.values())) + 1
    assert "    connecting --> bridged: the agent is connected" in lines


# What can happen to a call, in every state


@pytest.mark.parametrize(("state", "command"), list(product([*SET_UP, *WITH_BRIDGE], CallCommand)))
async def test_a_command_for_a_call_in_every_state(
    services: CallServices, agent: AgentSettings, state: CallState, command: CallCommand
) -> None:
    made = Call(services, agent, state)
    accepted = made.call.handle(command)
    refused = command is CallCommand.TRANSFER and state is CallState.AWAITING_CARRIER
    refused |= command is CallCommand.HOLD and state is not CallState.BRIDGED
    needs_bridge = (*QUESTIONS, CallCommand.HOLD, CallCommand.RESUME)
    assert accepted is not (refused or (command in needs_bridge and state in SET_UP))
    kept = made.call._phase.command
    leaves_no_trace = (
        CallCommand.CARRIER_ENDED,
        CallCommand.REVOKED,
        CallCommand.CHECK_CARRIER,
        *needs_bridge,
    )
    if not accepted or command in leaves_no_trace:
        assert kept is None
    else:
        assert kept is command
    relay_calls = made.relay.calls if made.relay is not None else []
    if made.relay is None or not accepted:
        assert relay_calls == []
    elif command is CallCommand.TRANSFERRED:
        assert relay_calls == [("detach_carrier", Reasons.transferred)]
    elif command is CallCommand.CHECK_CARRIER:
        assert relay_calls == [("check_carrier", None)] * (state is CallState.BRIDGED)
    elif command in FOLLOWED_BY:
        assert relay_calls == [("finish_playback", 60.0)]
    elif command in TRANSFER_COMMANDS:
        assert relay_calls == [("set_transfer_pending", TRANSFER_COMMANDS[command])]
    ends_the_call = command is CallCommand.CARRIER_ENDED and state is CallState.AWAITING_CARRIER
    assert (made.call.termination.end is not None) is ends_the_call
    assert made.call.state is state, "a command alone changes no state"


@pytest.mark.parametrize("reported", [True, False])
async def test_an_end_that_the_carrier_reports_before_the_call_is_bridged_is_remembered(
    services: CallServices, agent: AgentSettings, reported: bool
) -> None:
    made = Call(services, agent, CallState.CONNECTING)
    if reported:
        assert made.call.handle(CallCommand.CARRIER_ENDED)
    made._bridge(services, agent)
    assert made.relay_.lose_carrier() is not reported, "no other stream of a call that is over is waited for"


@pytest.mark.parametrize("state", [*SET_UP, *WITH_BRIDGE, *OVER])
async def test_another_stream_is_attached_only_to_a_call_that_has_an_agent(
    services: CallServices, agent: AgentSettings, state: CallState
) -> None:
    made = Call(services, agent, state)
    attaches = state in (CallState.BRIDGED, CallState.AWAITING_CARRIER)
    assert made.call.can_attach("support.acme", made.start) is attaches
    leg = new_leg()
    assert made.call.attach_stream(leg, made.start) is attaches
    if attaches:
        assert made.call.state is CallState.AWAITING_CARRIER, "until the new stream is bridged"
        assert not made.call.can_attach("support.acme", made.start), "one at a time"
        assert not made.call.attach_stream(new_leg(), made.start)
    else:
        assert made.call.state is state


@pytest.mark.parametrize("state", [CallState.BRIDGED, CallState.AWAITING_CARRIER])
async def test_a_token_opens_no_second_socket_for_a_call_that_has_one(
    services: CallServices, agent: AgentSettings, state: CallState
) -> None:
    made = Call(services, agent, state, with_media_token=True)
    is_lost = state is CallState.AWAITING_CARRIER
    assert made.call.can_attach("support.acme", None) is is_lost
    assert not made.call.can_attach("support.acme", twilio_start()), "it has no dialect"
    assert made.call.attach_stream(new_leg(), None) is is_lost


@pytest.mark.parametrize("state", [CallState.BRIDGED, CallState.AWAITING_CARRIER])
async def test_no_stream_is_attached_to_a_call_that_has_an_end_or_a_command(
    services: CallServices, agent: AgentSettings, state: CallState
) -> None:
    made = Call(services, agent, state)
    assert not made.call.can_attach("sales.acme", made.start), "another agent's stream"
    made.call.handle(CallCommand.HANG_UP)
    assert not made.call.can_attach("support.acme", made.start)
    made.call.handle(CallCommand.REVOKED)
    assert made.call.can_attach("support.acme", made.start)
    made.call.termination.set(CallEnded(Reasons.stopped))
    assert not made.call.can_attach("support.acme", made.start)
    assert not made.call.attach_stream(new_leg(), made.start)


@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize(
    ("report", "reason"), [("carrier_gone", Reasons.carrier_lost), ("agent_gone", Reasons.agent_lost)]
)
async def test_the_first_far_end_that_leaves_ends_the_call(
    services: CallServices, agent: AgentSettings, state: CallState, report: str, reason: object
) -> None:
    made = Call(services, agent, state)
    getattr(made.progress, report)(CONNECTION_LOST)
    made.progress.carrier_gone(Disconnect(1000, "bye"))
    end = made.call.termination.end
    assert end is not None
    assert end.reason is reason
    assert made.call.termination.received_close is None, "a lost connection has no close frame to pass on"
    if state is CallState.BRIDGED:
        assert made.relay_.calls == [("end", reason)]


async def test_what_a_far_end_closed_with_is_kept_for_the_other(
    services: CallServices, agent: AgentSettings
) -> None:
    made = Call(services, agent, CallState.CONNECTING)
    made.progress.agent_gone(Disconnect(4000, "busy"))
    made.progress.carrier_gone(Disconnect(1000, "bye"))
    assert made.call.termination.received_close == (4000, "busy")


async def test_a_draining_worker_waits_for_the_next_stream_of_its_call(
    services: CallServices, agent: AgentSettings
) -> None:
    made = Call(services, agent, CallState.BRIDGED)
    made.active.draining = True
    assert made.relay_.lose_carrier()
    assert made.call.state is CallState.AWAITING_CARRIER


async def test_an_illegal_change_is_an_internal_error_that_ends_the_call(
    services: CallServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[CallEnded] = []
    upgrade = SimpleNamespace(on_disconnect=None, on_shutdown=None, refuse=refused.append)
    active = ActiveCalls()
    call = InboundCall(services, active, cast(Upgrade, upgrade))
    monkeypatch.setattr(
        InboundCall, "_read_target", lambda call: call._progress.change(CallState.AWAITING_AGENT)
    )
    await call.run()
    assert [end.reason for end in refused] == [Reasons.internal_error]
    assert call.state is CallState.ENDED
    assert len(active) == 0
