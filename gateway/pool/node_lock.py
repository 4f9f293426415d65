# SPDX-License-Identifier: BSD-2-Clause
"""The choice of the worker that manages a node's pool: flock(2) on files in the node's folder.

The kernel frees a lock when its process ends, however it ends. Every worker of the node, of all its gateways,
holds a shared lock on a second file, so that the last one to go can tell; and one on a third while it takes
calls, so that one that drains knows when it is to hand the pool on. Whoever manages has an abstract socket
address as well, which does not depend on the folder: two folders for one node make no two pools of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config import Settings

LOCAL_HOST = "127.0.0.1"


def node_name(settings: Settings) -> str:
    """Return the name of this node: the URL that other nodes reach it by, or what tells it from others."""
    url = _node_url(settings)
    return url or f"{socket.gethostname()}-{_digest(_store(settings))}"


def node_host(settings: Settings) -> str:
    """Return the host at which instances of this node are reached by every node."""
    return urlsplit(_node_url(settings)).hostname or LOCAL_HOST


def _node_url(settings: Settings) -> str:
    return settings.server.node_url or ""


def _store(settings: Settings) -> str:
    return settings.store.url if settings.store.is_redis else str(settings.store.path.absolute())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class NodeLock:
    """The locks of one node, as one worker has them. It blocks for the time of a system call."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """`folder`: exists. The worker is one of the node's from now on. Raises OSError."""
        name = _digest(f"{node_name(settings)} {_store(settings)}")
        self._manager = _open(folder / f"{name}.manager.lock")
        self._members = _open(folder / f"{name}.members.lock")
        self._serving = _open(folder / f"{name}.serving.lock")
        fcntl.flock(self._members, fcntl.LOCK_SH)
        fcntl.flock(self._serving, fcntl.LOCK_SH)
        self._is_serving = True
        self._is_held = False
        self._address = f"\0patchbay-pool-{name}"
        self._only: socket.socket | None = None
        self.is_doubled = False
        """Whether a gateway of the node's name, with another folder, managed the pool at the last try."""

    def take(self) -> bool:
        """Return True if this worker manages the pool now."""
        if not self.take_folder():
            self.is_doubled = False
            return False
        if self._only is None:
            self._only = _bound(self._address)
        self.is_doubled = self._only is None
        if self.is_doubled:
            self.release()
        return not self.is_doubled

    def take_folder(self) -> bool:
        """Return True if no other worker manages the instances of this folder now."""
        if not self._is_held:
            try:
                fcntl.flock(self._manager, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self._is_held = True
        return True

    def release(self) -> None:
        """Let another worker manage it."""
        if self._is_held:
            self._release_name()
            fcntl.flock(self._manager, fcntl.LOCK_UN)
            self._is_held = False

    def stop_serving(self) -> None:
        """Note that this worker takes no new calls from now on."""
        fcntl.flock(self._serving, fcntl.LOCK_UN)
        self._is_serving = False

    def is_anyone_serving(self) -> bool:
        """Return True if a worker of the node takes calls."""
        if self._is_serving:
            return True
        try:
            fcntl.flock(self._serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self._serving, fcntl.LOCK_UN)
        return False

    def is_last(self) -> bool:
        """Return True if no other worker of the node is there, of this gateway or another."""
        try:
            fcntl.flock(self._members, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _release_name(self) -> None:
        if self._only is not None:
            self._only.close()
            self._only = None

    def close(self) -> None:
        """Leave the node."""
        self._release_name()
        os.close(self._manager)
        os.close(self._members)
        os.close(self._serving)


def _bound(address: str) -> socket.socket | None:
    """Return a socket that has an abstract address (unix(7)), None if another has it."""
    only = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        only.bind(address)
    except OSError:
        only.close()
        return None
    return only


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
