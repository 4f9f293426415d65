# SPDX-License-Identifier: BSD-2-Clause
"""How many instances an agent needs and has, of instances that something else starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[4] / "docs" / "agents.md"
HERE, THERE = "http://127.0.0.1:8080", "http://127.0.0.1:8081"


async def scaling(api: Any, agent: str = "support") -> dict[str, Any]:
    found: dict[str, Any] = (await api("GET", f"/v1/agents/{agent}")).json["scaling"]
    return found


async def test_spare_instances_are_needed_beside_those_with_calls(api: Any) -> None:
    """support.acme has two instances, a minimum of one and a maximum of five."""
    numbers = [await scaling(api)]
    for _ in range(3):
        await api.begins("support.acme")
        numbers.append(await scaling(api))
    assert [each["needed"] for each in numbers] == [1, 2, 4, 5]
    assert [each["freePlaces"] for each in numbers] == [2, 1, 0, 0]
    assert {(each["running"], each["ready"], each["draining"]) for each in numbers} == {(2, 2, 0)}


async def test_an_instance_that_does_not_answer_has_no_place(api: Any) -> None:
    api.services.calls.health.watch([HERE, THERE])
    api.services.calls.health.mark_unreachable(HERE)
    found = await scaling(api)
    assert (found["ready"], found["freePlaces"], found["needed"]) == (1, 1, 1)


async def test_instances_that_take_several_calls_are_needed_for_as_many(work: Callable[..., Any]) -> None:
    agent = {"name": "busy", "organization": "acme", "sessions_per_instance": 4, "buffer": 1}
    api = await work(agents=[agent])
    for _ in range(5):
        await api.begins("busy.acme")
    found = await scaling(api, "busy")
    assert (found["needed"], found["freePlaces"]) == (3, 0)


async def test_kedas_example_names_a_number_of_the_answer(api: Any) -> None:
    """`make interop` checks the rest of it with KEDA's own models."""
    text = PAGE.read_text(encoding="utf-8").partition("kind: ScaledObject\n")[2].partition("```")[0]
    values = dict(re.findall(r"^ +(\w+): \"?([^\"\n]+)\"?$", text, re.MULTILINE))
    answer = (await api("GET", values["url"].partition(":7860")[2])).json
    number = reduce(lambda value, name: value[name], values["valueLocation"].split("."), answer)
    assert isinstance(number, int)
    assert (values["targetValue"], values["authMode"]) == ("1", "bearer")
