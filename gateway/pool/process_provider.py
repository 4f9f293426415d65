# SPDX-License-Identifier: BSD-2-Clause
"""Instances that are processes of this machine (Linux).

Each is started in a session of its own (setsid(2)), so that no terminal and no service manager's signal to
the gateway's process group reaches it, and it outlives the gateway process that started it. Another one finds
it by its file (instance_files.py), id and start time. It writes its output straight into a file
(output_file.py). It ends with all that it has started: its session, and what carries its mark.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.config import AgentSettings
from gateway.config.agent_command import HOST_PLACEHOLDER, PORT_PLACEHOLDER
from gateway.pool.instance_files import InstanceFile, InstanceFiles
from gateway.pool.instance_provider import InstanceEnd, StartedInstance, StartFailed, StartRequest
from gateway.pool.output_file import MAX_BYTES, OutputFile, open_for_instance
from gateway.pool.process_table import MARK, ProcessIdentity, Usage, born_of, members, usage
from gateway.store.worker_id import process_namespace

log = structlog.get_logger(__name__)

SAMPLE_S: Final = 0.25
"""Seconds between two looks at how much was printed."""

FAST_SAMPLE_S: Final = 0.02
"""The same while an instance prints so much that its file would be too long long before."""

MEMBERS_S: Final = 0.1
"""Seconds between two looks whether an instance that is to end has left processes."""

LEFT_GRACE_S: Final = 2.0
"""Seconds from SIGTERM to SIGKILL for what an instance has left that ended while no gateway ran."""

STUBBORN_S: Final = 10.0
"""Seconds after SIGKILL after which a process that has not ended is worth a line."""

_OTHERS_VARIABLES: Final = ("PATH", "LANG", "TZ")
"""The gateway's variables that a program of another user gets, with LC_… ."""

_NOT_PASSED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
_OWN_PREFIX: Final = "PATCHBAY_"


@dataclass(slots=True)
class _Watched:
    """A process that this object watches. `child`: its own, which leaves a zombie when it ends."""

    file: InstanceFile
    leader: ProcessIdentity
    output: OutputFile | None
    ended: asyncio.Future[InstanceEnd]
    child: subprocess.Popen[bytes] | None = None
    descriptor: int | None = None
    reported_flood: bool = False


