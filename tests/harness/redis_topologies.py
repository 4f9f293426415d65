# SPDX-License-Identifier: BSD-2-Clause
"""Several Redis servers: a primary with a replica that Sentinels watch, and a cluster of several masters."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from redis.crc import key_slot

from gateway.simulator.waiting import WAIT_S
from gateway.store.redis import redis_keys
from tests.harness.redis_server import RedisServer

SERVICE = "calls"
SLOT = key_slot(redis_keys.TAG.encode())
SLOTS = 16384


def until(what: str, is_so: Callable[[], Any]) -> None:
    """Block until it is so."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if is_so():
                return
        except redis.RedisError:
            pass  # it starts, or votes
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def freeze(server: RedisServer) -> None:
    """Let a server stand still, its connections open."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)


def thaw(server: RedisServer) -> None:
    """Let a frozen server go on."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGCONT)


class Sentinel(RedisServer):
    """A Sentinel that watches a primary."""

    def __init__(self, primary: RedisServer, *settings: str) -> None:
        self._primary = primary
        self._settings = settings
        super().__init__()

    def arguments(self) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():  # it writes there what it learns
            lines = [
                f"port {self.port}",
                "bind 127.0.0.1",
                f"dir {self.directory}",
                f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} 400",
                f"sentinel failover-timeout {SERVICE} 500",
                *self._settings,
            ]
            if self._primary.password:
                lines.append(f'sentinel auth-pass {SERVICE} "{self._primary.password}"')
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [str(file), "--sentinel"]

    def primary(self) -> dict[str, str]:
        """What it knows of the primary."""
        found = self.run("SENTINEL", "MASTER", SERVICE)
        return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


class WatchedPair:
    """A primary and a replica, and three Sentinels."""

    def __init__(self, *, password: str = "", sentinel_password: str = "") -> None:
        """`password`: of both servers. `sentinel_password`: of the Sentinels, also among themselves."""
        fast = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.first = RedisServer(*fast, password=password)
        follows = ("--replicaof", f"127.0.0.1 {self.first.port}")
        self.second = RedisServer(*fast, *follows, password=password)
        until("the replica follows", lambda: "state=online" in self.first.text("INFO", "replication"))
        settings = (f'requirepass "{sentinel_password}"',) if sentinel_password else ()
        self.sentinels = [Sentinel(self.first, *settings) for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.password = sentinel_password
        for sentinel in self.sentinels:
            until("it knows the others", partial(self._is_known_by, sentinel))

    @property
    def servers(self) -> tuple[RedisServer, RedisServer]:
        return self.first, self.second

    def url(self, credentials: str = "") -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{credentials}{hosts}/{SERVICE}/0"

    def part(self) -> None:
        """Let the replica follow no more: what the primary acknowledges now is nowhere else."""
        self.second.run("CONFIG", "SET", "masterauth", "another")
        self.second.run("CLIENT", "KILL", "TYPE", "master")
        until("nothing follows", lambda: "connected_slaves:0" in self.first.text("INFO", "replication"))

    def wait_for_primary(self, server: RedisServer) -> None:
        """Block until a server is the primary, in the eyes of all Sentinels."""
        for sentinel in self.sentinels:
            until("it has failed over", partial(self._names, sentinel, server))
        until("it is a primary", lambda: server.run("ROLE")[0] == "master")

    def stop(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.stop()

    def _is_known_by(self, sentinel: Sentinel) -> bool:
        primary = sentinel.primary()
        return (str(primary["num-other-sentinels"]), str(primary["num-slaves"])) == ("2", "1")

    @staticmethod
    def _names(sentinel: Sentinel, server: RedisServer) -> bool:
        return str(sentinel.primary()["port"]) == str(server.port)


class Cluster:
    """Servers in cluster mode, the slots divided among the masters; the first has the store's slot."""

    def __init__(self, masters: int, replicas: int = 0) -> None:
        """`replicas`: of the first master."""
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        fast = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
        self.nodes = [RedisServer(*options, *fast) for _ in range(masters + replicas)]
        self.masters = self.nodes[:masters]
        first = self.nodes[0]
        for epoch, node in enumerate(self.nodes, 1):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for node in self.nodes[1:]:
            first.run("CLUSTER", "MEET", "127.0.0.1", node.port)
        share = (SLOTS + masters - 1) // masters
        for number, node in enumerate(self.masters):
            # The share that has the store's slot is the first node's.
            at = (SLOT // share + number) % masters
            node.run("CLUSTER", "ADDSLOTSRANGE", at * share, min(SLOTS, (at + 1) * share) - 1)
        self.wait_until_agreed()
        for node in self.nodes[masters:]:
            node.run("CLUSTER", "REPLICATE", self.id_of(first))
            until("the replica follows", lambda: "state=online" in first.text("INFO", "replication"))
        self.wait_until_agreed()

    def wait_until_agreed(self) -> None:
        """Block until every node knows all nodes, and who has which slots."""
        for node in self.nodes:
            until("the cluster comes up", partial(self._is_up, node))

    def id_of(self, node: RedisServer) -> str:
        return str(node.run("CLUSTER", "MYID"))

    def url(self, *nodes: RedisServer) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in nodes)
        return f"redis://{hosts}/0"

    def start_to_move(self, source: RedisServer, target: RedisServer) -> None:
        """Begin to move the store's slot: keys that are not there yet are asked for at the target."""
        target.run("CLUSTER", "SETSLOT", SLOT, "IMPORTING", self.id_of(source))
        source.run("CLUSTER", "SETSLOT", SLOT, "MIGRATING", self.id_of(target))

    def move_keys(self, source: RedisServer, target: RedisServer, most: int = 10_000) -> None:
        """Move so many keys of the store's slot."""
        names = source.run("CLUSTER", "GETKEYSINSLOT", SLOT, most)
        if names:
            source.run("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)

    def end_move(self, source: RedisServer, target: RedisServer) -> None:
        """Make the target the owner of the store's slot."""
        for node in (target, source):
            node.run("CLUSTER", "SETSLOT", SLOT, "NODE", self.id_of(target))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _is_up(self, node: RedisServer) -> bool:
        nodes = node.text("CLUSTER NODES").splitlines()
        return (
            "cluster_state:ok" in node.text("CLUSTER INFO")
            and len(nodes) == len(self.nodes)
            and not any("handshake" in line for line in nodes)
        )
