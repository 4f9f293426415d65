# SPDX-License-Identifier: BSD-2-Clause
"""Shortages of this machine: descriptors, and the kernel's memory for sockets.

A connection that fails because of a shortage says nothing about the host that it was to.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_out_of_resources(error: OSError) -> bool:
    """Return True if a connection failed because this machine is short of descriptors or memory.

    A name lookup that fails for want of a descriptor looks like an unknown name. So for such an error the
    result is whether a descriptor is free now.
    """
    if isinstance(error, socket.gaierror):
        return not can_open_files(1)
    return error.errno in _ERRNOS


def can_open_files(count: int, like: int | None = None) -> bool:
    """Return True if this process could open `count` more descriptors now.

    `like`: a descriptor to copy instead of opening a file. That costs less, but does not notice a shortage of
    the whole machine (file-max), only the limit of this process.
    """
    opened: list[int] = []
    try:
        if like is None:
            opened.append(like := os.open(os.devnull, os.O_RDONLY))
        while len(opened) < count:
            opened.append(os.dup(like))
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True
