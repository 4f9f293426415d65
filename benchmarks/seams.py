# SPDX-License-Identifier: BSD-2-Clause
"""The costs beside the relay: keep-alives, hold audio, refused calls, and a lost agent.

What is compared is measured in turns, A B B A, in windows so short that the machine's drift is in both. Calls
stand between their windows, so that a turn costs no set-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import seams_gateways as gateways
from benchmarks.api import ApiReport, report_of
from benchmarks.bench import OutOfTimeError
from benchmarks.contenders import Contender, nginx_refusing
from benchmarks.load import Generator, Load, Report
from benchmarks.processes import process_tree
from benchmarks.seams_houses import (
    CALLS,
    FULL_SET,
    HOLD,
    HOLDING_SET,
    KEEP_ALIVES,
    KILLED_SET,
    OFTEN,
    PLAIN,
    RECOVERY,
    REFUSALS,
    SAME,
    USUAL,
    Arm,
    House,
    Site,
    opened,
)
from benchmarks.seams_results import HoldingTurn, Recovery, RefusedCalls, SeamResult, Turn

HOLDING = 50  # further callers
LISTENED_S = 0.3  # to holding callers alone: three pieces of their sound each
PAIR_CALLS = 40  # of an agent with two instances: half of them are on the one that is killed
SPOKEN_S = 0.2  # before it is killed
RECOVERY_LIMIT_S = 4.0
REFUSALS_PER_S = 300  # as many as calls are asked to be set up
OPEN_AT_A_TIME = 64
YOUNG_CALLS = 4  # that are opened together where calls are to be of all ages
NO_PLACE, UNKNOWN, FORGED = "at capacity, 503", "unknown agent, 404", "wrong signature, 403"


class FailedError(Exception):
    """A run failed; the text says how."""


@dataclass(slots=True)
class SeamsBench:
    """One execution. `load`, `requests`: wsload and httpload. `directory` is for requests.

    `record`: called with each result. `failures`: missing measurements with their reasons.
    """

    site: Site
    load: Load
    requests: Generator
    directory: Path
    record: Callable[[SeamResult], None]
    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)
    _ageing: list[Arm] = field(default_factory=list)
    _ageing_since: float = 0.0
    _standing: dict[int, int] = field(default_factory=dict)  # how many calls of each set there are

    def measure(self) -> bool:
        """Measure everything of the plan; return True if its time sufficed. Raises StartError."""
        with ExitStack() as stack:
            nginx = nginx_refusing(self.site.ports.pop())
            nginx_pids = stack.enter_context(nginx.running()) if REFUSALS in self.site.parts else []
            houses, self.failures = opened(self.site, stack)
            self._ageing_since = time.monotonic()
            self._ageing = [house.pinging[USUAL] for house in houses if USUAL in house.pinging]
            try:
                for house in houses:
                    if house.pinging:
                        self._tried(house, KEEP_ALIVES, self._keep_alives)
                    if house.seams:
                        self._tried(house, RECOVERY, self._recovery)
                        self._tried(house, HOLD, self._holding)
                        self._tried(house, REFUSALS, lambda house: self._refusals(house, nginx, nginx_pids))
                    if USUAL in house.pinging:
                        self._tried(house, KEEP_ALIVES, self._usual)
            except OutOfTimeError:
                return False
        return True

    def _tried(self, house: House, part: str, measure: Callable[[House], None]) -> None:
        if part not in self.site.parts:
            return
        try:
            measure(house)
        except FailedError as error:
            self.failures.append(f"`{house.name}`, {part.removeprefix('seams, ')}: {error}")

    # What is measured

    def _keep_alives(self, house: House) -> None:
        """No keep-alives against none, for the noise, and against far too many.

        Those calls come at a pace at which their pings are spread evenly.
        """
        plain, same, often = (house.pinging[what] for what in (PLAIN, SAME, OFTEN))
        with self._closing(same):
            self._turns(SAME, house, plain, same)
        with self._closing(often):
            self._open(often, "--rate", str(CALLS / gateways.SHORT_INTERVAL_S))
            self._turns(OFTEN, house, plain, often)

    def _usual(self, house: House) -> None:
        """The default interval against none, among calls of all ages: a young one is not pinged yet."""
        while self._grow():
            self._check_time()
            time.sleep(0.1)
        with self._closing(house.pinging[PLAIN]):
            self._turns(USUAL, house, house.pinging[PLAIN], house.pinging[USUAL])

    def _turns(self, what: str, house: House, plain: Arm, other: Arm) -> None:
        before = self._window(plain)
        for round_ in range(self.site.plan.rounds):
            others = self._window(other), self._window(other)
            after = self._window(plain)
            self.record(Turn(what, house.name, round_, (before, after), others))
            before = after

    def _holding(self, house: House) -> None:
        """Running calls without and with callers who hear holding sound, and those by themselves."""
        assert house.seams is not None
        running = house.seams
        contender = replace(
            running.contender, load_options=("--parameter", f"_pipecatCloudServiceHost={gateways.COLD}")
        )
        options = ("--listen", "--opening", str(HOLDING))
        waiting = Arm(contender, running.pids, running.set + HOLDING_SET, HOLDING, options)
        with self._closing(running):
            idle = self._window(running, "--silent", window_s=LISTENED_S)
            before = self._window(running)
            for round_ in range(self.site.plan.rounds):
                with self._closing(waiting):
                    self._open(waiting)
                    first = self._window(running)
                    alone = self._window(waiting, "--silent", window_s=LISTENED_S)
                    speaking = self._window(waiting, window_s=LISTENED_S)
                    second = self._window(running)
                after = self._window(running)
                if not (alone.heard and speaking.sent):
                    raise FailedError("the callers who hold heard nothing")
                runs = (before, after), (first, second)
                self.record(HoldingTurn(house.name, round_, *runs, idle, alone, speaking))
                before = after

    def _refusals(self, house: House, nginx: Contender, nginx_pids: Sequence[int]) -> None:
        """Each kind of refusal, between two measurements of nginx refusing by itself."""
        assert house.seams is not None
        ours = house.seams.contender, house.seams.pids
        yardstick = nginx, nginx_pids, gateways.refused(gateways.ECHO), 503
        everybody = replace(house.seams, set=house.seams.set + FULL_SET, calls=gateways.MOST_CALLS)
        no_place = {NO_PLACE: (gateways.refused(gateways.ECHO), 503)}
        others = {
            UNKNOWN: (gateways.refused(gateways.UNKNOWN), 404),
            FORGED: (gateways.refused(gateways.GUARDED, gateways.WRONG_SIGNATURE), 403),
        }

        def measure(kinds: dict[str, tuple[bytes, int]]) -> None:
            rounds = range(self.site.plan.rounds)
            before = self._refused(*yardstick)
            found = [(n, what, self._refused(*ours, *kind)) for n in rounds for what, kind in kinds.items()]
            after = self._refused(*yardstick)
            for round_, what, report in found:
                self.record(RefusedCalls(what, house.name, round_, report, (before, after)))

        with self._closing(everybody):
            self._open(everybody)
            measure(no_place)
        measure(others)

    def _recovery(self, house: House) -> None:
        """An instance is killed while calls run: until each of its callers hears another."""
        assert house.seams is not None
        for round_, (pid, port) in enumerate(house.mortal):
            self._check_time()
            service_host = f"{gateways.pair_name(round_)}.bench"
            arguments = ["--url", house.seams.contender.url, "--calls", str(PAIR_CALLS), "--listen"]
            arguments += ["--set", str(house.seams.set + KILLED_SET)]
            arguments += ["--parameter", f"_pipecatCloudServiceHost={service_host}"]
            arguments += ["--warm-up", str(SPOKEN_S), "--seconds", str(RECOVERY_LIMIT_S)]
            values = self.load.run_once([*arguments, "--kill", str(pid), "--victim", str(port)])
            if values is None:
                raise FailedError(self.load.last_error)
            times_ms = tuple(values["recovered_ms"])
            self.record(Recovery(house.name, round_, values["victims"], times_ms))

    # One run

    def _check_time(self) -> None:
        if time.monotonic() - self.began > self.site.plan.budget_s:
            raise OutOfTimeError

    def _grow(self) -> bool:
        """Opens as many of the calls that are to be of all ages as are due; whether more are to come.

        To be called often.
        """
        share = (time.monotonic() - self._ageing_since) / gateways.DEFAULT_INTERVAL_S
        due = min(CALLS, int(share * CALLS / YOUNG_CALLS) * YOUNG_CALLS)
        for arm in self._ageing:
            if due > self._standing.get(arm.set, 0):
                self._open(replace(arm, calls=due))
        return bool(self._ageing) and due < CALLS

    def _open(self, arm: Arm, *options: str) -> None:
        """Opens what is missing of the calls; they stand then."""
        self._run(arm, 0, 0, "--keep", *options)

    @contextmanager
    def _closing(self, *arms: Arm) -> Iterator[None]:
        """Hangs their calls up in the end, whatever comes."""
        try:
            yield
        finally:
            for arm in arms:
                calls = self._standing.pop(arm.set, 0)
                if calls:
                    self._run(replace(arm, calls=calls), 0, 0)

    def _window(self, arm: Arm, *options: str, window_s: float | None = None) -> Report:
        """One window of calls that stand, or do afterwards. Raises FailedError, OutOfTimeError."""
        self._check_time()
        self._grow()
        seconds = window_s or self.site.plan.window_s
        report = self._run(arm, self.site.plan.warm_up_s, seconds, "--keep", *options)
        if report.wrong or report.skipped or report.lost_calls:
            counts = f"{report.wrong} wrong, {report.skipped} not sent, {report.lost_calls} calls lost"
            raise FailedError(f"of {report.sent} messages: {counts}")
        return report

    def _run(self, arm: Arm, warm_up_s: float, seconds: float, *options: str) -> Report:
        arguments = ("--warm-up", str(warm_up_s), "--set", str(arm.set), *arm.options, *options)
        report = self.load.run(
            arm.contender.url,
            arm.calls,
            arm.pids,
            seconds=seconds,
            options=(*arm.contender.load_options, *arguments),
        )
        if report is None:  # the generator was started anew, and all calls are gone
            self._standing.clear()
            self._ageing_since = time.monotonic()
            raise FailedError(self.load.last_error)
        if "--keep" in options:
            self._standing[arm.set] = arm.calls
        if process_tree(arm.pids[0]) != list(arm.pids):
            raise FailedError("a process of the gateway was started or lost")
        return report

    def _refused(self, contender: Contender, pids: Sequence[int], request: bytes, answer: int) -> ApiReport:
        """Refused calls at a pace. Raises FailedError, OutOfTimeError."""
        self._check_time()
        self._grow()
        file = self.directory / "request"
        file.write_bytes(request)
        arguments = [
            "--port",
            str(contender.port),
            "--request",
            str(file),
            "--answer",
            str(answer),
            "--fresh",
        ]
        arguments += ["--connections", str(OPEN_AT_A_TIME), "--rate", str(REFUSALS_PER_S), "--spin"]
        arguments += ["--warm-up", str(self.site.plan.warm_up_s), "--seconds", str(self.site.plan.refusal_s)]
        values = self.requests.run_once([*arguments, "--watch", ",".join(map(str, pids))])
        if values is None:
            raise FailedError(self.requests.last_error)
        report = report_of(values)
        if report.wrong or not report.answered:
            raise FailedError(f"{report.wrong} of {report.answered} refusals were not {answer}")
        return report
