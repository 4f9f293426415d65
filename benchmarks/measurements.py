# SPDX-License-Identifier: BSD-2-Clause
"""The measurements, in their order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress

from benchmarks.bench import Bench, OutOfTimeError, Plan, Standing
from benchmarks.contenders import COUPLING, Contender
from benchmarks.load import Report
from benchmarks.results import Kind, Result
from benchmarks.search import ladder, largest
from gateway.simulator.server_process import StartError

FULL = Plan(
    rounds=3,
    window_s=1.2,
    turns=6,
    turn_s=0.35,
    levels=(200, 500),
    budget_s=735,
    limits=True,
    sweep=(50, 350, 700),
)
QUICK = Plan(rounds=1, window_s=0.5, turns=2, turn_s=0.25, levels=(200, 500), budget_s=84, limits=False)

CALL_SIZES = ladder(20, 3000, 1.06)  # calls
RATE_SIZES = ladder(20, 600, 1.25)  # calls a second: up to twice what is asked for
SET_UP_P99_US = 100_000
RATE_RUN_S = 1.5
HOLD_S = 0.5  # how long a call lasts while the set-up rate is sought
SET_UP_PACE = 300  # calls a second at which the CPU of a set-up is measured: those that are asked for
SET_UP_CALLS = 600
SETTLE_S = 0.5  # for what is done behind the call, its record above all
FEW, MANY = 200, 1000  # calls
FRAME_MS = 20
SWEEP_WINDOW_S = 0.7
BELOW_THE_GUESS = 2  # steps at which the search begins
MOST_CALLS_GUESS = 500
MOST_CALLS_WINDOW_S = 1.5  # long enough for the queue of a core that is 2 % too full to pass 20 ms
HOPELESS_P99_US = 60_000  # a failure this clear gets no second try
MESSAGES_PER_CALL = 2 * 1000 // FRAME_MS  # relayed in a second

# Size and processes to: the report, whether it was good, whether a failure is worth a second try.
Attempt = Callable[[int, Sequence[int]], tuple[Report | None, bool, bool]]


def measure(bench: Bench) -> bool:
    """Measure everything of the plan, figures first, the picture last; return True if its time sufficed."""
    try:
        for round_ in range(bench.plan.rounds):
            levels(bench, round_)
            set_up_cpu(bench, round_)
            workers(bench, round_)
            many_calls(bench, round_)
        if bench.plan.limits:
            for round_ in range(bench.plan.rounds):
                most_calls(bench, round_)
            for round_ in range(bench.plan.rounds):
                set_up_rate(bench, round_)
            sweep(bench)
            workers_most(bench)
    except OutOfTimeError:
        return False
    return True


def levels(bench: Bench, round_: int) -> None:
    """Measure every contender at every level of calls, in turns with nginx.

    The neighbours make the drift of a noisy machine cancel: a ratio is to the mean of the two.
    """
    for calls in bench.plan.levels:
        with (
            bench.running_undisturbed(bench.nginx) as pids,
            bench.standing(bench.nginx, calls, pids, 0) as yardstick,
        ):
            before = yardstick.window(bench.plan.turn_s)
            for contender in bench.others:
                if calls != FEW and contender.name.endswith(COUPLING):
                    continue  # asked for at one level only
                with suppress(StartError):
                    before = turns(bench, round_, contender, yardstick, before)
            guess_most_calls(bench, bench.nginx.name, before)


def turns(
    bench: Bench, round_: int, contender: Contender, yardstick: Standing, before: Report | None
) -> Report | None:
    """Measure one contender and nginx in turns; all calls stay open, so that a turn costs no set-up.

    `before`: nginx's latest window, from before the contender was started. Returns nginx's last.
    """
    calls, seconds = yardstick.calls, bench.plan.turn_s
    with (
        bench.running_undisturbed(contender) as pids,
        bench.standing(contender, calls, pids, 1) as standing,
    ):
        for turn in range(bench.plan.turns if contender.command else 1):
            report = standing.window(seconds)
            error = "" if report else bench.load.last_error
            after = yardstick.window(seconds)
            neighbours = (before, after)
            bench.record(
                Result(Kind.LOAD, round_, contender.name, calls, report, neighbours, error=error, turn=turn)
            )
            before = after
    guess_most_calls(bench, contender.name, report)
    return before


def guess_most_calls(bench: Bench, name: str, report: Report | None) -> None:
    """Where to begin the search of the most calls: where the core would be nearly full."""
    if report and report.cpu_per_million:
        full = 1e6 / (report.cpu_per_million * MESSAGES_PER_CALL)
        bench.guesses[Kind.MOST_CALLS, name] = 0.9 * full


def gateways_and_nginx(bench: Bench) -> Sequence[Contender]:
    """The gateways, and nginx to look at beside them; no figure needs it, so the quick run goes without."""
    return (bench.nginx, *bench.gateways) if bench.plan.limits else bench.gateways


def set_up_cpu(bench: Bench, round_: int) -> None:
    """CPU per call from its TCP connection to its first message back, with the work done behind the call."""
    for contender in gateways_and_nginx(bench):
        with suppress(StartError), bench.running(contender) as pids:
            # What only the first call of a process pays is not the price of a call.
            bench.run(contender, 20, pids, "--rate", "100", "--hold", "0.1", window_s=0)
            options = ("--rate", str(SET_UP_PACE), "--settle", str(SETTLE_S))
            report = bench.run(contender, SET_UP_CALLS, pids, *options, window_s=0)
            bench.keep(Kind.SET_UP, round_, contender, SET_UP_CALLS, report)


def many_calls(bench: Bench, round_: int) -> None:
    """The cost of a message among five times as many calls, with as many messages and with five times."""
    slow = ("--interval-ms", str(FRAME_MS * MANY // FEW), "--keep")
    for contender in gateways_and_nginx(bench):
        with suppress(StartError), bench.running(contender) as pids:
            bench.keep(Kind.FEW, round_, contender, FEW, bench.run(contender, FEW, pids))
            bench.keep(Kind.MANY_SLOW, round_, contender, MANY, bench.run(contender, MANY, pids, *slow))
            bench.keep(Kind.MANY, round_, contender, MANY, bench.run(contender, MANY, pids))


def workers(bench: Bench, round_: int) -> None:
    """The cost of a message with one worker and with two that have twice the calls."""
    for one, two in bench.pairs:
        for contender, calls in ((one, FEW), (two, 2 * FEW)):
            with suppress(StartError), bench.running(contender) as pids:
                report = bench.run_sharing(contender, calls, pids)
                bench.keep(Kind.WORKERS, round_, contender, calls, report)


def find_limit(
    bench: Bench,
    kind: Kind,
    round_: int,
    contender: Contender,
    sizes: Sequence[int],
    attempt: Attempt,
    *,
    first: float,
) -> None:
    """Search the largest good size and records it with its run.

    It begins where the round before ended, or with `first`. The contender is started afresh for each attempt,
    since an overload may leave traces.
    """
    good_reports: dict[int, Report | None] = {}

    def good(size: int) -> bool:
        for _ in range(2):
            with bench.running(contender) as pids:
                report, held, worth_another = attempt(size, pids)
            if held:
                good_reports[size] = report
            if held or not worth_another:
                return held
        return False

    found = largest(sizes, bench.guesses.get((kind, contender.name), first), good)
    if found is None:
        bench.record(Result(kind, round_, contender.name, 0, None, value=0, error=bench.load.last_error))
        return
    bench.guesses[kind, contender.name] = found
    bench.record(Result(kind, round_, contender.name, found, good_reports[found], value=found))


def judged(report: Report | None) -> tuple[Report | None, bool, bool]:
    """Whether a run with media kept up, and whether it failed so narrowly that it is worth another try."""
    if report is None:
        return None, False, False
    return report, report.kept_up, report.latency_us.p99 < HOPELESS_P99_US


def most_calls(bench: Bench, round_: int) -> None:
    """Measure how many calls one core carries with the round trip's p99 within 20 ms."""
    for contender in (bench.nginx, *bench.gateways):
        with suppress(StartError):
            guess = bench.guesses.get((Kind.MOST_CALLS, contender.name), MOST_CALLS_GUESS)
            at = max(0, bisect_left(CALL_SIZES, guess) - BELOW_THE_GUESS)
            found = climbed(bench, contender, at)
            while found is None and at > 0:
                at = max(0, at - 2 * BELOW_THE_GUESS)
                found = climbed(bench, contender, at)
            calls = found.calls if found else 0
            error = "" if found else bench.load.last_error
            bench.record(
                Result(Kind.MOST_CALLS, round_, contender.name, calls, found, value=calls, error=error)
            )
            if calls:
                bench.guesses[Kind.MOST_CALLS, contender.name] = calls


