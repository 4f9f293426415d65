# SPDX-License-Identifier: BSD-2-Clause
"""Operations of Pipecat Cloud that a gateway cannot offer: each answers 501 and a sentence.

What a gateway has nothing of (secrets, builds, GitHub) is refused as a whole: every path below it, with every
method. So a client of a later version gets the same sentence, and not a 404 or 405 that it reads as something
else: to the CLI a 404 is an empty list. None of it is in the OpenAPI document, which describes what works.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.api.framework.operation import Answer, Context, Handler, Operation
from gateway.api.pipecat_cloud.conventions import ORGANIZATION, Documented, missing, operation, refused

_SECRETS: Final = "A gateway keeps no secrets of agents: set them where you run the agent"
_BUILDS: Final = "A gateway builds no images"
_REGISTRIES: Final = "A gateway pulls no images, and keeps no keys of registries"
_GITHUB: Final = "A gateway is not linked to GitHub: it deploys nothing"
_PROFILES: Final = "A gateway runs no containers, so it has no profiles of them"
_SPENDING: Final = "A gateway bills nothing, so there is no spending to limit"
_REGIONS: Final = "Regions are listed in the gateway's configuration, and change only there"

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

_REST: Final = "rest"
"""The path parameter with what follows the literal path: empty, or from a slash on."""

# The form of the path: "rest" is under /v1, "cli" under the organisation, "both" under either.
_WHOLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("both", "/secrets", _SECRETS),
    ("cli", "/services/{agent}/environments", _GITHUB),
    ("cli", "/services/{agent}/git", _GITHUB),
    ("cli", "/github", _GITHUB),
    ("both", "/builds", _BUILDS),
    ("cli", "/registry-keys", _REGISTRIES),
    ("both", "/agent-profiles", _PROFILES),
    ("cli", "/spend-limit", _SPENDING),
    ("cli", "/regions/{region}", _REGIONS),
)
"""Paths that are refused with all that is below them."""

_SINGLE: Final[tuple[tuple[str, str, str], ...]] = (("POST", "/regions", _REGIONS),)
"""Methods of paths that have others which work: under the organisation."""


def _answering_501(sentence: str) -> Handler:
    async def handler(context: Context) -> Answer:
        rest = context.path.get(_REST, "")
        if rest and not rest.startswith("/"):
            raise missing("Nothing is served under this path")  # another name that only begins alike
        raise refused(501, sentence)

    return handler


def _operations() -> Iterator[Operation]:
    roots = {"rest": ("/v1",), "cli": (ORGANIZATION,), "both": ("/v1", ORGANIZATION)}
    paths = [
        (method, f"{root}{path}{{{_REST}:path}}", sentence)
        for form, path, sentence in _WHOLE
        for root in roots[form]
        for method in _METHODS
    ]
    paths += [(method, f"{ORGANIZATION}{path}", sentence) for method, path, sentence in _SINGLE]
    for method, path, sentence in paths:
        documented = Documented(sentence, {501: None}, in_schema=False)
        yield operation(method, path, _answering_501(sentence), documented)


UNSUPPORTED: Final[tuple[Operation, ...]] = tuple(_operations())
