# SPDX-License-Identifier: BSD-2-Clause
"""`make setup` with a Python that is too old, and with another one than last time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (
    "Makefile",
    "requirements.lock",
    "pyproject.toml",
    "setup.py",
    "gateway/fastpath/_accelerator.c",
)

PYTHON = """#!/bin/sh
# A stand-in for Python {version}: it knows its version, and makes an environment whose pip only takes notes.
case "$1" in
--version) echo "Python {version}" ;;
-c) {version_check} ;;
-m)
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "$@" >>"%s/pip.log"\\n' "$3" >"$3/bin/python"
    chmod +x "$3/bin/python"
    ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what `make setup` reads."""
    for name in SOURCES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def python(directory: Path, version: str, *, is_supported: bool) -> Path:
    """Write a stand-in for one Python; return its path."""
    path = directory / f"python{version}"
    check = f'echo "{version}"' if is_supported else ":"
    path.write_text(PYTHON.format(version=version, version_check=check))
    path.chmod(0o755)
    return path


def make_setup(checkout: Path, interpreter: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `make setup` there."""
    command = ["make", "setup", f"PYTHON={interpreter}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_an_old_python_is_refused_by_name_before_anything_is_made(checkout: Path) -> None:
    """The message names the versions that do, and how to choose one."""
    run = make_setup(checkout, python(checkout, "3.10.13", is_supported=False))
    assert run.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in run.stderr
    assert "is Python 3.10.13." in run.stderr
    assert "make setup PYTHON=" in run.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_told(checkout: Path) -> None:
    """A wrong PYTHON= is no riddle."""
    run = make_setup(checkout, "python9.9")
    assert run.returncode != 0
    assert "python9.9 is not there." in run.stderr


def test_an_environment_of_another_python_is_made_anew(checkout: Path) -> None:
    """Packages that were built for the other one would not load."""
    assert make_setup(checkout, python(checkout, "3.11.7", is_supported=True)).returncode == 0
    left = checkout / ".venv" / "left by the older Python"
    left.touch()

    again = make_setup(checkout, checkout / "python3.11.7")
    assert again.returncode == 0
    assert left.exists(), "the same Python's environment stays"

    run = make_setup(checkout, python(checkout, "3.12.1", is_supported=True))
    assert run.returncode == 0, run.stderr
    assert not left.exists()
    assert "-r requirements.lock" in (checkout / ".venv" / "pip.log").read_text()
