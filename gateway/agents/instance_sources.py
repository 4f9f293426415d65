# SPDX-License-Identifier: BSD-2-Clause
"""Where the instances of an agent come from: an operator lists URLs, or sources that find or start them.

A source is a URL of another scheme than http(s), in `instances` of `[[agents]]`. Whoever watches it says what
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


def sources_of(agents: Iterable[AgentSettings]) -> tuple[str, ...]:
    """Return the sources that agents have, as they were written, each once, in order."""
    return tuple(dict.fromkeys(entry for agent in agents for entry in agent.instances if is_source(entry)))


def with_found(agent: AgentSettings, found: Mapping[str, Sequence[str]]) -> AgentSettings:
    """Return the agent with the instances that its sources have found in their place, each URL once.

    `found`: URLs by source; a source that is missing has found none yet. An agent without sources is returned
    as it is.
    """
    if not any(map(is_source, agent.instances)):
        return agent
    urls: dict[str, None] = {}
    for entry in agent.instances:
        urls.update(dict.fromkeys(found.get(entry, ()) if is_source(entry) else (entry,)))
    return agent.model_copy(update={"instances": list(urls)})
