# SPDX-License-Identifier: BSD-2-Clause
"""The configuration of a gateway that runs, read again from where it was read at the start.

All or nothing: a configuration with a fault changes nothing
(docs/decisions/0058-read-again-all-or-nothing.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gateway.audio.prompt import read_prompt
from gateway.config import ConfigError, Problem, Settings, unauthenticated_access
from gateway.config.changes import changes_between
from gateway.config.loading import Loaded, load_beside, needing_restart
from gateway.config.workability import Concern, Severity
from gateway.server.preflight import find_concerns_of_running

log = structlog.get_logger(__name__)

MAX_NAMES: Final = 50
"""Names in one field of a line; more are counted."""


@dataclass(frozen=True, slots=True)
class ConfigurationSource:
    """Where a process has its configuration from: a file, or none, and an environment."""

    file: Path | None
    environ: Mapping[str, str]

    def read_again(self, running: Settings) -> Settings | None:
        """Return the settings that a process which runs with `running` goes on with, None if it keeps those.

        It logs one line that says what changed, or why nothing does, and one of each doubt. It may block, and
        belongs to no thread.
        """
        try:
            loaded, left = load_beside(self.file, self.environ, read_prompt, running)
            concerns = find_concerns_of_running(loaded, self.file)
            refused = [each for each in concerns if each.severity is Severity.REFUSED]
            if refused:
                raise ConfigError(
                    needing_restart(loaded, left) + [_problem(loaded, each) for each in refused]
                )
        except ConfigError as error:
            log.error("the configuration stays as it was", error="; ".join(map(str, error.problems)))
            return None
        settings = loaded.settings
        for concern in concerns:
            problem = _problem(loaded, concern)
            place = f"{problem.place} ({problem.where})" if problem.where else problem.place
            log.warning("doubtful setting", setting=place, error=problem.message)
        if left:
            log.warning("settings that need a restart stay as they were", settings=_first(left))
        known = unauthenticated_access(running)
        for what, words in unauthenticated_access(settings):
            if (what, words) not in known:
                log.warning("open without authentication", what=what, words=words)
        changes = changes_between(running, settings)
        log.info(
            "configuration read again",
            added=_first(changes.added),
            changed=_first(changes.changed),
            removed=_first(changes.removed),
        )
        return settings


def _problem(loaded: Loaded, concern: Concern) -> Problem:
    return loaded.locate(concern.location, concern.message)


def _first(names: tuple[str, ...]) -> list[str]:
    more = len(names) - MAX_NAMES
    return [*names[:MAX_NAMES], f"{more} more"] if more > 0 else list(names)
