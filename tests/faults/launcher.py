# SPDX-License-Identifier: BSD-2-Clause
"""Gateways in an environment that a test can make fail: names, the clock, the disk."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.server_process import PATCHBAY
from tests.harness.gateway import Gateway

CLOCK_SOURCE = Path(__file__).with_name("moved_clock.c")
NAMES_SOURCE = Path(__file__).with_name("silent_names.c")
DISK_KIB = 1024
NAMESPACES = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
"""Commands that give a process its own mounts: as root, or as any user if the kernel allows it."""


def mounts() -> list[str]:
    """Return the command that gives a program its own mounts; skip the test if there is none."""
    if shutil.which("unshare"):
        for command in NAMESPACES:
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    pytest.skip("names and disks cannot be made to fail here: mounts of one's own are not allowed")


READ = """
import json, sqlite3, sys
path, query, values = sys.argv[1:]
connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
connection.row_factory = sqlite3.Row
print(json.dumps([dict(row) for row in connection.execute(query, json.loads(values))]))
"""


def rows_in_mounts_of(process: int, store: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a reader of a store that only this process sees, on a mount of its own."""
    user = ["--user", "--preserve-credentials"] if "--map-root-user" in mounts() else []
    enter = ["nsenter", f"--target={process}", "--mount", *user, sys.executable, "-c", READ, str(store)]

    def rows(query: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        ran = subprocess.run([*enter, query, json.dumps(values)], capture_output=True, check=True)
        found: list[dict[str, Any]] = json.loads(ran.stdout)
        return found

    return rows


class Launcher:
    """Start gateways through a shell script. `start`: the fixture `start_gateway`."""

    def __init__(self, start: Callable[..., Gateway], directory: Path) -> None:
        self._start = start
        self._directory = directory

    def _through(self, lines: str, **tables: Any) -> Gateway:
        """Start a gateway by shell `lines`, of which the last executes `"$@"`."""
        script = self._directory / "patchbay"
        script.write_text(f'#!/bin/sh\nset -e\nset -- {shlex.join(PATCHBAY)} "$@"\n{lines}\n')
        script.chmod(0o755)
        return self._start(command=[script], **tables)

    def _mounted(self, inside: str, **tables: Any) -> Gateway:
        """Start a gateway with its own mounts, after the shell commands `inside`."""
        inside += 'exec "$@"'
        return self._through(f'exec {shlex.join(mounts())} sh -ec {shlex.quote(inside)} sh "$@"', **tables)

    def with_names(self, **tables: Any) -> tuple[Gateway, Path]:
        """Start a gateway; return it with its own /etc/hosts, which may be changed at any time."""
        hosts, sources = self._directory / "hosts", self._directory / "nsswitch.conf"
        hosts.write_text("127.0.0.1 localhost\n")
        sources.write_text("hosts: files\n")
        inside = "".join(
            f"mount --bind {shlex.quote(str(file))} /etc/{file.name}; " for file in (hosts, sources)
        )
        return self._mounted(inside, **tables), hosts

    def with_a_small_disk(self, **tables: Any) -> tuple[Gateway, Path]:
        """Start a gateway whose store is on a small disk; return it with the disk's path for the test."""
        disk = self._directory / "disk"
        disk.mkdir()
        inside = f"mount -t tmpfs -o size={DISK_KIB}k tmpfs {shlex.quote(str(disk))}; "
        gateway = self._mounted(inside, store={"url": f"sqlite:///{disk}/patchbay.db"}, **tables)
        vars(gateway)["rows"] = rows_in_mounts_of(gateway.process.pid, disk / "patchbay.db")
        return gateway, Path(f"/proc/{gateway.process.pid}/root{disk}")

    def with_silent_names(self, **tables: Any) -> Gateway:
        """Start a gateway to which names silent… are never answered, and ….here.test are this machine."""
        library = self._built(NAMES_SOURCE)
        return self._through(f'export LD_PRELOAD={shlex.quote(str(library))}\nexec "$@"', **tables)

    def _built(self, source: Path) -> Path:
        """Compile a library to preload; skip the test if that cannot be done here."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip(f"{source.stem.replace('_', ' ')} cannot be had here: there is no C compiler")
        library = self._directory / f"{source.stem}.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        return library

    def with_trust(self, certificates: Path, **tables: Any) -> Gateway:
        """Start a gateway that trusts the certificates in this file, and no others."""
        return self._through(f'export SSL_CERT_FILE={shlex.quote(str(certificates))}\nexec "$@"', **tables)

    def with_a_clock(self, **tables: Any) -> tuple[Gateway, Callable[[float], None]]:
        """Start a gateway; return it with a function that moves its wall clock by seconds."""
        library, offset = self._built(CLOCK_SOURCE), self._directory / "offset"
        offset.write_bytes(struct.pack("d", 0.0))

        def move(seconds: float) -> None:
            descriptor = os.open(offset, os.O_WRONLY)
            os.pwrite(descriptor, struct.pack("d", seconds), 0)
            os.close(descriptor)

        lines = f"export LD_PRELOAD={shlex.quote(str(library))} MOVED_CLOCK={shlex.quote(str(offset))}"
        return self._through(f'{lines}\nexec "$@"', **tables), move
