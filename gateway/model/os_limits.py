# SPDX-License-Identifier: BSD-2-Clause
"""What this machine has run out of: files, and the kernel's room for sockets.

A connection that fails for that says nothing of whoever it was to.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_out_of_resources(error: OSError) -> bool:
    """Whether a connection failed because this machine has run out of something.

    A name that could not be looked up for want of a file looks like one that nobody knows, so then it counts
    whether there is a file to be had now.
    """
    if isinstance(error, socket.gaierror):
        return not can_open_files(1)
    return error.errno in _ERRNOS


def can_open_files(count: int, like: int | None = None) -> bool:
    """Whether this process could open so many files now.

    `like`: a descriptor that may be copied; that costs less, and does not notice where it is the machine that
    has no files left.
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
        for one in opened:
            os.close(one)
    return True
