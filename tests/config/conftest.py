# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures that write a configuration, load it, and return its problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gateway.config import ConfigError, Problem, Settings, load

FULL = """\
[server]
host = "0.0.0.0"
port = 8000
public_url = "https://voice.example.com/"
trusted_proxies = ["10.0.0.0/8"]
region = "eu-central"
workers = 2

[store]
url = "sqlite:////var/lib/patchbay.db"

[[organizations]]
name = "acme"
public_keys = ["pk_acme-0123456789abcdef"]
private_keys = ["sk_acme-secret-0123456789", "pcc_pat_acme-secret-0123456789"]

[[agents]]
name = "support"
organization = "acme"
instances = ["http://10.0.0.5:8080/", "https://[::1]:8443"]
max_agents = 2
websocket_auth = "token"

[[agents]]
name = "reception"
organization = "acme"
region = "us-west"
idle_timeout = 0.5

[[numbers]]
number = "+15559876543"
agent = "support.acme"

[limits]
start_timeout = 2
"""


@pytest.fixture
def full() -> str:
    return FULL


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write the text of a configuration file, and return its path."""

    def file(text: str) -> Path:
        path = tmp_path / "patchbay.toml"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return path

    return file


@pytest.fixture
def read(write: Callable[[str], Path]) -> Callable[..., Settings]:
    """Load the settings from the text of a file and an environment."""

    def settings(text: str = "", environ: Mapping[str, str] | None = None) -> Settings:
        return load(write(text), environ or {})

    return settings


@pytest.fixture
def problems(read: Callable[..., Settings]) -> Callable[..., tuple[Problem, ...]]:
    """Return the problems of a text and an environment, of which there must be one at least."""

    def load_problems(text: str = "", environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ)
        assert caught.value.problems
        return caught.value.problems

    return load_problems
