# SPDX-License-Identifier: BSD-2-Clause
"""Looks at what the agents' commands need of this machine; `patchbay check` prints what it finds."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gateway.config import AgentSettings, Settings
from gateway.config.consistency import Location
from gateway.config.workability import Concern, Severity


def find_command_concerns(settings: Settings, environ: Mapping[str, str]) -> Iterator[Concern]:
    """Yield why instances of agents with a command could not be started here. `environ`: the gateway's own.

    A missing program or directory may come while the gateway runs, and is looked for at each start.
    """
    agents = [(index, agent) for index, agent in enumerate(settings.agents) if agent.command]
    for index, agent in agents:
        yield from _program(("agents", index), agent, environ)
        yield from _user(("agents", index), agent)
        yield from _folder(("agents", index, "log_folder"), agent.log_folder)
    if agents:
        yield from _folder(("server", "pool_folder"), settings.server.pool_folder)
        yield from _system(("agents", agents[0][0], "command"))
        if settings.store.is_redis and settings.server.node_url is None:
            message = "is not set: instances are started at 127.0.0.1, where no other node reaches them"
            yield Concern(("server", "node_url"), message, Severity.DOUBTFUL)


def _program(location: Location, agent: AgentSettings, environ: Mapping[str, str]) -> Iterator[Concern]:
    cwd = Path(agent.cwd or ".").absolute()
    if not cwd.is_dir():
        yield Concern((*location, "cwd"), f"{agent.cwd} is no directory", Severity.REPAIRABLE)
        return
    program = agent.command[0]
    if os.sep in program:
        file = cwd / program  # an absolute name stays what it is
        if not file.is_file():
            message = f"{program} is not there"
        elif not os.access(file, os.X_OK):
            message = f"{program} cannot be executed"
        else:
            return
    else:
        path = agent.environment.get("PATH", environ.get("PATH", os.defpath))
        if shutil.which(program, path=path):
            return
        message = f"{program} is in no directory of PATH"
    yield Concern((*location, "command"), message, Severity.REPAIRABLE)


def _user(location: Location, agent: AgentSettings) -> Iterator[Concern]:
    if not agent.user:
        return
    try:
        pwd.getpwnam(agent.user)
    except KeyError:
        yield Concern((*location, "user"), f"there is no user {agent.user!r}", Severity.REPAIRABLE)
        return
    if os.geteuid() != 0:
        message = "may be set only where the gateway runs as root: it may start nothing as somebody else"
        yield Concern((*location, "user"), message)


def _folder(location: Location, name: str) -> Iterator[Concern]:
    """Find that a folder cannot be made or written to. It is not made here."""
    if not name:
        return
    folder = Path(name).absolute()
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        yield Concern(location, f"{name} cannot be a folder: {nearest} is none", Severity.REPAIRABLE)
    elif not os.access(nearest, os.W_OK | os.X_OK):
        what = "written to" if nearest == folder else "made"
        yield Concern(location, f"{name} cannot be {what}", Severity.REPAIRABLE)


def _system(location: Location) -> Iterator[Concern]:
    if not sys.platform.startswith("linux"):
        yield Concern(location, "needs Linux, whose processes can be watched and found again")
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        yield Concern(location, f"needs pidfd_open (Linux 5.3): {error.strerror}")
