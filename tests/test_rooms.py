# SPDX-License-Identifier: BSD-2-Clause
"""Rooms: which may import which, and how every file begins."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from docs import rooms

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "serializers", "texml", "tests", "benchmarks", "docs")
LICENCE = "# SPDX-License-Identifier: BSD-2-Clause"
BINARIES = Path(sys.executable).parent


def python_files() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))
    yield from ROOT.glob("*.py")


def test_the_import_contracts_hold() -> None:
    """The contracts of pyproject.toml, [tool.importlinter]."""
    report = subprocess.run(
        [BINARIES / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert report.returncode == 0, report.stdout + report.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken." in report.stdout


def test_every_room_is_in_the_layers() -> None:
    """docs/architecture.md, "Rooms": a new folder of gateway/ needs a place in the contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    folders = {
        path.stem
        for path in (ROOT / "gateway").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    missing = [
        room for room in folders if not any(f"{name}.".startswith(f"gateway.{room}.") for name in named)
    ]
    assert missing == []


def test_every_file_names_its_licence_first() -> None:
    files = list(python_files())
    assert len(files) > 100
    assert [str(file) for file in files if file.read_text().partition("\n")[0] != LICENCE] == []


def test_every_file_has_a_docstring() -> None:
    silent = [str(file) for file in python_files() if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


def test_one_file_adapts_uvicorn() -> None:
    """The adapter uses internals that uvicorn does not promise. The fake agent is a server of its own."""
    importing = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "gateway").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Import) and any(name.name.startswith("uvicorn") for name in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn"))
    }
    assert importing == {"gateway/server/uvicorn_adapter.py", "gateway/simulator/fake_agent.py"}


def test_no_imports_run_in_circles() -> None:
    assert rooms.circles(rooms.import_graph(rooms.modules())) == []


def test_no_room_imports_one_above_or_beside() -> None:
    graph = rooms.import_graph(rooms.modules())
    assert list(rooms.upward_imports(graph, rooms.layers())) == []


def test_the_report_names_every_room() -> None:
    command = [sys.executable, "docs/rooms.py"]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (report.returncode, report.stderr) == (0, ""), report.stdout
    assert all(f"\n{room} " in f"\n{report.stdout}" for room in ("gateway.calls", "serializers", "texml"))


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"e", "a"}}
    assert rooms.circles(graph) == [["b", "c"], ["e", "f"]]


def test_imports_upward_and_sideways_are_found() -> None:
    graph = {"p.low": {"p.high"}, "p.high": {"p.low", "p.beside.x"}, "p.beside.x": set()}
    heights = {"p.low": 0, "p.high": 1, "p.beside": 1}
    assert list(rooms.upward_imports(graph, heights)) == [("p.high", "p.beside.x"), ("p.low", "p.high")]


def test_imports_count_wherever_they_stand() -> None:
    source = "if TYPE_CHECKING:\n    from p import a\ndef f():\n    import p.b\nfrom p.c import name\n"
    assert rooms.imports_of(source, dict.fromkeys(("p", "p.a", "p.b", "p.c"))) == {"p.a", "p.b", "p.c"}


def test_no_file_name_stands_twice() -> None:
    """A carrier's folder has the same modules as the others'; every other name says which file is meant."""
    names = Counter(
        path.name
        for path in (ROOT / "gateway").rglob("*.py")
        if path.name != "__init__.py" and path.parent.parent.name != "carriers"
    )
    assert [name for name, count in names.items() if count > 1] == []
