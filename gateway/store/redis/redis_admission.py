# SPDX-License-Identifier: BSD-2-Clause
"""The arguments of the scripts of admission (redis_scripts.py: ADMIT_NEW, and ADMIT for what that leaves)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.session import CallDetails, SessionOptions, SlotLimits
from gateway.store.redis.redis_own_sessions import worker_arguments
from gateway.store.redis.redis_records import details_pairs, option_pairs, rule_of
from gateway.store.redis.redis_values import clean
from gateway.store.worker_id import WorkerId


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that wants a slot. `most`: active sessions of an organization, 0 without a limit."""

    details: CallDetails
    limits: SlotLimits
    options: SessionOptions
    now: float
    attempt: str
    worker: WorkerId
    most: int

    def of_new_call(self) -> Sequence[str | int]:
        """Return the arguments of ADMIT_NEW."""
        limits = self.limits
        instances = sorted(limits.instances, key=lambda each: each[1])
        sizes = Counter(rank for _, rank in instances)
        return (
            clean(self.details.session_id) or "",
            self.attempt,
            self.worker.id,
            repr(float(self.now)),
            self.most,
            "queue" if limits.queue is not None else "",
            limits.per_instance,
            limits.max_instances,
            limits.reserved,
            limits.limit,
            len(sizes),
            *sizes.values(),
            *(instance for instance, _ in instances),
            *details_pairs(self.details),
            *option_pairs(self.options),
        )

    def of_any_call(self) -> Sequence[str | int]:
        """Return the arguments of ADMIT."""
        queue = self.limits.queue
        rule = rule_of(self.limits)
        changed = details_pairs(self.details)
        return (
            clean(self.details.session_id) or "",
            self.attempt,
            *worker_arguments(self.worker),
            repr(float(self.now)),
            self.most,
            queue.size if queue is not None else "",
            repr(float(queue.until)) if queue is not None else "",
            len(rule),
            *rule,
            len(changed),
            *changed,
            *option_pairs(self.options),
        )
