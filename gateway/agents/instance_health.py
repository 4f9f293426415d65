# SPDX-License-Identifier: BSD-2-Clause
"""The health of every agent instance (docs/reference/agent-container.md, `GET /readyz`).

Every instance is probed at an interval, apart from any call, so that choosing one costs a call no request.
An instance without that route (Pipecat's development runner) counts as ready.

A probe tells what an instance reports; what became of its sessions is counted by its circuit breaker
(circuit_breaker.py), which keeps sessions from an instance that fails them, whatever it reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, IntEnum, auto
from http import HTTPStatus

import aiohttp
import structlog

from gateway.agents.circuit_breaker import CircuitBreaker, CircuitState
from gateway.dns.http_connector import open_connector
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
STARTING_PROBE_INTERVAL_S = 0.25

GATEWAY_ERRORS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers of a proxy before an instance that does not answer itself (RFC 9110 §15.6.3, §15.6.5)."""


class Health(IntEnum):
    """The health of an instance, as a rank: the instance with the smallest value gets the next session."""

    READY = 0
    UNKNOWN = 1
    STARTING = 2
    UNREACHABLE = 3


class ProbeResult(Enum):
    """The result of one probe of an instance."""

    READY = auto()
    """An answer that does not say that it is starting or busy."""
    NOT_READY = auto()
    """A 503: it starts, or is busy."""
    NOT_HTTP = auto()
    """A server that gave no HTTP answer, or a proxy that got none."""
    SILENT = auto()
    """No answer within PROBE_TIMEOUT_S."""
    REFUSED = auto()
    """Nothing listens there: no process runs."""
    UNREACHABLE = auto()
    """Any other failure to connect: no route, no such name."""
    NOT_PROBED = auto()
    """This process could not probe, for want of its own resources."""


