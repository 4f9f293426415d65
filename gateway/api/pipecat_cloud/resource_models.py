# SPDX-License-Identifier: BSD-2-Clause
"""The resources that a session has used, as Pipecat Cloud documents them (docs/reference/public-api.md)."""

from __future__ import annotations

import uuid
from typing import Final

from pydantic import Field

from gateway.api.framework.strict_json import rfc3339
from gateway.api.pipecat_cloud.conventions import ResponseModel
from gateway.pool.session_resources import PERCENTILES, SessionResources

_IDS: Final = uuid.UUID("3d2f6a1a-9f0b-5d9b-8a52-0a3c6c1f7e44")
"""The namespace of ids of figures, which are UUIDs of their sessions' ids (RFC 9562 §5.5)."""


class ResourcePoint(ResponseModel):
    """The use at a time."""

    t: int = Field(description="Unix seconds.")
    c: int = Field(description="Thousandths of a core.")
    m: int = Field(description="Bytes.")


class ResourceMetrics(ResponseModel):
    """CPU, in thousandths of a core, and resident memory, in bytes, of a session's instance."""

    id: str
    session_id: str
    sample_count: int
    cpu_millicores_min: int
    cpu_millicores_avg: int
    cpu_millicores_max: int
    cpu_millicores_p50: int = Field(alias="cpuMillicoresP50")
    cpu_millicores_p90: int = Field(alias="cpuMillicoresP90")
    cpu_millicores_p95: int = Field(alias="cpuMillicoresP95")
    cpu_millicores_p99: int = Field(alias="cpuMillicoresP99")
    memory_bytes_min: int
    memory_bytes_avg: int
    memory_bytes_max: int
    memory_bytes_p50: int = Field(alias="memoryBytesP50")
    memory_bytes_p90: int = Field(alias="memoryBytesP90")
    memory_bytes_p95: int = Field(alias="memoryBytesP95")
    memory_bytes_p99: int = Field(alias="memoryBytesP99")
    timeseries: list[ResourcePoint] = Field(description="The course, in at most 50 points.")
    event_ts: str
    created_at: str


def resource_metrics(session_id: str, used: SessionResources) -> ResourceMetrics:
    """Return what a session has used."""
    values: dict[str, int] = {}
    for name, of in (("cpu_millicores", used.cpu_millicores), ("memory_bytes", used.memory_bytes)):
        values |= {f"{name}_min": of.least, f"{name}_avg": of.mean, f"{name}_max": of.most}
        for percent, value in zip(PERCENTILES, of.percentiles, strict=True):
            values[f"{name}_p{percent}"] = value
    at = rfc3339(used.ended_at)
    return ResourceMetrics(
        id=str(uuid.uuid5(_IDS, session_id)),
        session_id=session_id,
        sample_count=used.samples,
        timeseries=[ResourcePoint(t=t, c=c, m=m) for t, c, m in used.course],
        event_ts=at,
        created_at=at,
        **values,
    )
