# SPDX-License-Identifier: BSD-2-Clause
"""The machine's hardware and software, and the tools that the bench needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "cc": "gcc libc6-dev"}  # tool: Debian packages
LIBRARIES = ("uvloop", "uvicorn", "starlette", "websockets", "httptools")
ADMIN_PATHS = ("/usr/sbin", "/usr/local/sbin")  # where Debian puts servers, and what a user's PATH lacks
CORES = tuple(sorted(os.sched_getaffinity(0)))  # that this process may use, at its start
COMMAND_LIMIT_S = 10.0
INSTALL_LIMIT_S = 300.0


class MissingToolsError(Exception):
    """A missing tool; the message names it, and the command that installs it."""


def find_tools(*, install: bool) -> None:
    """Put nginx, haproxy and a C compiler on PATH.

    With `install`, and as root, missing ones are installed from Debian's archive. Raises MissingToolsError.
    """
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *ADMIN_PATHS))
    if missing() and install:
        if os.geteuid() != 0:
            raise MissingToolsError("--install needs root; or type: sudo " + install_command())
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ("apt-get update", install_command()):
            subprocess.run(command.split(), check=True, env=environment, timeout=INSTALL_LIMIT_S)
    if missing():
        raise MissingToolsError(
            f"{', '.join(missing())} not found. On Debian, as root: {install_command()}"
            " (or run this as root with --install). The servers need not run: the bench starts its own."
        )


def missing() -> list[str]:
    """Return the missing tools."""
    return [tool for tool in PACKAGES if shutil.which(tool) is None]


def install_command() -> str:
    """Return the command that installs the missing tools."""
    return "apt-get install --yes --no-install-recommends " + " ".join(PACKAGES[tool] for tool in missing())


def _said(*command: str) -> str:
    """Return the first line that a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip().partition("\n")[0] if done.returncode == 0 else ""


def _field(file: str, name: str) -> str:
    """Return the first value of a field in a file of /proc."""
    found = re.search(rf"^{name}\s*:\s*(.+)$", Path(file).read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _build() -> str:
    """Return the build of Python: one without profile-guided optimisation is a tenth slower."""
    if sys.base_prefix == "/usr":
        return "the distribution's"
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "a build of its own, " + ("optimised by a profile" if optimised else "not optimised by a profile")


def description() -> dict[str, str]:
    """Return hardware, kernel and versions for the head of the report."""
    memory_gib = int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    commit = _said("git", "rev-parse", "--short", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    libraries = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    hypervisor = _said("systemd-detect-virt", "--vm")
    return {
        "Processor": f"{_field('/proc/cpuinfo', 'model name')}, {len(CORES)} cores, {memory_gib:.0f} GiB"
        + (f", a virtual machine ({hypervisor})" if hypervisor else ""),
        "Kernel": f"{platform.system()} {platform.release()}",
        "Patchbay": f"{metadata.version('patchbay-edge')}"
        + (f", commit {commit}{' with changes' if changed else ''}" if commit else ""),
        "Python": f"{sys.version.split()[0]}, {_build()}; {', '.join(libraries)}",
        "nginx": _said("nginx", "-v").removeprefix("nginx version: "),
        "haproxy": _said("haproxy", "-v"),
        "Compiler": _said("cc", "--version"),
    }
