# SPDX-License-Identifier: BSD-2-Clause
"""The rule of admission."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.session import SlotLimits
from gateway.store.admission import AtCapacity, choose_instance

A, B, C = "http://a:8080", "http://b:8080", "http://c:8080"


@pytest.mark.parametrize(
    ("case", "limits", "loads", "instance"),
    [
        ("an idle agent: the first", SlotLimits(((A, 0), (B, 0)), 1, 50), {}, A),
        ("the first is taken: the next", SlotLimits(((A, 0), (B, 0)), 1, 50), {A: 1}, B),
        ("the least loaded", SlotLimits(((A, 0), (B, 0), (C, 0)), 9, 50), {A: 3, B: 2, C: 5}, B),
        (
            "equally loaded: the order given",
            SlotLimits(((C, 0), (B, 0), (A, 0)), 9, 50),
            {A: 2, B: 2, C: 2},
            C,
        ),
        ("ready before least loaded", SlotLimits(((A, 1), (B, 0)), 9, 50), {B: 8}, B),
        ("the ready one is full: less wanted", SlotLimits(((A, 1), (B, 0)), 9, 50), {B: 9}, A),
        ("none is ready: the lowest rank", SlotLimits(((A, 7), (B, 3), (C, 5)), 1, 50), {}, B),
        ("as many in use as may be: share one", SlotLimits(((A, 0), (B, 0)), 2, 1), {B: 1}, B),
        ("as many in use, the less wanted has room", SlotLimits(((A, 0), (B, 2), (C, 0)), 2, 1), {B: 1}, B),
        ("one more instance may open", SlotLimits(((A, 0), (B, 0), (C, 0)), 1, 2), {A: 1}, B),
    ],
)
def test_a_call_gets(case: str, limits: SlotLimits, loads: dict[str, int], instance: str) -> None:
    assert choose_instance(limits, loads) == instance, case


@pytest.mark.parametrize(
    ("case", "limits", "loads", "taken", "limit"),
    [
        ("every instance is full", SlotLimits(((A, 0), (B, 1)), 2, 50), {A: 2, B: 2}, 4, 4),
        (
            "instances left, but no more may be in use",
            SlotLimits(((A, 0), (B, 0), (C, 0)), 1, 2),
            {A: 1, C: 1},
            2,
            2,
        ),
        ("one not offered any more counts", SlotLimits(((A, 0), (B, 0)), 1, 1), {C: 1}, 1, 1),
        ("shrunk while calls ran", SlotLimits(((A, 0),), 1, 1), {A: 3}, 3, 1),
        ("no instance", SlotLimits((), 1, 50), {}, 0, 0),
        ("no instance may be in use", SlotLimits(((A, 0),), 1, 0), {}, 0, 0),
        ("one instance named twice is one", SlotLimits(((A, 0), (A, 0)), 1, 50), {A: 1}, 1, 1),
    ],
)
def test_a_call_is_refused(
    case: str, limits: SlotLimits, loads: dict[str, int], taken: int, limit: int
) -> None:
    with pytest.raises(AtCapacity) as refusal:
        choose_instance(limits, loads)
    assert (refusal.value.in_use, refusal.value.limit) == (taken, limit), case
    assert str(refusal.value) == f"{taken} of {limit} slots in use"


@given(
    ranks=st.lists(st.integers(0, 3), max_size=6),
    per_instance=st.integers(1, 3),
    max_instances=st.integers(0, 7),
    hang_ups=st.lists(st.integers(0, 20)),
)
def test_however_calls_come_and_go_exactly_the_limit_fits(
    ranks: list[int], per_instance: int, max_instances: int, hang_ups: list[int]
) -> None:
    limits = SlotLimits(
        tuple((f"http://{n}", rank) for n, rank in enumerate(ranks)), per_instance, max_instances
    )
    running: list[str] = []

    def fill() -> int:
        while True:
            try:
                running.append(choose_instance(limits, Counter(running)))
            except AtCapacity as full:
                return full.limit

    limit = fill()
    for caller in hang_ups:
        if running:
            running.pop(caller % len(running))
    assert fill() == limit == len(running) == min(len(ranks), max_instances) * per_instance
    assert all(load <= per_instance for load in Counter(running).values())
    assert len(set(running)) <= max_instances
