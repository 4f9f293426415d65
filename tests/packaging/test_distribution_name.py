# SPDX-License-Identifier: BSD-2-Clause
"""The distribution: its name wherever somebody installs it, and what it says of itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from gateway import DISTRIBUTION, __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("gateway", "serializers", "texml")

INSTALLED = re.compile(r"pip install[^\n`]*?[\s'\"](patchbay[\w.-]*)")
EXTRA = re.compile(r"(patchbay[\w.-]*)\[\w+\]")


def texts() -> dict[str, str]:
    """What the code says and what a reader reads, by the file's name."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("Dockerfile"), *(ROOT / "docs").rglob("*.md")]
    for folder in (*PACKAGES, "examples", "deploy", "tests"):
        files += (
            path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".txt", ".yaml", ".md"}
        )
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def test_every_text_installs_this_distribution_and_not_its_namesake() -> None:
    """`patchbay` on the package index is another project."""
    found = {
        (name, match[1])
        for name, text in texts().items()
        if not name.startswith("tests/packaging/")
        for pattern in (INSTALLED, EXTRA)
        for match in pattern.finditer(text)
    }
    assert len(found) > 2, "the patterns find the commands"
    assert {name for _, name in found} == {DISTRIBUTION}
    assert PROJECT["project"]["name"] == DISTRIBUTION
    assert PROJECT["project"]["scripts"] == {"patchbay": "gateway.__main__:main"}


def test_every_extra_that_a_text_names_exists() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    named = {
        extra
        for text in texts().values()
        for extras_of_one in re.findall(rf"{re.escape(DISTRIBUTION)}\[([\w,]+)\]", text)
        for extra in extras_of_one.split(",")
    }
    assert {"redis"} <= named <= extras


def test_the_image_has_every_extra_but_the_pictures_of_the_demonstration() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=([\w,]+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(extras.split(",")) == set(PROJECT["project"]["optional-dependencies"]) - {"demo"}


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_packages_say_that_they_are_typed() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()] == []
    assert PROJECT["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]


def test_the_pythons_of_the_metadata_are_those_that_it_takes() -> None:
    lowest, beyond = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups()  # type: ignore[union-attr]
    said = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert [int(minor) for minor in said] == list(range(int(lowest), int(beyond)))
