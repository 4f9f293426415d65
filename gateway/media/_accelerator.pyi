# SPDX-License-Identifier: BSD-2-Clause
"""The relay's fast case in C; see _accelerator.c."""

import socket
from collections.abc import Callable

class Counters:
    left: int
    frames: int
    bytes: int
    max_payload: int
    look_below: int
    masked: bool
    simple: bool

class Sources:
    def fileno(self) -> int: ...
    def ready(self) -> None: ...
    def stay(self, seconds: float, /) -> bool: ...

class Pump:
    direct: bool
    @property
    def reading(self) -> bool: ...
    def __init__(
        self,
        sources: Sources,
        walker: Counters,
        source: socket.socket,
        sink: socket.socket,
        *,
        on_chunk: Callable[[bytes], None],
        on_unsent: Callable[[bytes], None],
    ) -> None: ...
    def resume(self) -> None: ...
    def pause(self) -> None: ...
