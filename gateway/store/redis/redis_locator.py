# SPDX-License-Identifier: BSD-2-Clause
"""Which server has the store now: the one that was named, the primary that Sentinels know, or, in a cluster,
the primary of the one slot that all keys are in.

Redis' rule for clients of Sentinel: ask at every connection, and look at the server's role before it is used
(redis.io, "Guidelines for Redis clients with support for Redis Sentinel"). Sentinels may disagree while a
network is divided; each says with which epoch it knows its answer, and the newest is right. The nodes of a
cluster give no epoch, so most of them count. Either way the server's own word about its role has to agree.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_address import Address, RedisAddress

ASK_S: Final = 0.4
"""Seconds in which those who may know the primary answer."""

SLOT: Final = key_slot(keys.TAG.encode())

DENIALS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
"""The answers to a wrong password, or to one that is good for less."""

T = TypeVar("T")


class NotPrimary(RedisConnectionError):  # noqa: N818 - redis-py tells by the base what may be tried again
    """The server is not, or no longer, the one that takes writes."""


class RedisLocator:
    """Finds the server of a store. Belongs to one event loop.

    `connected`: how often a server was connected to and found to be the primary. Whoever remembers the number
    sees that what the last one acknowledged may be lost.
    """

    def __init__(self, address: RedisAddress, connect_s: float) -> None:
        """`connect_s`: how long a connection and an answer on it may take."""
        self._address = address
        self._connect_s = connect_s
        self.connected = 0
        self.current: Address | None = None
        self._nodes: tuple[Address, ...] = ()
        self._asking: asyncio.Future[Address] | None = None

    async def locate(self) -> Address:
        """Return the server to connect to. Raises RedisError if nobody knows it."""
        if self._address.service:
            return await self._ask_once(self._ask_sentinels)
        if self.current is not None:
            return self.current
        candidates = self._candidates()
        if len(candidates) == 1:
            return candidates[0]
        return await self._ask_once(self._ask_nodes)

    def failed(self, server: Address) -> None:
        """Note that a server could not be connected to, or is not the primary."""
        if self.current == server:
            self.current = None

    def moved(self, answer: MovedError) -> None:
        """Note that the slot is elsewhere. An answer without a host means the one that gave it."""
        server = self.current or self._candidates()[0]
        self.current = answer.host.strip("[]") or server[0], int(answer.port)
        self._nodes = tuple(dict.fromkeys((self.current, *self._nodes)))

    async def confirm(self, connection: Any) -> None:
        """Look at the role of a server just connected to. Raises RedisError unless it has the store."""
        server = connection.host, connection.port
        mode, role = await _role(connection)
        if mode == "cluster":
            owner = await self._owner(connection, server)
            if owner is not None and owner != server:
                self.current = owner
                raise NotPrimary(f"{server[0]}:{server[1]} is not the node that has the store")
        if role != "master":
            self.failed(server)
            raise NotPrimary(f"{server[0]}:{server[1]} is a replica")
        self.current = server
        self.connected += 1

    def _candidates(self) -> tuple[Address, ...]:
        return tuple(dict.fromkeys((*self._address.hosts, *self._nodes)))

    async def _ask_once(self, ask: Callable[[], Awaitable[Address]]) -> Address:
        """Ask; all who want to know meanwhile get the same answer."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(ask())
            self._asking.add_done_callback(self._forget_question)
        return await asyncio.shield(self._asking)

    def _forget_question(self, asking: asyncio.Future[Address]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # whoever waited has it

    # Sentinel

    async def _ask_sentinels(self) -> Address:
        hosts = self._address.hosts
        answers = await _answers([self._ask_sentinel(host) for host in hosts], len(hosts) // 2 + 1)
        known = [answer for answer in answers if answer is not None]
        if known:
            return max(known, key=lambda answer: answer[0])[1]
        if answers:
            raise RedisConnectionError(f"the Sentinels know no service {self._address.service!r}")
        raise RedisConnectionError("no Sentinel answers")

    async def _ask_sentinel(self, host: Address) -> tuple[int, Address] | None:
        """Return the epoch of what a Sentinel knows, and the primary; None if it knows no such service."""
        passwords = self._address.passwords
        async with self._connection(host, passwords.sentinel_user, passwords.sentinel) as sentinel:
            try:
                found = await _run(sentinel, "SENTINEL", "MASTER", self._address.service)
            except DENIALS:
                raise
            except ResponseError:  # "No such master with that name"
                return None
        values = dict(zip(found[::2], found[1::2], strict=True))
        return int(values["config-epoch"]), (values["ip"], int(values["port"]))

    # Cluster, and several hosts

    async def _ask_nodes(self) -> Address:
        candidates = self._candidates()
        answers = await _answers([self._ask_node(each) for each in candidates], len(candidates) // 2 + 1)
        owners = Counter(answer for answer in answers if answer is not None)
        if owners:
            return owners.most_common(1)[0][0]
        if answers:
            raise NotPrimary("none of the servers is a primary that has the store")
        raise RedisConnectionError("no server answers")

    async def _ask_node(self, host: Address) -> Address | None:
        async with self._connection(host, self._address.user, self._address.passwords.server) as node:
            mode, role = await _role(node)
            if mode == "cluster":
                return await self._owner(node, host)
            return host if role == "master" else None

    async def _owner(self, connection: Any, node: Address) -> Address | None:
        """Return the primary of the store's slot as a node knows it, None if it knows none."""
        owner = None
        nodes: list[Address] = []
        for first, last, *servers in await _run(connection, "CLUSTER", "SLOTS"):
            found = [(server[0] or node[0], int(server[1])) for server in servers]
            nodes += [each for each in found if each[0] != "?"]
            if first <= SLOT <= last and found[0] in nodes:
                owner = found[0]
        if nodes:
            self._nodes = tuple(dict.fromkeys(nodes))
        return owner

    @contextlib.asynccontextmanager
    async def _connection(self, host: Address, user: str, password: str) -> Any:
        kind = SSLConnection if self._address.is_tls else Connection
        connection = kind(
            host=host[0],
            port=host[1],
            username=user or None,
            password=password or None,
            socket_timeout=self._connect_s,
            socket_connect_timeout=self._connect_s,
            decode_responses=True,
            protocol=2,
        )
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        finally:
            await connection.disconnect(nowait=True)


async def _run(connection: Any, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


async def _role(connection: Any) -> tuple[str, str]:
    """Return a server's mode ("standalone", "cluster") and role ("master", "replica")."""
    try:
        found = await _run(connection, "HELLO")
    except AuthenticationError:
        raise
    except (
        ResponseError
    ):  # a user who may not ask, or a proxy that does not know it: the first write will tell
        return "standalone", "master"
    values = dict(zip(found[::2], found[1::2], strict=True))
    return values["mode"], values["role"]


async def _answers(questions: Sequence[Awaitable[T]], enough: int) -> list[T]:
    """Return what is answered within ASK_S; only until there are enough answers.

    Raises one of DENIALS if nobody answers and somebody refuses the password.
    """
    tasks = [asyncio.ensure_future(question) for question in questions]
    answers: list[T] = []
    denial: RedisError | None = None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_S):
                for done in asyncio.as_completed(tasks):
                    try:
                        answers.append(await done)
                    except DENIALS as error:
                        denial = error
                    except (RedisError, OSError):
                        continue
                    if len(answers) >= enough:
                        break
    finally:
        await _cancel(tasks)
    if not answers and denial is not None:
        raise denial
    return answers


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
