# SPDX-License-Identifier: BSD-2-Clause
"""What instances print: bounded on disk, and read by the times of a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.pool import output_file
from gateway.pool.output_file import (
    FILE_CLOCK_S,
    OutputFile,
    open_for_instance,
    output_bytes,
    read_output,
    remove_output,
)


class Printer:
    """An instance that prints, and the node that looks after its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_for_instance(path)
        self.file = OutputFile(path, 1000.0)

    def print(self, text: str, at: float) -> None:
        os.write(self._descriptor, text.encode())
        self.file.sample(at)

    def lines(self, since: float, until: float | None = None) -> list[str]:
        return [line.text for line in read_output(self.path, since, until)]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def printer(tmp_path: Path) -> Printer:
    return Printer(tmp_path / "support.acme-20000-1.log")


def test_the_lines_of_a_session_are_those_between_its_beginning_and_its_end(printer: Printer) -> None:
    printer.print("loading\nready\n", 1001.0)
    printer.print("first caller\n", 1010.4)
    printer.print("first caller leaves\n", 1020.9)
    printer.print("second caller\n", 1030.5)
    assert printer.lines(1010.0, 1020.9) == ["first caller", "first caller leaves"]
    assert printer.lines(1030.0) == ["second caller"]
    assert printer.lines(1000.0) == [
        "loading",
        "ready",
        "first caller",
        "first caller leaves",
        "second caller",
    ]
    assert printer.lines(1040.0, 1050.0) == []


def test_each_line_has_the_time_by_which_it_was_there(printer: Printer) -> None:
    printer.print("one\n", 1001.0)
    printer.print("two\nthree\n", 1002.0)
    assert [(line.at, line.text) for line in read_output(printer.path, 1000.0)] == [
        (1001.0, "one"),
        (1002.0, "two"),
        (1002.0, "three"),
    ]


def test_a_line_that_was_begun_before_a_session_is_not_its_own(printer: Printer) -> None:
    printer.print("half of a li", 1001.0)
    printer.print("ne\ncaller\n", 1010.5)
    assert printer.lines(1010.0) == ["caller"]


def test_a_file_that_is_too_long_is_emptied_and_one_before_it_is_stored(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "MAX_BYTES", 100)
    for second in range(50):
        printer.print(f"line {second:04}\n", 1001.0 + second)
        assert output_bytes(printer.path) < 2 * 110 + 1500
    assert printer.file.rotations == 4
    assert printer.lines(1000.0)[-1] == "line 0049"
    assert printer.lines(1000.0) == [f"line {second:04}" for second in range(33, 50)]
    assert printer.lines(1040.5, 1044.0) == ["line 0040", "line 0041", "line 0042", "line 0043"]


def test_a_flood_leaves_its_end(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "MAX_BYTES", 100)
    printer.print("x" * 5000 + "\nthe last line\n", 1001.0)
    assert printer.path.stat().st_size == 0
    assert printer.lines(1000.0)[-1] == "the last line"
    printer.print("after it\n", 1002.0)
    assert printer.lines(1001.5) == ["after it"]


def test_another_gateway_process_goes_on_where_the_one_before_ended(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "MAX_BYTES", 100)
    for second in range(15):
        printer.print(f"line {second:04}\n", 1001.0 + second)
    printer.file = OutputFile(printer.path, 1000.0)
    printer.print("adopted\n", 1100.0)
    assert printer.lines(1099.0) == ["adopted"]
    assert printer.lines(1000.0) == [*(f"line {second:04}" for second in range(15)), "adopted"]


def test_times_are_bounded(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "MAX_SAMPLES", 10)
    for second in range(100):
        printer.print(f"{second}\n", 1001.0 + second)
    assert len(printer.file._times.at) <= 10
    assert printer.lines(1099.5) == ["99"]


def test_lines_that_are_no_text_or_very_long_can_be_read(printer: Printer) -> None:
    os.write(printer._descriptor, b"\xff\xfe\n" + b"y" * 100_000 + b"\n")
    printer.file.sample(1001.0)
    garbled, cut = printer.lines(1000.0)
    assert garbled == "\ufffd\ufffd"
    assert len(cut) == output_file.MAX_LINE_BYTES


def test_files_without_times_have_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("line\n")
    assert list(read_output(tmp_path / "a.log", 0.0)) == []
    assert list(read_output(tmp_path / "b.log", 0.0)) == []


def test_all_files_of_an_instance_are_removed(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "MAX_BYTES", 10)
    printer.print("a longer line than that\n", 1001.0)
    assert len(list(printer.path.parent.iterdir())) == 3
    remove_output(printer.path)
    assert list(printer.path.parent.iterdir()) == []


def test_a_line_that_came_a_moment_ago_has_the_time_of_its_file(printer: Printer) -> None:
    """The size is noted once a second; a session that is over by then has its lines all the same."""
    printer.print("one\n", 1001.0)
    os.write(printer._descriptor, b"two\n")
    os.utime(printer.path, (1001.5, 1001.5))
    assert [line.at for line in read_output(printer.path, 1000.0)] == [1001.0, 1001.5 + FILE_CLOCK_S]
    os.utime(printer.path, (900.0, 900.0))  # a clock that was set back
    assert [line.at for line in read_output(printer.path, 1000.0)] == [1001.0, 1001.0]
