# SPDX-License-Identifier: BSD-2-Clause
"""What instances have printed, searched by session, time, text and level, over instances and nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.pool import agent_output
from gateway.pool.agent_output import (
    AgentOutput,
    OutputQuery,
    Page,
    PrintedLine,
    TooManySearches,
    answer_of,
    level_of,
    merged,
    page_of,
    query_of,
    search_output,
)
from gateway.pool.instance_files import InstanceFile, InstanceFiles
from gateway.pool.output_file import OutputFile

DAY = 1_700_000_000.0
ALL = OutputQuery("support.acme", newest_first=False)


class Node:
    """The folder of a node, in which instances have printed."""

    def __init__(self, folder: Path) -> None:
        self.files = InstanceFiles(folder)
        self.folder = self.files.make_folder()
        self.outputs: dict[str, OutputFile] = {}

    def instance(
        self, name: str, agent: str = "support.acme", port: int = 20_000, at: float = DAY
    ) -> InstanceFile:
        """An instance that is started at a time."""
        output = self.folder / f"{name}.log"
        output.touch()
        made = InstanceFile(
            id=name,
            agent=agent,
            place=0,
            url=f"http://127.0.0.1:{port}",
            spec="",
            started_at=at,
            served=0,
            stop_grace_s=0.0,
            output=str(output),
            pid=1,
            born=1,
            namespace="",
            node="here",
        )
        self.files.save(made)
        self.outputs[name] = OutputFile(output, at)
        return made

    def prints(self, name: str, at: float, *lines: str) -> None:
        """It prints lines, which are noted at a time."""
        with (self.folder / f"{name}.log").open("a") as output:
            output.writelines(f"{line}\n" for line in lines)
        self.outputs[name].sample(at)

    def found(self, query: OutputQuery = ALL) -> list[str]:
        page = merged([search_output(self.files, query)], query)
        return [line.text for line in page.lines]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "pool")


def test_the_lines_of_a_session_are_those_of_its_instance_in_its_time(node: Node) -> None:
    node.instance("one")
    node.instance("two", port=20_001)
    node.prints("one", DAY + 5, "started")
    node.prints("one", DAY + 11, "hello Ada")
    node.prints("two", DAY + 11, "hello Bob")
    node.prints("one", DAY + 20, "bye Ada")
    node.prints("one", DAY + 40, "hello Eve")
    session = replace(ALL, instance="http://127.0.0.1:20000", since=DAY + 10, until=DAY + 22)
    assert node.found(session) == ["hello Ada", "bye Ada"]


def test_lines_of_all_instances_are_in_one_order(node: Node) -> None:
    node.instance("one")
    node.instance("two", port=20_001, at=DAY + 1)
    for second in range(2, 8, 2):
        node.prints("one", DAY + second, f"one at {second}")
        node.prints("two", DAY + second + 1, f"two at {second + 1}", "and more")
    expected = ["one at 2", "two at 3", "and more", "one at 4", "two at 5", "and more"]
    expected += ["one at 6", "two at 7", "and more"]
    assert node.found() == expected
    assert node.found(replace(ALL, newest_first=True)) == expected[::-1]
    assert node.found(replace(ALL, newest_first=True, limit=2)) == ["and more", "two at 7"]
    assert node.found(replace(ALL, newest_first=True, limit=2, offset=2)) == ["one at 6", "and more"]
    assert node.found(replace(ALL, limit=2, offset=8)) == ["and more"]
    assert node.found(replace(ALL, offset=100)) == []


def test_another_agents_lines_are_never_found(node: Node) -> None:
    node.instance("one", agent="support.globex")
    node.prints("one", DAY + 2, "theirs")
    assert node.found() == []
    assert node.found(replace(ALL, instance="http://127.0.0.1:20000")) == []


def test_lines_are_found_by_text_level_and_time(node: Node) -> None:
    node.instance("one")
    node.prints("one", DAY + 2, "2023 | DEBUG | a", "2023 | ERROR | The store", "plain", "")
    node.prints("one", DAY + 9, "2023 | warning | the STORE")
    assert node.found(replace(ALL, text="the store")) == [
        "2023 | ERROR | The store",
        "2023 | warning | the STORE",
    ]
    assert node.found(replace(ALL, level="INFO")) == ["plain"]
    assert node.found(replace(ALL, level="WARNING")) == ["2023 | warning | the STORE"]
    assert node.found(replace(ALL, until=DAY + 5, level="DEBUG")) == ["2023 | DEBUG | a"]
    assert node.found(replace(ALL, since=DAY + 5)) == ["2023 | warning | the STORE"]
    assert "" not in node.found()


def test_lines_are_found_by_when_their_instance_was_started(node: Node) -> None:
    node.instance("old")
    node.instance("new", port=20_001, at=DAY + 100)
    node.prints("old", DAY + 150, "of the old one")
    node.prints("new", DAY + 150, "of the new one")
    assert node.found(replace(ALL, started=((DAY + 50, DAY + 200),))) == ["of the new one"]
    assert node.found(replace(ALL, started=((DAY - 1, DAY + 50), (DAY + 300, DAY + 400)))) == [
        "of the old one"
    ]
    assert node.found(replace(ALL, started=())) == []


def test_output_of_instances_that_have_ended_is_found(node: Node) -> None:
    ended = node.instance("one")
    node.prints("one", DAY + 2, "then")
    node.files.end(ended, DAY + 3)
    node.instance("two", at=DAY + 10)  # at the same port
    node.prints("two", DAY + 12, "now")
    assert node.found() == ["then", "now"]
    assert node.found(replace(ALL, instance="http://127.0.0.1:20000", until=DAY + 5)) == ["then"]
    assert node.found(replace(ALL, since=DAY + 5)) == ["now"]


def test_a_search_reads_so_much_and_says_so(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_output, "SCAN_BYTES", 1000)
    node.instance("one")
    node.prints("one", DAY + 2, *["x" * 99 for _ in range(20)])
    page = search_output(node.files, ALL)
    assert (page.is_exact, page.total) == (False, 10)
    monkeypatch.setattr(agent_output, "SCAN_BYTES", 10_000)
    page = search_output(node.files, ALL)
    assert (page.is_exact, page.total) == (True, 20)


def test_the_newest_lines_are_found_without_reading_all(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_output, "TAIL_BYTES", 100)
    node.instance("one")
    for second in range(1, 50):
        node.prints("one", DAY + second, f"{second:09d}")
    newest = replace(ALL, newest_first=True, limit=3)
    page = search_output(node.files, newest)
    assert [line.text for line in page.lines][:3] == ["000000049", "000000048", "000000047"]
    assert page.total < 15
    assert not page.is_exact
    everything = search_output(node.files, replace(newest, limit=40))
    assert (everything.total, everything.is_exact) == (49, True)


def test_a_page_has_so_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_output, "PAGE_BYTES", 250)
    lines = tuple(PrintedLine(DAY + number, "x" * 100, DAY) for number in range(10))
    page = merged([Page(lines, 10, True)], ALL)
    assert (len(page.lines), page.total, page.is_exact) == (3, 10, False)


def test_a_line_that_is_no_text_breaks_nothing(node: Node) -> None:
    node.instance("one")
    with (node.folder / "one.log").open("ab") as output:
        output.write(b"\xff\xfe caf\xc3\xa9\nhalf a li")
    node.outputs["one"].sample(DAY + 2)
    assert node.found() == ["\ufffd\ufffd café", "half a li"]


def test_a_node_without_a_folder_has_printed_nothing(tmp_path: Path) -> None:
    assert search_output(InstanceFiles(tmp_path / "nothing"), ALL) == Page((), 0, True)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("2026 | WARNING | x", "WARNING"),
        ("critical", "CRITICAL"),
        ("a plain line", "INFO"),
        ("ERROR after DEBUG", "DEBUG"),
    ],
)
def test_the_level_of_a_line_is_what_the_cli_takes_it_for(text: str, level: str) -> None:
    assert level_of(text) == level


class OtherNodes:
    """One other node, whose answer is made by the test. `page`: None for one that gives no answer."""

    url = "http://10.0.0.1:7861"

    def __init__(self, page: Page | None) -> None:
        self.page = page
        self.queries: list[dict[str, Any]] = []

    async def others(self) -> dict[str, list[str]]:
        return {"http://10.0.0.2:7861": ["one", "two"]}

    async def output(self, workers: Sequence[str], query: dict[str, Any], timeout_s: float) -> Any:
        assert list(workers) == ["one", "two"]
        self.queries.append(json.loads(json.dumps(query)))
        return None if self.page is None else json.loads(json.dumps(answer_of(self.page)))


async def test_lines_of_all_nodes_are_one_page(node: Node) -> None:
    node.instance("one")
    node.prints("one", DAY + 2, "here at 2")
    node.prints("one", DAY + 6, "here at 6")
    others: Any = OtherNodes(Page((PrintedLine(DAY + 4, "there at 4", DAY),), 7, True))
    query = replace(ALL, limit=2, text="at", started=((DAY - 1, DAY + 1),))
    page = await AgentOutput(others).search(node.folder, query)
    assert [line.text for line in page.lines] == ["here at 2", "there at 4"]
    assert (page.total, page.is_exact) == (9, True)
    assert query_of(others.queries[0]) == query


async def test_a_node_that_does_not_answer_makes_the_total_a_least_one(node: Node) -> None:
    node.instance("one")
    node.prints("one", DAY + 2, "here")
    others: Any = OtherNodes(None)
    page = await AgentOutput(others).search(node.folder, ALL)
    assert ([line.text for line in page.lines], page.is_exact) == (["here"], False)


async def test_a_node_tells_others_of_its_own_instances_alone(node: Node) -> None:
    """Two nodes of one machine share a folder, and no line comes twice."""
    node.instance("one")
    node.prints("one", DAY + 2, "of the one")
    node.files.save(replace(node.instance("two", port=20_001), node=OtherNodes.url))
    node.prints("two", DAY + 3, "of the other")
    node.files.save(replace(node.instance("three", port=20_002), node="http://10.0.0.2:7861"))
    node.prints("three", DAY + 4, "of the third")
    others: Any = OtherNodes(Page((PrintedLine(DAY + 4, "of the third", DAY),), 1, True))
    output = AgentOutput(others)
    request = json.loads(json.dumps(asdict(ALL)))
    answer = await output.answer(node.folder, request)
    assert [text for _, text, _ in answer["lines"]] == ["of the other"]
    assert (answer["total"], answer["exact"]) == (1, True)
    page = await output.search(node.folder, ALL)
    assert [line.text for line in page.lines] == ["of the one", "of the other", "of the third"]


@pytest.mark.parametrize(
    "request_",
    [{}, {"agent": "a"}, {**asdict(ALL), "since": "x"}, {**asdict(ALL), "started": [1]}],
)
async def test_a_query_that_cannot_be_understood_is_refused(node: Node, request_: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        await AgentOutput().answer(node.folder, request_)


def test_an_answer_to_another_node_has_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_output, "NODE_PAGE_BYTES", 1000)
    lines = tuple(PrintedLine(DAY + number, "é" * 20, DAY) for number in range(10))
    answer = answer_of(Page(lines, 10, True))
    assert len(json.dumps(answer)) < 1100
    assert (answer["total"], answer["exact"]) == (10, False)
    assert page_of(answer).lines == lines[: len(answer["lines"])]


async def test_more_searches_than_may_wait_are_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_output, "MAX_WAITING", 2)
    output = AgentOutput()
    async with output._turn:
        waiting = [asyncio.ensure_future(output.search(node.folder, ALL)) for _ in range(3)]
        while output._waiting < 3:
            await asyncio.sleep(0)
        with pytest.raises(TooManySearches):
            await output.search(node.folder, ALL)
        waiting[0].cancel()
    assert [await each for each in waiting[1:]] == [Page((), 0, True)] * 2
    assert output._waiting == 0
    assert await output.search(node.folder, ALL) == Page((), 0, True)
