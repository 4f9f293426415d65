# SPDX-License-Identifier: BSD-2-Clause
"""The health of every agent instance (docs/reference/agent-container.md, `GET /readyz`).

Every instance is probed at an interval, apart from any call, so that choosing one costs a call no request.
An instance without that route (Pipecat's development runner) counts as ready. One that answers that it speaks
WebSocket alone (426, RFC 9110 §15.5.22) is asked no more: that something listens there is all that such a
server can tell, and some of them log a traceback for each request.

A probe tells what an instance reports; what became of its sessions is counted by its circuit breaker
(circuit_breaker.py), which keeps sessions from an instance that fails them, whatever it reports. Of an
instance that is not probed (an interval of 0) this is all that is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, IntEnum, auto
from http import HTTPStatus

import aiohttp
import structlog

from gateway.agents.circuit_breaker import FIRST_PAUSE_S, CircuitBreaker, CircuitState
from gateway.agents.health_check import HealthCheck
from gateway.agents.listening_probe import look_for_listener
from gateway.dns.http_connector import open_connector
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons

log = structlog.get_logger(__name__)

PROBE_TIMEOUT_S = 2.0
STARTING_PROBE_INTERVAL_S = 0.25

UNREACHABLE_INTERVAL_S = 2.0
"""The longest time between two probes of an instance that was not reached, or whose circuit is open."""

LONGEST_VAIN_INTERVAL_S = 30.0
"""The longest time between two probes of an instance whose answers are no HTTP: it doubles with each of them.
"""

DEFAULT_CHECK = HealthCheck()

MAX_DOUBLINGS = 10

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
        instances: Iterable[str] | Mapping[str, HealthCheck],
        *,
        max_failures: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take note of `instances` (URLs), and how to ask each; `start` begins to probe them.

        `max_failures`: failures that open an instance's circuit, 0 for never. `now`: seconds of a clock that
        does not go back.
        """
        self._max_failures = max_failures
        self._checks: Mapping[str, HealthCheck] = _with_checks(instances)
        self._unprobed = _unprobed(self._checks)
        self._health = dict.fromkeys(self._checks, Health.UNKNOWN)
        self._breakers: dict[str, CircuitBreaker] = {}  # of the instances that have failed at least once
        self._not_ready_at: dict[str, float] = {}  # when each instance last said 503, by `now`
        self._missed_at: dict[str, float] = {}  # when a session last failed to connect, of `_unprobed`
        self._websocket_only: set[str] = set()  # instances that said so, and have not been away since
        self._vain_probes: dict[str, int] = {}  # how often in a row the answer was no HTTP
        self._now = now
        self._http: aiohttp.ClientSession | None = None
        self._probing: asyncio.Task[None] | None = None
        self._due: dict[str, float] = {}  # the next probe of each instance, in seconds of the monotonic clock
        self._urgent: set[str] = set()  # instances to be probed at once
        self._rescheduled = asyncio.Event()

    async def start(self) -> None:
        """Begin to probe all instances."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        # No limit of connections: instances that do not answer would keep the others from being probed.
        self._http = aiohttp.ClientSession(
            connector=open_connector(limit=0), timeout=timeout, auto_decompress=False
        )
        self._probing = asyncio.create_task(self._probe_when_due())

    async def stop(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def watch(self, instances: Iterable[str] | Mapping[str, HealthCheck]) -> None:
        """Replace the set of instances. If there are new ones, all are probed at once; removed ones are
        forgotten.
        """
        before, known = self._checks, self._health
        self._checks = checks = _with_checks(instances)
        self._unprobed = _unprobed(checks)
        self._health = {instance: known.get(instance, Health.UNKNOWN) for instance in checks}
        for per_instance in (self._breakers, self._not_ready_at, self._missed_at, self._vain_probes):
            for url in per_instance.keys() - checks.keys():
                del per_instance[url]
        self._websocket_only &= checks.keys()
        changed = {url for url, check in checks.items() if before.get(url) != check}
        if changed:
            self._websocket_only -= changed
            self._urgent.update(checks.keys() if checks.keys() - before.keys() else changed)
            self._rescheduled.set()

    def of(self, instance: str) -> Health:
        """Return the instance's health as last seen; UNKNOWN for an instance that is not watched.

        An instance without probes is unreachable for FIRST_PAUSE_S after a session that did not reach it.
        """
        health = self._health.get(instance, Health.UNKNOWN)
        if health is Health.UNREACHABLE and instance in self._unprobed:
            missed_at = self._missed_at.get(instance)
            if missed_at is None or self._now() - missed_at >= FIRST_PAUSE_S:
                return Health.UNKNOWN
        return health

    def is_watched(self, instance: str) -> bool:
        """Return True if an agent has the instance."""
        return instance in self._health

    def ranks(self, instances: Sequence[str]) -> tuple[tuple[str, Health], ...]:
        """Return the instances that may get the next session, in the given order, each with its rank.

        Instances whose circuit does not admit sessions are left out. If that leaves none, all are returned:
        an instance that may fail is better than none.
        """
        admitting = [instance for instance in instances if self._admits(instance)]
        return tuple((instance, self._rank(instance)) for instance in admitting or instances)

    def _rank(self, instance: str) -> Health:
        """Return the instance's rank: its health, but one without probes is not better for having had a call.

        Otherwise the first one that had one would get all.
        """
        health = self.of(instance)
        return Health.UNKNOWN if health is Health.READY and instance in self._unprobed else health

    def has_half_open(self, instances: Iterable[str]) -> bool:
        """Return True if the circuit of one of the instances is half open: it may get exactly one session."""
        now = self._now()
        breakers = [self._breaker(instance) for instance in instances if instance in self._breakers]
        return any(breaker.state(now) is CircuitState.HALF_OPEN for breaker in breakers if breaker)

    def trial_started(self, instance: str) -> None:
        """Note that a session got a slot on the instance; it is the trial if the circuit is half open."""
        if instance in self._breakers:
            self._breakers[instance].start_trial(self._now())

    def mark_connected(self, instance: str) -> None:
        """Note that a session was accepted by the instance. It tells only of one that is not probed."""
        if instance in self._unprobed:
            self._set(instance, Health.READY)

    def mark_unreachable(self, instance: str) -> None:
        """Note that a session could not connect to the instance. The next probe may find otherwise."""
        self._set(instance, Health.UNREACHABLE)
        if instance in self._unprobed:
            self._missed_at[instance] = self._now()
        elif instance in self._health:
            soon = time.monotonic() + UNREACHABLE_INTERVAL_S
            self._due[instance] = min(self._due.get(instance, soon), soon)
            self._rescheduled.set()
        self._record_failure(instance)

    def probe_soon(self, instance: str) -> None:
        """Probe the instance at once: it is said to be ready."""
        if instance in self._health:
            self._urgent.add(instance)
            self._rescheduled.set()

    def record_failure(self, instance: str) -> None:
        """Note that a session waited for the instance in vain, or lost its agent there. Probe it at once."""
        self._record_failure(instance)
        self._urgent.add(instance)
        self._rescheduled.set()

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

    async def wake(self, instance: str) -> None:
        """Ask the instance once, also one without health checks, for a call that will come. Raises nothing.

        What starts instances by their first request has it to begin with. PROBE_TIMEOUT_S bounds it.
        """
        path = self._check(instance).path
        if path and instance not in self._websocket_only:
            await self._request(instance, path)
        else:
            await self._look(instance)

    def was_not_ready_within(self, instance: str, seconds: float) -> bool:
        """Return True if the instance has said within this time that it is not ready (503)."""
        at = self._not_ready_at.get(instance)
        return at is not None and self._now() - at <= seconds

    async def answers(self, instance: str) -> bool:
        """Probe the instance now. Return True if it answers, ready or not; PROBE_TIMEOUT_S bounds it.

        Also True if this process could not ask: an agent that may still be there is not run a second time.
        One that speaks WebSocket alone is asked after all: behind a proxy something always listens.
        """
        if instance in self._websocket_only:
            result = await self._request(instance, self._check(instance).path)
        else:
            result = await self.probe(instance)
        return result in (ProbeResult.READY, ProbeResult.NOT_READY, ProbeResult.NOT_PROBED)

    def _check(self, instance: str) -> HealthCheck:
        return self._checks.get(instance, DEFAULT_CHECK)

    def _breaker(self, instance: str) -> CircuitBreaker | None:
        """Return the instance's circuit breaker, None if it has not failed yet."""
        breaker = self._breakers.get(instance)
        if breaker is not None and instance in self._unprobed:
            breaker.record_answer(self._now())  # its circuit waits for the end of the pause alone
        return breaker

    def _admits(self, instance: str) -> bool:
        breaker = self._breaker(instance)
        return breaker is None or breaker.admits(self._now())

    def _record_failure(self, instance: str) -> None:
        if instance not in self._health or not self._max_failures:
            return
        now = self._now()
        breaker = self._breakers.setdefault(instance, CircuitBreaker(self._max_failures))
        before = breaker.state(now)
        breaker.record_failure(now)
        if before is not CircuitState.OPEN and breaker.state(now) is CircuitState.OPEN:
            log.warning("instance set aside", instance=instance)

    # Probes

    async def _probe_when_due(self) -> None:
        while True:
            self._rescheduled.clear()
            urgent, self._urgent = self._urgent, set()
            now = time.monotonic()
            probed = [
                url
                for url in self._checks
                if url not in self._unprobed and (url in urgent or now >= self._due.get(url, now))
            ]
            await asyncio.gather(*map(self.probe, probed))
            now = time.monotonic()
            self._due |= {url: now + self._interval_s(url) for url in probed}
            for url in self._due.keys() - (self._checks.keys() - self._unprobed):  # probed no more
                del self._due[url]
            wait_s = min(self._due.values()) - now if self._due else None
            # Not wait_for, which may lose the cancellation of `stop` (bpo-37658, until Python 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._rescheduled.wait()

    def _interval_s(self, instance: str) -> float:
        """Return the seconds until the next probe of an instance that was probed just now."""
        interval_s, breaker = self._check(instance).interval_s, self._breakers.get(instance)
        if self._health.get(instance) is Health.UNREACHABLE or (
            breaker is not None and breaker.state(self._now()) is CircuitState.OPEN
        ):
            return min(interval_s, UNREACHABLE_INTERVAL_S)
        doublings = self._vain_probes.get(instance, 0)
        return max(interval_s, min(interval_s * (1 << doublings), LONGEST_VAIN_INTERVAL_S))

    async def probe(self, instance: str) -> ProbeResult:
        """Probe one instance, and take note of its health if it is watched. Raises nothing.

        An instance that cannot be asked, or is not to be, is looked at as a listener.
        """
        path = self._check(instance).path
        if not path or instance in self._unprobed or instance in self._websocket_only:
            return await self._look(instance)
        return await self._request(instance, path)

    async def _request(self, instance: str, path: str) -> ProbeResult:
        assert self._http is not None
        try:
            async with self._http.get(f"{instance}{path}", allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.ClientConnectorError as error:
            return self._not_connected(instance, error.os_error)
        except TimeoutError:
            return self._silent(instance)
        except aiohttp.ClientError:
            self._set(instance, Health.UNKNOWN)  # a server is there, but its answer is no HTTP
            self._record_answer(instance)
            if instance in self._health:
                self._vain_probes[instance] = min(self._vain_probes.get(instance, 0) + 1, MAX_DOUBLINGS)
            return ProbeResult.NOT_HTTP
        self._vain_probes.pop(instance, None)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self._set(instance, Health.STARTING)
            if instance in self._health:
                self._not_ready_at[instance] = self._now()
            return ProbeResult.NOT_READY
        if status == HTTPStatus.UPGRADE_REQUIRED and instance in self._health:
            self._websocket_only.add(instance)
        self._set(instance, Health.READY)
        self._record_answer(instance)
        return ProbeResult.NOT_HTTP if status in GATEWAY_ERRORS else ProbeResult.READY

    async def _look(self, instance: str) -> ProbeResult:
        """Probe an instance by looking whether something listens there."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await look_for_listener(instance)
        except TimeoutError:
            return self._silent(instance)
        except OSError as error:
            return self._not_connected(instance, error)
        self._set(instance, Health.READY)
        self._record_answer(instance)
        return ProbeResult.READY

    def _not_connected(self, instance: str, error: OSError) -> ProbeResult:
        if is_out_of_resources(error):
            return ProbeResult.NOT_PROBED
        self._websocket_only.discard(instance)  # another program may listen there next
        self._vain_probes.pop(instance, None)
        self._set(instance, Health.UNREACHABLE)
        if instance in self._unprobed:
            self._missed_at[instance] = self._now()
        refused = isinstance(error, ConnectionRefusedError)
        return ProbeResult.REFUSED if refused else ProbeResult.UNREACHABLE

    def _silent(self, instance: str) -> ProbeResult:
        self._set(instance, Health.UNKNOWN)
        return ProbeResult.SILENT

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


def _with_checks(instances: Iterable[str] | Mapping[str, HealthCheck]) -> Mapping[str, HealthCheck]:
    return instances if isinstance(instances, Mapping) else dict.fromkeys(instances, DEFAULT_CHECK)


def _unprobed(checks: Mapping[str, HealthCheck]) -> frozenset[str]:
    return frozenset(url for url, check in checks.items() if not check.interval_s)
