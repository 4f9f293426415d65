# SPDX-License-Identifier: BSD-2-Clause
"""Rewrite the parts of the documentation that are generated from the code.

A generated part stands between the markers `<!-- NAME -->` and `<!-- /NAME -->`. Measured figures stand
between such markers too, and are left as they are. Run `python docs/update.py` after a change of one of the
tables; tests/test_docs.py fails if a part is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # this folder is no installed package

from docs import public_routes, scale_plan
from gateway.calls import state
from gateway.calls.consultation import consultation_state
from gateway.calls.outbound import outbound_state
from gateway.media import relay_states
from gateway.model import lifecycle
from gateway.model.reasons import REASONS, Reason
from gateway.server import worker_state

DOCS = Path(__file__).parent
ROOT = DOCS.parent

_PART = re.compile(r"(<!-- (?P<name>[a-z]+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)
_HEAD = ("Code", "Party", "Before the upgrade", "On a socket", "Session", "Log", "In words")


def reasons() -> str:
    """Return the table of reasons, in Markdown."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, REASONS.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def diagram(mermaid: Callable[[], str]) -> Callable[[], str]:
    """Return a part that shows a state diagram as a Mermaid block. `mermaid`: returns the diagram's text."""
    return lambda: f"```mermaid\n{mermaid()}\n```"


def example(path: str, language: str) -> Callable[[], str]:
    """Return a part that shows a file without its licence line. `path`: from the top of the repository."""
    return lambda: f"```{language}\n{_without_licence((ROOT / path).read_text(encoding='utf-8'))}```"


def _without_licence(text: str) -> str:
    first, _, rest = text.partition("\n")
    return rest if first.startswith("# SPDX-") else text


PARTS: Mapping[str, Callable[[], str]] = {
    "reasons": reasons,
    "calls": diagram(state.mermaid),
    "lifecycle": diagram(lifecycle.mermaid),
    "teardown": diagram(relay_states.mermaid),
    "worker": diagram(worker_state.mermaid),
    "outbound": diagram(outbound_state.mermaid),
    "consultation": diagram(consultation_state.mermaid),
    "routes": public_routes.table,
    "scale": scale_plan.table,
    "codecs": scale_plan.codecs,
    "nginx": example("docs/proxies/nginx.conf", "nginx"),
    "caddy": example("docs/proxies/Caddyfile", "text"),
    "haproxy": example("docs/proxies/haproxy.cfg", "text"),
    "runnerbot": example("examples/development_runner/bot.py", "python"),
    "imagebot": example("examples/base_image/bot.py", "python"),
    "dockerfile": example("examples/base_image/Dockerfile", "docker"),
}
"""The generated parts, by the name in their markers."""

MEASURED = frozenset({"figures", "heard"})
"""Parts that come from one run of the benchmark on one machine, not from the code."""


def updated(page: str) -> str:
    """Return the page with its parts generated again. Raises KeyError for an unknown marker."""
    return _PART.sub(_generated, page)


def _generated(part: re.Match[str]) -> str:
    if part["name"] in MEASURED:
        return part[0]
    return f"{part[1]}{PARTS[part['name']]()}\n{part[3]}"


def _row(reason: Reason) -> tuple[str, ...]:
    status = "none" if reason.status is None else str(reason.status)
    if reason.status is not None and reason.retry_after is not None:
        status += f", Retry-After: {reason.retry_after}"
    end = "failed" if reason.failed else "ended"
    refused, cut = reason.severity(ran=False), reason.severity(ran=True)
    log = str(cut) if refused == cut else f"{refused}, {cut}"
    return f"`{reason.code}`", str(reason.party), status, str(reason.close_code), end, log, reason.sentence


def main() -> None:
    """Rewrite the pages that are out of date, and print their names."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (new := updated(page)) != page:
            path.write_text(new, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
