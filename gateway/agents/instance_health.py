# SPDX-License-Identifier: BSD-2-Clause
"""Which instances can take a caller now (docs/reference/agent-container.md, `GET /readyz`).

Every instance is asked at an interval, off the calls' path, so that choosing one costs a call nothing.
An instance that has no such route (Pipecat's development runner) counts as ready.

What it says is one thing, what becomes of its callers another: one that fails them again and again is set
aside for a while (trust.py), whatever it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from http import HTTPStatus

import aiohttp
import structlog

from gateway.agents.circuit_breaker import CircuitBreaker, CircuitState
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
STARTING_PROBE_INTERVAL_S = 0.25


class Health(IntEnum):
    """How much an instance is wanted for the next caller; the smaller, the more."""

    READY = 0
    UNKNOWN = 1
    STARTING = 2
    UNREACHABLE = 3


class InstanceHealth:
    """The readiness of every instance, as last seen."""

    def __init__(
        self,
        instances: Iterable[str],
        *,
        failures: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failures`: how many set an instance aside (trust.py), 0 for never.

        `now`: seconds of a clock that does not go back.
        """
        self._failures = failures
        self._seen = dict.fromkeys(instances, Health.UNKNOWN)
        self._trust: dict[str, CircuitBreaker] = {}  # of those that ever failed a caller
        self._now = now
        self._http: aiohttp.ClientSession | None = None
        self._watch: asyncio.Task[None] | None = None
        self._new = asyncio.Event()

    async def start(self) -> None:
        """Begins to ask."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        self._watch = asyncio.create_task(self._watch_all())

    async def stop(self) -> None:
        """Stops asking."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def watch(self, instances: Iterable[str]) -> None:
        """From now on these are asked and no others; new ones at once."""
        before = self._seen
        self._seen = {instance: before.get(instance, Health.UNKNOWN) for instance in instances}
        self._trust = {instance: kept for instance, kept in self._trust.items() if instance in self._seen}
        if self._seen.keys() - before.keys():
            self._new.set()

    def readiness(self, instance: str) -> Health:
        """As last seen."""
        return self._seen.get(instance, Health.UNKNOWN)

    def ranks(self, instances: Sequence[str]) -> tuple[tuple[str, Health], ...]:
        """Those that may have the next caller, in their order, each with how much it is wanted.

        Those that are set aside are left out; where all are, none is: a doubtful agent is better than none.
        """
        trusted = [instance for instance in instances if self._takes_callers(instance)]
        return tuple((instance, self.readiness(instance)) for instance in trusted or instances)

    def taken(self, instance: str) -> None:
        """A caller is sent to it."""
        if instance in self._trust:
            self._trust[instance].taken(self._now())

    def unreachable(self, instance: str) -> None:
        """A caller found it so; the next probe may find otherwise."""
        self._note(instance, Health.UNREACHABLE)
        self._failed(instance)

    def lost(self, instance: str) -> None:
        """A caller waited for it in vain, or lost its agent there; how it is now is asked at once."""
        self._failed(instance)
        self._new.set()

    async def wait_until_started(self, instance: str) -> None:
        """Returns once an instance that said it is not ready no longer does; the caller bounds the wait.

        Raises CallEnded(overloaded) where this machine has nothing left to ask with.
        """
        while self.readiness(instance) is Health.STARTING:
            await asyncio.sleep(STARTING_PROBE_INTERVAL_S)
            if not await self._probe(instance):
                raise CallEnded(Reasons.overloaded, "there is nothing left to ask the agent with")

    def _takes_callers(self, instance: str) -> bool:
        return instance not in self._trust or self._trust[instance].takes_callers(self._now())

    def _failed(self, instance: str) -> None:
        if instance not in self._seen or not self._failures:
            return
        now = self._now()
        trust = self._trust.setdefault(instance, CircuitBreaker(self._failures))
        before = trust.standing(now)
        trust.failed(now)
        if before is not CircuitState.ASIDE and trust.standing(now) is CircuitState.ASIDE:
            log.warning("instance set aside", instance=instance)

    async def _watch_all(self) -> None:
        while True:
            self._new.clear()
            await asyncio.gather(*map(self._probe, self._seen))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), PROBE_INTERVAL_S)

    async def _probe(self, instance: str) -> bool:
        """Asks it; False where it could not be asked, for want of something of our own."""
        assert self._http is not None
        try:
            async with self._http.get(f"{instance}/readyz", allow_redirects=False) as answer:
                refused = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
                self._note(instance, Health.STARTING if refused else Health.READY)
                if refused:
                    return True
        except aiohttp.ClientConnectorError as error:
            if is_out_of_resources(error.os_error):
                return False
            self._note(instance, Health.UNREACHABLE)
            return True
        except TimeoutError:
            self._note(instance, Health.UNKNOWN)
            return True
        except aiohttp.ClientError:
            self._note(instance, Health.UNKNOWN)  # somebody is there, but does not answer as HTTP should
        self._answered(instance)
        return True

    def _note(self, instance: str, readiness: Health) -> None:
        if instance not in self._seen:
            return  # it was taken out while it was asked, or while a call was on its way to it
        if self._seen[instance] is not readiness:
            log.info("instance", instance=instance, readiness=readiness.name.lower())
        self._seen[instance] = readiness

    def _answered(self, instance: str) -> None:
        if instance in self._trust:
            trust, now = self._trust[instance], self._now()
            before = trust.standing(now)
            trust.answered(now)
            if trust.standing(now) is not before:
                log.info("instance may be tried again", instance=instance)
