# SPDX-License-Identifier: BSD-2-Clause
"""One measurement as it is kept in results.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from benchmarks.load import Report


class Kind(StrEnum):
    """The results of measurements."""

    LOAD = "load"  # a window of paced calls, between two windows of nginx
    SET_UP = "set_up"  # the CPU of setting calls up, paced, none ended
    SET_UP_RATE = "set_up_rate"  # the most calls a second that are set up and ended again
    MOST_CALLS = "most_calls"  # the most calls with the round trip's p99 within 20 ms
    FEW = "few"  # 200 calls, and in the same process right after:
    MANY_SLOW = "many_slow"  # 1,000 calls that send as many messages a second as the 200
    MANY = "many"  # 1,000 calls at the full pace
    WORKERS = "workers"  # one worker, or two, with a load that sleeps when it has nothing to do
    WORKERS_MOST = "workers_most"  # the most calls of two workers that share both cores with the load
    SWEEP = "sweep"  # growing numbers of calls, for the picture


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement of one contender.

    `value`: the limit that was found, in calls or calls a second; None where none was sought. `report`: the
    run (for a limit: the run at it); None where the contender failed, `error` says how. `nginx`: the reports
    of nginx right before and right after. `turn`: of several in a round, where they are taken in turns.
    """

    kind: Kind
    round: int
    name: str
    calls: int
    report: Report | None
    nginx: tuple[Report | None, Report | None] = (None, None)
    value: float | None = None
    error: str = ""
    turn: int = 0

    def line(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Result:
        """Return the result in a line that line() wrote."""
        values: dict[str, Any] = json.loads(line)
        reports = [r and Report.from_json(r) for r in (values["report"], *values["nginx"])]
        return cls(
            **{
                **values,
                "kind": Kind(values["kind"]),
                "report": reports[0],
                "nginx": (reports[1], reports[2]),
            }
        )
