# SPDX-License-Identifier: BSD-2-Clause
"""Where the instances of an agent come from: an operator lists URLs, or sources that find or start them.

A source is a URL of another scheme than http(s), in `instances` of `[[agents]]`; that of an agent with a
`command` is the pool. Whoever watches it says what
it has found; calls only ever see an agent whose `instances` are http(s) URLs (`with_found`). The list may be
empty: then nobody has a slot. An instance that leaves it gets no new session, and keeps those that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.config import AgentSettings

_PLAIN = ("http://", "https://")


def is_source(instance: str) -> bool:
    """Return True if this entry of `instances` is no instance, but says where instances are found."""
    return not instance.startswith(_PLAIN)


def pool_source(service_host: str) -> str:
    """Return the source of the instances that the gateway starts for an agent with a `command`."""
    return f"pool://{service_host}"


def sources_of(agents: Iterable[AgentSettings]) -> tuple[str, ...]:
    """Return the sources that agents have, as they were written, each once, in order."""
    return tuple(dict.fromkeys(entry for agent in agents for entry in _entries(agent) if is_source(entry)))


def with_found(agent: AgentSettings, found: Mapping[str, Sequence[str]]) -> AgentSettings:
    """Return the agent with the instances that its sources have found in their place, each URL once.

    `found`: URLs by source; a source that is missing has found none yet. An agent without sources is returned
    as it is.
    """
    entries = _entries(agent)
    if not any(map(is_source, entries)):
        return agent
    urls: dict[str, None] = {}
    for entry in entries:
        urls.update(dict.fromkeys(found.get(entry, ()) if is_source(entry) else (entry,)))
    return agent.model_copy(update={"instances": list(urls)})


def _entries(agent: AgentSettings) -> Sequence[str]:
    return (pool_source(agent.service_host),) if agent.command else agent.instances
