# SPDX-License-Identifier: BSD-2-Clause
"""Open files: as many as the system allows, and room for them made before the first call."""

from __future__ import annotations

import fcntl
import os
import resource

import structlog

ROOM = 16384
"""Descriptors that the kernel's table has room for from the start: two a call."""

FEW = 4096
"""Fewer than these are worth a warning: a call needs two."""

log = structlog.get_logger(__name__)


def reserve() -> int:
    """Raises this process's limit to what it may have, and makes room in its table; gives the limit.

    The kernel doubles the table where it is too small. In a process with threads that takes tens of
    milliseconds, in which the event loop and with it every call stands still.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays as it is", limit=soft, error=str(error))
    limit = ROOM if soft == resource.RLIM_INFINITY else soft
    try:
        with open(os.devnull, "rb") as any_file:
            os.close(fcntl.fcntl(any_file.fileno(), fcntl.F_DUPFD_CLOEXEC, min(ROOM, limit) - 1))
    except OSError:
        pass  # it is full to the brim, or the limit is lower than it says
    if limit < FEW:
        log.warning("few open files are allowed", limit=limit, calls=limit // 2)
    return limit
