# SPDX-License-Identifier: BSD-2-Clause
"""What is published: the source distribution runs its tests, and both wheels run a gateway."""

from __future__ import annotations

import email.parser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gateway import DISTRIBUTION, __version__
from gateway.simulator.server_process import environment_without_settings
from tests.interop.shipping import ROOT, tool

BUILD_S = 300
STEM = f"{DISTRIBUTION.replace('-', '_')}-{__version__}"
CONFIGURATION = '[[organizations]]\nname = "acme"\n\n[[agents]]\nname = "support"\norganization = "acme"\n'

VALIDATE = """
import sys
from packaging.metadata import Metadata
from pathlib import Path
for name in sys.argv[1:]:
    Metadata.from_email(Path(name).read_bytes(), validate=True)
"""


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    finished = subprocess.run(
        command,
        cwd=folder,
        env=environment_without_settings() | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert finished.returncode == 0, f"{command}: {finished.stdout[-4000:]}"
    return finished.stdout


def build(source: Path, out: Path, what: str, accelerator: str = "required") -> Path:
    """Build what `make dist` builds; return its file."""
    command = [tool("python"), "-m", "build", "--no-isolation", f"--{what}", f"--outdir={out}", source]
    run(command, source, {"PATCHBAY_ACCELERATOR": accelerator})
    shutil.rmtree(source / "build", ignore_errors=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git has, so that nothing else of this checkout comes along."""
    copy = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, copy / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return build(copy, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def unpacked(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(source_distribution) as archive:
        archive.extractall(folder, filter="data")
    return folder / STEM


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For this machine, with the part in C."""
    return build(unpacked, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def pure_wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every machine, without it."""
    return build(unpacked, tmp_path_factory.mktemp("pure"), "wheel", accelerator="off")


def test_the_source_distribution_has_every_file_of_the_repository(unpacked: Path) -> None:
    listed = ["git", "ls-files", "-z", "--", ":!:gateway/simulator/speech"]  # a link, whose files are there
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    missing = [name for name in names if name and (ROOT / name).exists() and not (unpacked / name).exists()]
    assert missing == []


def test_the_tests_run_from_the_source_distribution(unpacked: Path) -> None:
    """Some of every kind: without processes, with a gateway, and over the code without git."""
    run([tool("python"), "setup.py", "-q", "build_ext", "--inplace"], unpacked)
    chosen = (
        "tests/packaging",
        "tests/texml",
        "tests/server/test_health_probe.py",
        "tests/test_citations.py",
    )
    said = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen], unpacked)
    assert " passed" in said
    assert " skipped" not in said


def test_the_wheels_say_what_they_are_for(wheel: Path, pure_wheel: Path) -> None:
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"{STEM}-{version}-{version}-")
    assert pure_wheel.name == f"{STEM}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as with_c, zipfile.ZipFile(pure_wheel) as without:
        names, pure_names = set(with_c.namelist()), set(without.namelist())
    (extension,) = {name for name in names if name.endswith(".so")}
    assert extension.startswith("gateway/fastpath/_accelerator.")
    assert {name for name in names if "dist-info" not in name} - pure_names == {extension}
    needed = {
        "gateway/py.typed",
        "serializers/py.typed",
        "texml/py.typed",
        "gateway/simulator/speech/greeting.wav",
    }
    assert needed <= pure_names
    assert {name.split("/")[0] for name in pure_names} == {
        "gateway",
        "serializers",
        "texml",
        f"{STEM}.dist-info",
    }


def test_an_index_would_take_the_metadata(
    wheel: Path, pure_wheel: Path, source_distribution: Path, tmp_path: Path
) -> None:
    texts = []
    for number, file in enumerate((wheel, pure_wheel)):
        with zipfile.ZipFile(file) as archive:
            texts.append(archive.read(f"{STEM}.dist-info/METADATA"))
        (tmp_path / str(number)).write_bytes(texts[-1])
    with tarfile.open(source_distribution) as archive:
        info = archive.extractfile(f"{STEM}/PKG-INFO")
        assert info is not None
        (tmp_path / "2").write_bytes(info.read())
    run([tool("python"), "-c", VALIDATE, "0", "1", "2"], tmp_path)
    assert texts[0] == texts[1]
    metadata = email.parser.BytesParser().parsebytes(texts[0])
    assert metadata["Name"] == DISTRIBUTION
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "BSD-2-Clause"


@pytest.mark.parametrize("accelerator", ["c", "python"])
def test_a_wheel_runs_a_gateway(wheel: Path, pure_wheel: Path, tmp_path: Path, accelerator: str) -> None:
    """In an environment of its own: its command checks a configuration, and says how frames pass."""
    run([sys.executable, "-m", "venv", "venv"], tmp_path)
    binaries = tmp_path / "venv" / "bin"
    install = [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    chosen = wheel if accelerator == "c" else pure_wheel
    run([*install, "--no-deps", chosen], tmp_path)
    # What it depends on is in this environment, in the versions of requirements.lock.
    packages = Path(os.__file__).parent.name
    ours = Path(sys.prefix) / "lib" / packages / "site-packages"
    (tmp_path / "venv" / "lib" / packages / "site-packages" / "ours.pth").write_text(f"{ours}\n")
    (tmp_path / "patchbay.toml").write_text(CONFIGURATION)
    said = run([binaries / "patchbay", "check", "--config", "patchbay.toml"], tmp_path)
    assert 'name = "support"' in said
    program = (
        "import gateway; from gateway.fastpath import accelerator as a; print(gateway.__file__, a.ACTIVE)"
    )
    where, active = run([binaries / "python", "-c", program], tmp_path).split()
    assert where.startswith(str(tmp_path))
    assert active == str(accelerator == "c")
