# SPDX-License-Identifier: BSD-2-Clause
"""From the bytes of a body to the operation's model, in bounded steps and within the share of its key.

A body of up to `WHOLE_BYTES` is parsed and validated in one go, one body in each turn (turns.py). A larger
one is only taken where its operation names the members that may be large. Those are checked in steps
(json_steps.py): one that takes any JSON is passed on as its text, the entries of a list are validated a few
at a time. The rest must be as small as other bodies. What all this takes is charged to the key, whose share
of the time is limited (docs/decisions/0036-json-in-steps.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import Headers

from gateway.api.framework.errors import bad_json, invalid, too_large, too_much_json
from gateway.api.framework.json_steps import JsonOutline, Span
from gateway.api.framework.operation import LargeMember, Operation, Style
from gateway.api.framework.request_body import body_model, check_content, invalid_value
from gateway.api.framework.strict_json import JsonError
from gateway.api.framework.turns import next_turn
from gateway.auth.rate_limits import RateLimiter
from gateway.model.json_text import JsonText

WHOLE_BYTES: Final = 32_768
"""The largest text that is parsed in one go."""

QUICK_BYTES: Final = 2048
"""A text up to this size is parsed without a turn and without charge: it takes next to no time."""

MAX_ENTRY_BYTES: Final = 131_072
BATCH_BYTES: Final = 16_384
BATCH_ENTRIES: Final = 32
"""Entries of a large list that are validated in one turn; one may be larger than `BATCH_BYTES`."""

BURST_S: Final = 0.5
"""Seconds of work that a key may cause at once."""

Timer = Callable[[], float]


class BodyReader:
    """The bodies of one worker's requests. `share`: of the time of one core that a key may take."""

    def __init__(self, share: float, now: Callable[[], float], timer: Timer = time.perf_counter) -> None:
        """`now` returns Unix seconds; `timer` measures, in seconds."""
        # In the bucket are seconds of work: a key with none left waits until it has some again.
        self._seconds = RateLimiter(share, BURST_S)
        self._now = now
        self._timer = timer

    async def read(self, raw: bytes, headers: Headers, operation: Operation, owner: Hashable) -> BaseModel:
        """Return the validated body; an empty one counts as `{}`. `owner`: of the request's key.

        Raises ApiError: 400 if it is not JSON, 400 or 422 (by style) if the model does not accept it, 413 if
        what may not be large is, 429 if the owner has used up its share.
        """
        model, style = operation.body, operation.style
        assert model is not None
        if raw:
            check_content(headers, style)
        if len(raw) <= QUICK_BYTES:
            return body_model(raw, model, style)
        self._check_share(owner, style)
        await next_turn()
        self._check_share(owner, style)  # other bodies of this key were read meanwhile
        if len(raw) > WHOLE_BYTES:
            return await self._read_large(raw, operation, owner)
        with self._charged(owner):
            return body_model(raw, model, style)

    def _check_share(self, owner: Hashable, style: Style) -> None:
        now = self._now()
        if self._seconds.available(owner, now) <= 0.0:
            raise too_much_json(max(1, math.ceil(self._seconds.wait_s(owner, now))), style)

    @contextmanager
    def _charged(self, owner: Hashable) -> Iterator[None]:
        """Charge the time of the block, which must not await, to the owner."""
        began_at = self._timer()
        try:
            yield
        finally:
            self._seconds.spend(owner, self._timer() - began_at, self._now())

    async def _read_large(self, raw: bytes, operation: Operation, owner: Hashable) -> BaseModel:
        style = operation.style
        large = {member.name: member for member in operation.large}
        outline = JsonOutline(raw, max((member.max_entries for member in operation.large), default=0))
        steps = outline.steps()
        try:
            while True:
                with self._charged(owner):
                    if next(steps, _DONE) is _DONE:
                        break
                await next_turn()
        except JsonError as error:
            raise bad_json(str(error), style) from None
        spans = {
            name: span
            for name, span in outline.members.items()
            if name in large and span.end - span.start > len(b"null")
        }
        with self._charged(owner):
            rest = _without(outline, spans, large)
            if len(rest) > WHOLE_BYTES:
                names = " and ".join(large) or "parts"
                raise too_large(WHOLE_BYTES, style, beside=names)
            assert operation.body is not None
            model = body_model(rest, operation.body, style)
        values = {
            large[name].field: await self._value(outline, large[name], span, owner, style)
            for name, span in spans.items()
        }
        return model.model_copy(update=values)

    async def _value(
        self, outline: JsonOutline, member: LargeMember, span: Span, owner: Hashable, style: Style
    ) -> Any:
        """Return the value of a large member. Raises ApiError."""
        if member.entry is None:
            size = span.end - span.start
            if size > member.max_bytes:
                detail = f"{member.name}: has {size} bytes of JSON; {member.max_bytes} are allowed"
                raise invalid(detail, style, member.name)
            return JsonText(outline.text_of(span))
        elements = outline.elements.get(member.name)
        if elements is None:
            raise invalid(f"{member.name}: Input should be a valid list", style, member.name)
        if len(elements) > member.max_entries:
            detail = f"{member.name}: List should have at most {member.max_entries} items"
            raise invalid(detail, style, member.name)
        adapter = TypeAdapter[list[Any]](list[member.entry])  # type: ignore[name-defined]
        entries: list[Any] = []
        for batch in _batches(elements):
            await next_turn()
            with self._charged(owner):
                at = len(entries)
                if batch[0].end - batch[0].start > MAX_ENTRY_BYTES:
                    raise invalid(f"{member.name}[{at}]: is too large", style, f"{member.name}[{at}]")
                text = b"[%s]" % b",".join(map(outline.text_of, batch))
                try:
                    entries += adapter.validate_json(text, strict=True)
                except ValidationError as error:
                    raise invalid_value(error, style, within=member.name, first=at) from None
        return entries


_DONE: Final = object()


def _without(outline: JsonOutline, spans: dict[str, Span], large: dict[str, LargeMember]) -> bytes:
    """Return the text with a small value in place of each large member's own."""
    parts, at = [], 0
    for name, span in sorted(spans.items(), key=lambda each: each[1].start):
        parts += [outline.raw[at : span.start], large[name].stand_in]
        at = span.end
    return b"".join([*parts, outline.raw[at:]])


def _batches(elements: list[Span]) -> Iterator[list[Span]]:
    """Yield the elements a few at a time, in order; a large one alone."""
    batch: list[Span] = []
    size = 0
    for element in elements:
        length = element.end - element.start
        if batch and (size + length > BATCH_BYTES or len(batch) == BATCH_ENTRIES):
            yield batch
            batch, size = [], 0
        batch.append(element)
        size += length
    if batch:
        yield batch
