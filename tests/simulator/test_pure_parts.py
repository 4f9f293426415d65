# SPDX-License-Identifier: BSD-2-Clause
"""The parts of the simulator that need no socket: URLs, playback, the caller, finding the echo."""

from __future__ import annotations

import pytest

from gateway.simulator.call_plan import CallPlan
from gateway.simulator.caller import Caller, Stage
from gateway.simulator.carrier_profiles import PROFILES
from gateway.simulator.commands import Carrier
from gateway.simulator.dial_url import dial
from gateway.simulator.echo import TimedAudio, match_echo
from gateway.simulator.playback import SETTLE_TICKS, Playback
from serializers.registry import DIALECTS


def test_every_dialect_can_be_simulated() -> None:
    assert set(DIALECTS) == set(PROFILES) == {carrier.value for carrier in Carrier}


@pytest.mark.parametrize(
    ("url", "carrier", "dialled"),
    [
        ("ws://h:7860", "plivo", "ws://h:7860/ws/plivo?serviceHost=a.o"),
        ("ws://h:7860/", "telnyx", "ws://h:7860/ws/telnyx?serviceHost=a.o"),
        ("wss://h/ws/plivo?x=1", "plivo", "wss://h/ws/plivo?x=1&serviceHost=a.o"),
        ("ws://h/ws/plivo/b.o", "plivo", "ws://h/ws/plivo/b.o"),
        ("ws://h/ws/telnyx?serviceHost=b.o", "telnyx", "ws://h/ws/telnyx?serviceHost=b.o"),
        ("ws://h/ws/twilio/b.o?x=1#f", "twilio", "ws://h/ws/twilio/b.o"),
        ("ws://h:8080/ws", "twilio", "ws://h:8080/ws"),
    ],
)
def test_the_agent_is_named_unless_the_url_names_one(url: str, carrier: str, dialled: str) -> None:
    assert dial(url, carrier, "a.o").url == dialled


def test_regions_of_localhost_are_this_machine() -> None:
    dialled = dial("ws://eu-central.localhost:7860", "twilio", None)
    assert (dialled.url, dialled.host) == ("ws://eu-central.localhost:7860/ws/twilio", "127.0.0.1")
    assert dialled.parameters == {}
    assert dial("ws://[::1]:7860", "twilio", None).host == "::1"


class TestPlayback:
    def test_sound_is_played_in_order_with_its_marks_and_silence_after_it(self) -> None:
        playback = Playback(2, b"..")
        playback.add(b"ab")
        playback.add(b"cd")
        assert playback.mark("m") == []
        playback.add(b"e")
        assert playback.mark("n") == []
        for _ in range(SETTLE_TICKS):
            assert playback.play() == (b"..", [])
        assert playback.play() == (b"ab", [])
        assert playback.play() == (b"cd", ["m"])
        assert playback.play() == (b"e.", ["n"])
        assert playback.idle
        assert playback.play() == (b"..", [])

    def test_a_mark_is_passed_at_once_when_nothing_waits(self) -> None:
        playback = Playback(2, b"..")
        assert playback.mark("m") == ["m"]
        playback.add(b"")
        assert playback.mark("n") == ["n"]

    def test_a_clear_gives_the_marks_back(self) -> None:
        playback = Playback(2, b"..")
        playback.add(b"abcd")
        playback.mark("m")
        playback.mark("n")
        assert playback.clear() == ["m", "n"]
        assert playback.play() == (b"..", [])
        assert playback.clear() == []


class TestCaller:
    def test_lets_the_agent_finish_then_speaks_presses_listens_and_hangs_up(self) -> None:
        plan = CallPlan("", "twilio", b"", 8000, digits="1#", answer_wait=1.0, pause=0.1, quiet=0.2)
        caller = Caller(plan, [b"one", b"two"], 20)
        story: list[object] = []
        for tick in range(100):
            caller.listen(5 <= tick < 15)
            turn = caller.turn()
            if caller.stage is Stage.DONE:
                break
            story.append(turn.audio or turn.digit or "")
        # 0.3 s until the agent has ended, 0.1 s of silence; keys 0.2 s apart; 0.2 s of silence at the end.
        assert story == [""] * 19 + [b"one", b"two", "1", *[""] * 9, "#", *[""] * 9]

    def test_speaks_when_the_agent_says_nothing(self) -> None:
        plan = CallPlan("", "twilio", b"", 8000, answer_wait=0.1)
        caller = Caller(plan, [b"one"], 20)
        turns = []
        for _ in range(6):
            caller.listen(False)
            turns.append(caller.turn().audio)
        assert turns == [None, None, None, None, b"one", None]

    def test_does_not_listen_forever(self) -> None:
        plan = CallPlan("", "twilio", b"", 8000, greeting_limit=0.5, reply_limit=0.5)
        caller = Caller(plan, [b"one"], 20)
        spoke_at = None
        for tick in range(100):
            caller.listen(True)
            if caller.turn().audio:
                spoke_at = tick
            assert caller.expected >= 0
        assert spoke_at == 24
        assert caller.stage is Stage.DONE


class TestEcho:
    FRAMES = tuple(bytes(range(first, first + 20)) for first in (0, 20, 40))

    def test_whatever_its_framing(self) -> None:
        sent = [TimedAudio(float(number), frame) for number, frame in enumerate(self.FRAMES)]
        stream = b"greeting" + b"".join(self.FRAMES)
        received = [TimedAudio(5.0 + at, stream[at : at + 34]) for at in range(0, len(stream), 34)]
        echo = match_echo(sent, received)
        assert echo is not None
        assert echo.lost == 0
        assert echo.delays_ms == (5000.0, 37000.0, 38000.0)
        assert echo.percentile(50) == 37000.0
        assert echo.percentile(99) == 38000.0

    def test_lost_frames_are_counted_and_silence_is_not(self) -> None:
        sent = [TimedAudio(0.0, frame) for frame in (bytes(20), *self.FRAMES, bytes(20))]
        received = [TimedAudio(1.0, self.FRAMES[0]), TimedAudio(1.0, self.FRAMES[2])]
        echo = match_echo(sent, received)
        assert echo is not None
        assert (len(echo.delays_ms), echo.lost) == (2, 1)

    def test_another_voice_is_no_echo(self) -> None:
        assert match_echo([TimedAudio(0.0, self.FRAMES[0])], [TimedAudio(1.0, self.FRAMES[1])]) is None
        assert match_echo([], []) is None