class InstanceHealth:
    """The health of all instances, as this worker last saw it."""

    def __init__(
        self,
        instances: Iterable[str],
        *,
        max_failures: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take note of `instances` (URLs); `start` begins to probe them.

        `max_failures`: failures that open an instance's circuit, 0 for never. `now`: seconds of a clock that
        does not go back.
        """
        self._max_failures = max_failures
        self._health = dict.fromkeys(instances, Health.UNKNOWN)
        self._breakers: dict[str, CircuitBreaker] = {}  # of the instances that have failed at least once
        self._not_ready_at: dict[str, float] = {}  # when each instance last said 503, by `now`
        self._now = now
        self._http: aiohttp.ClientSession | None = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_now = asyncio.Event()

    async def start(self) -> None:
        """Begin to probe all instances."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        # No limit of connections: instances that do not answer would keep the others from being probed.
        self._http = aiohttp.ClientSession(
            connector=open_connector(limit=0), timeout=timeout, auto_decompress=False
        )
        self._probing = asyncio.create_task(self._probe_all())

    async def stop(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def watch(self, instances: Iterable[str]) -> None:
        """Replace the set of instances. New ones are probed at once; removed ones are forgotten."""
        before = self._health
        self._health = {instance: before.get(instance, Health.UNKNOWN) for instance in instances}
        self._breakers = {url: breaker for url, breaker in self._breakers.items() if url in self._health}
        self._not_ready_at = {url: at for url, at in self._not_ready_at.items() if url in self._health}
        if self._health.keys() - before.keys():
            self._probe_now.set()

    def of(self, instance: str) -> Health:
        """Return the instance's health as last seen; UNKNOWN for an instance that is not watched."""
        return self._health.get(instance, Health.UNKNOWN)

    def is_watched(self, instance: str) -> bool:
        """Return True if the instance is probed: an agent has it."""
        return instance in self._health

    def ranks(self, instances: Sequence[str]) -> tuple[tuple[str, Health], ...]:
        """Return the instances that may get the next session, in the given order, each with its rank.

        Instances whose circuit does not admit sessions are left out. If that leaves none, all are returned:
        an instance that may fail is better than none.
        """
        admitting = [instance for instance in instances if self._admits(instance)]
        return tuple((instance, self.of(instance)) for instance in admitting or instances)

    def has_half_open(self, instances: Iterable[str]) -> bool:
        """Return True if the circuit of one of the instances is half open: it may get exactly one session."""
        now = self._now()
        breakers = [self._breakers[instance] for instance in instances if instance in self._breakers]
        return any(breaker.state(now) is CircuitState.HALF_OPEN for breaker in breakers)

    def trial_started(self, instance: str) -> None:
        """Note that a session got a slot on the instance; it is the trial if the circuit is half open."""
        if instance in self._breakers:
            self._breakers[instance].start_trial(self._now())

    def mark_unreachable(self, instance: str) -> None:
        """Note that a session could not connect to the instance. The next probe may find otherwise."""
        self._set(instance, Health.UNREACHABLE)
        self._record_failure(instance)

    def record_failure(self, instance: str) -> None:
        """Note that a session waited for the instance in vain, or lost its agent there. Probe it at once."""
        self._record_failure(instance)
        self._probe_now.set()

    async def wait_until_started(self, instance: str) -> None:
        """Wait while the instance reports that it is starting. Bound the wait with `asyncio.timeout`.

        Raises CallEnded(overloaded) if this process has no file descriptor left to probe it with.
        """
        while self.of(instance) is Health.STARTING:
            await asyncio.sleep(STARTING_PROBE_INTERVAL_S)
            if await self.probe(instance) is ProbeResult.NOT_PROBED:
                raise CallEnded(Reasons.overloaded, "there is nothing left to ask the agent with")

    async def wait_until_answering(self, instance: str) -> None:
        """Wait while the instance is starting or unreachable. Bound the wait with `asyncio.timeout`.

        For what can wait for an agent that is cold. Raises CallEnded(overloaded) as `wait_until_started`.
        """
        while self.of(instance) in (Health.STARTING, Health.UNREACHABLE):
            await asyncio.sleep(STARTING_PROBE_INTERVAL_S)
            if await self.probe(instance) is ProbeResult.NOT_PROBED:
                raise CallEnded(Reasons.overloaded, "there is nothing left to ask the agent with")

    def was_not_ready_within(self, instance: str, seconds: float) -> bool:
        """Return True if the instance has said within this time that it is not ready (503)."""
        at = self._not_ready_at.get(instance)
        return at is not None and self._now() - at <= seconds

    async def answers(self, instance: str) -> bool:
        """Probe the instance now. Return True if it answers, ready or not; PROBE_TIMEOUT_S bounds it.

        Also True if this process could not ask: an agent that may still be there is not run a second time.
        """
        result = await self.probe(instance)
        return result in (ProbeResult.READY, ProbeResult.NOT_READY, ProbeResult.NOT_PROBED)

    def _admits(self, instance: str) -> bool:
        return instance not in self._breakers or self._breakers[instance].admits(self._now())

    def _record_failure(self, instance: str) -> None:
        if instance not in self._health or not self._max_failures:
            return
        now = self._now()
        breaker = self._breakers.setdefault(instance, CircuitBreaker(self._max_failures))
        before = breaker.state(now)
        breaker.record_failure(now)
        if before is not CircuitState.OPEN and breaker.state(now) is CircuitState.OPEN:
            log.warning("instance set aside", instance=instance)

    async def _probe_all(self) -> None:
        while True:
            self._probe_now.clear()
            await asyncio.gather(*map(self.probe, self._health))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._probe_now.wait(), PROBE_INTERVAL_S)

    async def probe(self, instance: str) -> ProbeResult:
        """Probe one instance, and take note of its health if it is watched. Raises nothing."""
        assert self._http is not None
        try:
            async with self._http.get(f"{instance}/readyz", allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.ClientConnectorError as error:
            if is_out_of_resources(error.os_error):
                return ProbeResult.NOT_PROBED
            self._set(instance, Health.UNREACHABLE)
            refused = isinstance(error.os_error, ConnectionRefusedError)
            return ProbeResult.REFUSED if refused else ProbeResult.UNREACHABLE
        except TimeoutError:
            self._set(instance, Health.UNKNOWN)
            return ProbeResult.SILENT
        except aiohttp.ClientError:
            self._set(instance, Health.UNKNOWN)  # a server is there, but its answer is no HTTP
            self._record_answer(instance)
            return ProbeResult.NOT_HTTP
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self._set(instance, Health.STARTING)
            if instance in self._health:
                self._not_ready_at[instance] = self._now()
            return ProbeResult.NOT_READY
        self._set(instance, Health.READY)
        self._record_answer(instance)
        return ProbeResult.NOT_HTTP if status in GATEWAY_ERRORS else ProbeResult.READY

    def _set(self, instance: str, health: Health) -> None:
        if instance not in self._health:
            return  # it was removed during the probe, or while a session was connecting to it
        if self._health[instance] is not health:
            log.info("instance", instance=instance, readiness=health.name.lower())
        self._health[instance] = health

    def _record_answer(self, instance: str) -> None:
        if instance in self._breakers:
            breaker, now = self._breakers[instance], self._now()
            before = breaker.state(now)
            breaker.record_answer(now)
            if breaker.state(now) is not before:
                log.info("instance may be tried again", instance=instance)