class ProcessProvider:
    """The `InstanceProvider` (instance_provider.py documents the methods) of processes."""

    def __init__(
        self,
        files: InstanceFiles,
        node: str,
        environ: Mapping[str, str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`node`: as node_lock.py names it. `environ`: the gateway's own. `now`: Unix seconds.

        Call it in the running loop.
        """
        self._files = files
        self._node = node
        self._environ = environ
        self._now = now
        self._namespace = process_namespace()
        self._watched: dict[str, _Watched] = {}
        self._starting: set[asyncio.Task[StartedInstance]] = set()
        self._sampling = asyncio.create_task(self._sample_for_ever(), name="instance output")

    async def start(self, request: StartRequest) -> StartedInstance:
        starting = asyncio.create_task(self._start_and_watch(request))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        # A thread cannot be cancelled: whoever gives up leaves an instance that is found by its file.
        return await asyncio.shield(starting)

    async def _start_and_watch(self, request: StartRequest) -> StartedInstance:
        file, child = await asyncio.to_thread(self._start, request)
        self._watch(file, child)
        return _started(file)

    async def find(self) -> list[StartedInstance]:
        running, left = await asyncio.to_thread(self._find)
        for file in running:
            if file.id not in self._watched:
                self._watch(file, None)
        left = [file for file in left if file.id not in self._watched]
        for file in left:
            self._watch(file, None)
        grace_s = LEFT_GRACE_S
        await asyncio.gather(*(self.stop(_started(file), min(file.stop_grace_s, grace_s)) for file in left))
        return [_started(watched.file) for watched in self._watched.values()]

    async def wait_ended(self, instance: StartedInstance) -> InstanceEnd:
        watched = self._watched.get(instance.id)
        return InstanceEnd(None) if watched is None else await asyncio.shield(watched.ended)

    async def stop(self, instance: StartedInstance, grace_s: float) -> None:
        watched = self._watched.get(instance.id)
        if watched is None:
            return
        await self._signal_all(watched, signal.SIGTERM)
        if grace_s > 0 and not await self._all_ended(watched, grace_s):
            log.warning("instance ignores SIGTERM", instance=instance.url, seconds=grace_s)
        killed_at, is_reported = time.monotonic(), False
        while await self._signal_all(watched, signal.SIGKILL):
            if not is_reported and time.monotonic() - killed_at > STUBBORN_S:
                is_reported = True
                log.error("instance does not end", instance=instance.url, pid=watched.leader.pid)
            await asyncio.sleep(MEMBERS_S)
        await self._forget(watched)

    async def usage(self, instance: StartedInstance) -> Usage | None:
        watched = self._watched.get(instance.id)
        return None if watched is None else await asyncio.to_thread(usage, watched.leader)

    async def note_served(self, instance: StartedInstance, served: int) -> None:
        watched = self._watched.get(instance.id)
        if watched is not None:
            watched.file = replace(watched.file, served=served)
            with suppress(OSError):
                await asyncio.to_thread(self._files.save, watched.file)

    async def close(self) -> None:
        await asyncio.gather(*self._starting, return_exceptions=True)
        self._sampling.cancel()
        await asyncio.gather(self._sampling, return_exceptions=True)
        for watched in self._watched.values():
            self._unwatch(watched)
            if watched.child is not None:
                watched.child.returncode = 0  # it runs on: nobody waits for it
        self._watched.clear()

    # In a thread

    def _start(self, request: StartRequest) -> tuple[InstanceFile, subprocess.Popen[bytes] | None]:
        agent = request.agent
        command = [_filled(each, request) for each in agent.command]
        try:
            self._files.make_folder()
            folder = self._files.make_folder(agent.log_folder)
            path = folder / f"{agent.service_host}-{request.port}-{request.id[:8]}.log"
            # Before it runs: whatever happens to this process then, the next one finds it by its mark.
            self._files.save(file := self._file(request, path))
            descriptor = open_for_instance(path)
        except OSError as error:
            raise StartFailed(f"its files cannot be written: {error.strerror}") from None
        try:
            child = subprocess.Popen(  # noqa: S603 - the operator's command
                command,
                cwd=agent.cwd or None,
                env=_variables(self._environ, request),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                **_identity(agent.user),
            )
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            self._end_file(file)
            raise StartFailed(_words(error, agent)) from None
        finally:
            os.close(descriptor)
        file = replace(file, pid=child.pid, born=born_of(child.pid) or 0)
        with suppress(OSError):  # then it is found by its mark
            self._files.save(file)
        return file, child

    def _file(self, request: StartRequest, output: Path) -> InstanceFile:
        agent = request.agent
        return InstanceFile(
            id=request.id,
            agent=agent.service_host,
            place=request.place,
            node=self._node,
            url=request.url,
            spec=request.spec,
            started_at=self._now(),
            served=0,
            stop_grace_s=agent.stop_grace,
            output=str(output),
            pid=0,
            born=0,
            namespace=self._namespace,
        )

    def _end_file(self, file: InstanceFile) -> None:
        with suppress(OSError):
            self._files.end(file, self._now())

    def _find(self) -> tuple[list[InstanceFile], list[InstanceFile]]:
        """Return the instances that run, and those whose process has ended, and others of theirs have not."""
        running, left = [], []
        for file in self._files.all():
            if file.ended_at is not None or file.node != self._node:
                continue
            if file.namespace != self._namespace:
                if (
                    file.namespace.split(" ")[0] == self._namespace.split(" ")[0]
                ):  # before this machine's start
                    self._end_file(file)
                continue
            leader = ProcessIdentity(file.pid, file.born)
            if leader.runs:
                running.append(file)
            elif members(leader, file.id):
                left.append(file)
            else:
                self._end_file(file)
        return running, left

    # Watching

    def _watch(self, file: InstanceFile, child: subprocess.Popen[bytes] | None) -> None:
        loop = asyncio.get_running_loop()
        leader = ProcessIdentity(file.pid, file.born)
        output = OutputFile(Path(file.output), file.started_at) if file.output else None
        watched = _Watched(file, leader, output, loop.create_future(), child)
        self._watched[file.id] = watched
        # A child that has ended is a zombie, and has a descriptor still.
        watched.descriptor = _open_child(leader) if child is not None else leader.open()
        if watched.descriptor is not None:
            loop.add_reader(watched.descriptor, self._note_end, watched)
        elif not leader.runs:
            self._note_end(watched)
        # Else no descriptor is free: it is looked at once a second.

    def _note_end(self, watched: _Watched) -> None:
        self._unwatch(watched)
        if not watched.ended.done():
            watched.ended.set_result(InstanceEnd(_status(watched)))

    def _unwatch(self, watched: _Watched) -> None:
        if watched.descriptor is not None:
            asyncio.get_running_loop().remove_reader(watched.descriptor)
            os.close(watched.descriptor)
            watched.descriptor = None

    async def _signal_all(self, watched: _Watched, number: int) -> bool:
        """Send a signal to all processes of an instance. Return False if there are none."""

        def send() -> bool:
            found = members(watched.leader, watched.file.id)
            for each in found:
                each.send(number)
            return bool(found)

        return await asyncio.to_thread(send)

    async def _all_ended(self, watched: _Watched, grace_s: float) -> bool:
        """Return True once nothing of an instance runs, False after `grace_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await asyncio.shield(watched.ended)
                while await asyncio.to_thread(members, watched.leader, watched.file.id):  # noqa: ASYNC110
                    await asyncio.sleep(MEMBERS_S)
                return True
        return False

    async def _forget(self, watched: _Watched) -> None:
        self._note_end(watched)
        if self._watched.pop(watched.file.id, None) is None:
            return
        if watched.child is not None:
            # Not before: while the zombie is there, no other process gets the number of its session.
            watched.child.wait()

        def end() -> None:
            now = self._now()
            if watched.output is not None:
                watched.output.sample(now)
            self._end_file(watched.file)

        await asyncio.to_thread(end)

    async def _sample_for_ever(self) -> None:
        while True:
            watched = list(self._watched.values())
            for each in watched:
                if each.descriptor is None and not each.ended.done() and not each.leader.runs:
                    self._note_end(each)
            grown = await asyncio.to_thread(self._sample, watched) if watched else 0
            await asyncio.sleep(SAMPLE_S if grown < MAX_BYTES // 4 else FAST_SAMPLE_S)

    def _sample(self, watched: list[_Watched]) -> int:
        """Look at what instances print. Return how much the output of the one that prints most grew."""
        most = 0
        for each in watched:
            if each.output is None:
                continue
            before = each.output.rotations
            grown = each.output.sample(self._now())
            most = max(most, grown)
            if each.output.rotations > before and grown > MAX_BYTES // 2 and not each.reported_flood:
                each.reported_flood = True
                log.warning("instance prints more than is stored", instance=each.file.url, bytes=grown)
        return most


def _started(file: InstanceFile) -> StartedInstance:
    return StartedInstance(
        id=file.id,
        agent=file.agent,
        place=file.place,
        url=file.url,
        spec=file.spec,
        started_at=file.started_at,
        served=file.served,
        stop_grace_s=file.stop_grace_s,
        output=file.output,
        handle=json.dumps({"pid": file.pid, "born": file.born}),
    )


def _open_child(leader: ProcessIdentity) -> int | None:
    try:
        return os.pidfd_open(leader.pid)
    except OSError:  # no descriptor is free
        return None


def _status(watched: _Watched) -> int | None:
    """Return the exit status of a child that has ended, and leave its zombie. None if that is unknown."""
    if watched.child is None:
        return None
    try:
        result = os.waitid(os.P_PID, watched.leader.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _filled(text: str, request: StartRequest) -> str:
    return text.replace(PORT_PLACEHOLDER, str(request.port)).replace(HOST_PLACEHOLDER, request.host)


def _variables(environ: Mapping[str, str], request: StartRequest) -> dict[str, str]:
    agent = request.agent
    if agent.user:
        passed_on = {
            name: value
            for name, value in environ.items()
            if name in _OTHERS_VARIABLES or name.startswith("LC_")
        }
        entry = pwd.getpwnam(agent.user)
        passed_on |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    else:
        passed_on = {
            name: value
            for name, value in environ.items()
            if not name.startswith(_OWN_PREFIX) and name not in _NOT_PASSED_ON
        }
    own = {name: _filled(value, request) for name, value in agent.environment.items()}
    return {**passed_on, **own, MARK: request.id}


def _identity(user: str) -> dict[str, Any]:
    """Return what makes a process one of another user. Raises KeyError if there is none of this name."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


def _words(error: Exception, agent: AgentSettings) -> str:
    if isinstance(error, LookupError):
        return f"there is no user {agent.user!r}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
