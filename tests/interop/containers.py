# SPDX-License-Identifier: BSD-2-Clause
"""Containers: podman with a storage of its own, and an image of Debian's Python in place of a registry's.

The Dockerfile begins with `python:3.13` and `python:3.13-slim`. Where no registry is within reach, Debian's
packages make an image with a Python and a compiler, and both names are its own here.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Whom this machine trusts: a package index may be reached through a proxy with an authority of its own."""

STAND_IN = """\
FROM localhost/debian-python
COPY authorities.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""
PACKAGES = "python3-venv,python3-dev,gcc,libc6-dev"
BUILD_S = 900
RUN_S = 180


def _limits() -> list[str]:
    """Return options for limits below this process's: podman's own need a capability to raise them."""
    limits = {"nofile": (resource.RLIMIT_NOFILE, 16384), "nproc": (resource.RLIMIT_NPROC, 4096)}
    values = {name: (resource.getrlimit(number)[1], most) for name, (number, most) in limits.items()}
    lower = {name: most if hard < 0 else min(hard, most) for name, (hard, most) in values.items()}
    return [f"--ulimit={name}={limit}:{limit}" for name, limit in lower.items()]


class Engine:
    """podman, with its images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where they are; it is made."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limits = _limits()
        self.limits = _limits()
        self._command = [
            "podman",
            "--runtime=runc",
            "--storage-driver=overlay",
            f"--root={folder}/storage",
            f"--runroot={folder}/run",
        ]

    def run(self, *arguments: str | Path, check: bool = True, within: float = RUN_S) -> str:
        """Run a command of podman's; return what it says, standard error behind it."""
        finished = subprocess.run(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
        assert not check or finished.returncode == 0, f"podman {arguments}: {finished.stdout[-4000:]}"
        return finished.stdout

    def succeeds(self, *arguments: str | Path) -> bool:
        """Return True if a command of podman's exits with 0."""
        command = [*self._command, *arguments]
        return subprocess.run(command, capture_output=True, timeout=RUN_S, check=False).returncode == 0

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command of podman's."""
        return subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def container(self, name: str, image: str, *options: str | Path, command: Sequence[str] = ()) -> None:
        """Start a container in the background. Its network is its own loopback, unless `options` say."""
        has_network = any(str(option).startswith("--network") for option in options)
        network = () if has_network else ("--network=none",)
        self.run("run", "--detach", f"--name={name}", *self.limits, *network, *options, image, *command)

    def once(self, image: str, program: str, *arguments: str | Path) -> str:
        """Run a program in a container to its end, whatever its status; return its output."""
        options = (*self.limits, "--network=none", f"--entrypoint={program}")
        return self.run("run", "--rm", *options, image, *arguments, check=False)

    def state(self, name: str) -> dict[str, Any]:
        """Return what podman knows of a container's process."""
        found: dict[str, Any] = json.loads(self.run("inspect", "--format={{json .State}}", name))
        return found

    def remove(self, *names: str) -> None:
        """Remove containers with their volumes, running or not, and those that use their network."""
        for name in names:
            self.run("rm", "--force", "--ignore", "--depend", "--volumes", "--time=0", name, check=False)

    def build(self, tag: str, folder: Path, *options: str | Path) -> None:
        """Build an image from the folder's Dockerfile."""
        self.run(
            "build",
            "--format=docker",  # the format of images that knows health checks
            "--isolation=chroot",
            "--network=host",
            "--layers=false",
            "--pull=never",
            f"--tag={tag}",
            *options,
            folder,
            within=BUILD_S,
        )
        self.run("image", "prune", "--force", check=False)  # those of an earlier run

    def make_python_image(self) -> None:
        """Make the image that the Dockerfile begins with, unless it is there."""
        if not self.succeeds("image", "exists", "localhost/debian-python"):
            tar = self.folder / "debian-python.tar"
            suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
            made = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", suite, tar]
            subprocess.run(made, stdin=subprocess.DEVNULL, timeout=BUILD_S, check=True)
            self.run("import", "--quiet", tar, "localhost/debian-python", within=BUILD_S)
            tar.unlink()
        context = self.folder / "stand-in"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(STAND_IN)
        (context / "authorities.crt").write_bytes(AUTHORITIES.read_bytes() if AUTHORITIES.exists() else b"")
        self.build("localhost/python:3.13", context)
        self.run("tag", "localhost/python:3.13", "localhost/python:3.13-slim")

    def make_gateway_image(self) -> str:
        """Build the image of this checkout; return its name."""
        self.make_python_image()
        index = os.environ.get("PIP_INDEX_URL")
        self.build("localhost/patchbay", ROOT, *([f"--build-arg=PIP_INDEX_URL={index}"] if index else []))
        return "localhost/patchbay"
