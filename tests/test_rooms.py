# SPDX-License-Identifier: BSD-2-Clause
"""Who may know whom, and how every file begins."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "serializers", "texml", "tests", "benchmarks", "docs")
LICENCE = "# SPDX-License-Identifier: BSD-2-Clause"
BINARIES = Path(sys.executable).parent


def python_files() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))
    yield from ROOT.glob("*.py")


def test_nobody_imports_what_it_may_not_know() -> None:
    """The contracts of pyproject.toml, [tool.importlinter]."""
    judged = subprocess.run(
        [BINARIES / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken." in judged.stdout


def test_every_room_is_in_the_layers() -> None:
    """docs/architecture.md, "Rooms": a new folder of gateway/ needs a place in the contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    rooms = {
        path.stem
        for path in (ROOT / "gateway").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    missing = [room for room in rooms if not any(f"{name}.".startswith(f"gateway.{room}.") for name in named)]
    assert missing == []


def test_every_file_names_its_licence_first() -> None:
    files = list(python_files())
    assert len(files) > 100
    assert [str(file) for file in files if file.read_text().partition("\n")[0] != LICENCE] == []


def test_every_file_says_what_it_is() -> None:
    silent = [str(file) for file in python_files() if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []
