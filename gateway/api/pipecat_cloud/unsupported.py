# SPDX-License-Identifier: BSD-2-Clause
"""Operations of Pipecat Cloud that a gateway cannot offer: each answers 501 and a sentence.

The table has the remaining requests of `pipecatcloud` 1.4.0 and of the documented REST. They are not in the
OpenAPI document, which describes what works.
"""

from __future__ import annotations

from typing import Final

from gateway.api.framework.operation import Answer, Context, Handler, Operation
from gateway.api.pipecat_cloud.conventions import ORGANIZATION, Documented, operation, refused

_SECRETS: Final = "A gateway keeps no secrets of agents: set them where you run the agent"
_LOGS: Final = "A gateway does not see the logs of the agent's containers: read them where you run the agent"
_DEPLOYMENTS: Final = "A gateway deploys nothing: it calls instances that run already"
_BUILDS: Final = "A gateway builds no images"
_REGISTRIES: Final = "A gateway pulls no images, and keeps no keys of registries"
_GITHUB: Final = "A gateway is not linked to GitHub: it deploys nothing"
_PROFILES: Final = "A gateway runs no containers, so it has no profiles of them"
_SPENDING: Final = "A gateway bills nothing, so there is no spending to limit"
_REGIONS: Final = "Regions are listed in the gateway's configuration, and change only there"

# The form of the path: "rest" is under /v1, "cli" under the organisation, "both" under either.
_TABLE: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("both", "GET", "/secrets", _SECRETS),
    ("both", "GET PUT POST DELETE", "/secrets/{set}", _SECRETS),
    ("both", "GET PUT DELETE", "/secrets/{set}/{secret}", _SECRETS),
    ("rest", "GET", "/agents/{agent}/logs", _LOGS),
    ("cli", "GET", "/services/{agent}/logs", _LOGS),
    ("rest", "GET", "/agents/{agent}/deployments", _DEPLOYMENTS),
    ("cli", "GET", "/services/{agent}/deployments", _DEPLOYMENTS),
    ("cli", "GET POST DELETE", "/services/{agent}/environments/{environment}/git", _GITHUB),
    ("cli", "POST", "/services/{agent}/git/deploy", _GITHUB),
    ("cli", "GET", "/github/{what}", _GITHUB),
    ("both", "GET POST", "/builds", _BUILDS),
    ("both", "GET POST DELETE", "/builds/{build}", _BUILDS),
    ("both", "GET", "/builds/{build}/logs", _BUILDS),
    ("cli", "GET POST", "/registry-keys", _REGISTRIES),
    ("cli", "GET PATCH PUT DELETE", "/registry-keys/{key}", _REGISTRIES),
    ("both", "GET POST", "/agent-profiles", _PROFILES),
    ("both", "GET PATCH DELETE", "/agent-profiles/{profile}", _PROFILES),
    ("cli", "GET PUT", "/spend-limit", _SPENDING),
    ("cli", "POST", "/regions", _REGIONS),
    ("cli", "GET DELETE", "/regions/{region}", _REGIONS),
    ("cli", "POST", "/regions/{region}/enrollment-tokens", _REGIONS),
)


def _answering_501(sentence: str) -> Handler:
    async def handler(_: Context) -> Answer:
        raise refused(501, sentence)

    return handler


def _operations() -> tuple[Operation, ...]:
    roots = {"rest": ("/v1",), "cli": (ORGANIZATION,), "both": ("/v1", ORGANIZATION)}
    return tuple(
        operation(
            method,
            f"{root}{path}",
            _answering_501(sentence),
            Documented(sentence, {501: None}, in_schema=False),
        )
        for form, methods, path, sentence in _TABLE
        for root in roots[form]
        for method in methods.split()
    )


UNSUPPORTED: Final[tuple[Operation, ...]] = _operations()