def climbed(bench: Bench, contender: Contender, at: int) -> Report | None:
    """The last run that kept up, of calls that grow in number from run to run; None if not even the first.

    It ends with the first number that is too large: no run comes after an overload but its own second try.
    """
    best = None
    with bench.running(contender) as pids, bench.standing(contender, 0, pids, 0) as standing:
        for standing.calls in CALL_SIZES[at:]:
            for _ in range(2):
                report, kept_up, narrowly = judged(standing.window(MOST_CALLS_WINDOW_S))
                if kept_up or not narrowly:
                    break
            if not kept_up:
                break
            best = report
    return best


def workers_most(bench: Bench) -> None:
    """The most calls of two workers when they and the load share all cores.

    One round with one variant: it takes long, and nobody asks for it.
    """

    def attempt(contender: Contender) -> Attempt:
        return lambda calls, pids: judged(bench.run_sharing(contender, calls, pids))

    for one, two in bench.pairs[-1:]:
        first = 1.3 * bench.guesses.get((Kind.MOST_CALLS, one.name), MOST_CALLS_GUESS)
        with suppress(StartError):
            find_limit(bench, Kind.WORKERS_MOST, 0, two, CALL_SIZES, attempt(two), first=first)


def set_up_rate(bench: Bench, round_: int) -> None:
    """The most calls a second that one core sets up, and ends again, with the set-up's p99 within 100 ms."""

    def attempt(contender: Contender) -> Attempt:
        def at(rate: int, pids: Sequence[int]) -> tuple[Report | None, bool, bool]:
            options = ("--rate", str(rate), "--hold", str(HOLD_S))
            report = bench.run(contender, int(rate * RATE_RUN_S), pids, *options, window_s=0)
            held = report is not None and report.set_up_us.p99 <= SET_UP_P99_US
            return report, held, report is not None

        return at

    for contender in bench.gateways:
        with suppress(StartError):
            find_limit(
                bench,
                Kind.SET_UP_RATE,
                round_,
                contender,
                RATE_SIZES,
                attempt(contender),
                first=RATE_SIZES[-1],
            )


def sweep(bench: Bench) -> None:
    """Cost and delay at growing numbers of calls, until a contender no longer keeps up."""
    sizes = sorted({*bench.plan.sweep, *bench.plan.levels})
    relays = [c for c in bench.others if not c.name.endswith(COUPLING)]
    for contender in (bench.nginx, *relays, bench.naive):
        with suppress(StartError), bench.running(contender) as pids:
            for calls in sizes:
                report = bench.run(contender, calls, pids, window_s=SWEEP_WINDOW_S)
                bench.keep(Kind.SWEEP, 0, contender, calls, report)
                _, kept_up, narrowly = judged(report)
                if not (kept_up or narrowly):
                    break
