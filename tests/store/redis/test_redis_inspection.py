# SPDX-License-Identifier: BSD-2-Clause
"""What `patchbay check` says of a Redis server."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.store.interface import StoreFailed
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_inspection import inspect_server
from tests.harness.redis_server import RedisServer

CONFIG = """
[store]
url = "{url}"

[[organizations]]
name = "acme"
private_keys = ["sk_0123456789abcdef0123"]

[[agents]]
name = "support"
organization = "acme"
instances = ["http://127.0.0.1:8080"]
websocket_auth = "none"
"""


def check(directory: Path, url: str) -> tuple[int, str]:
    """Run `patchbay check`; its exit status and all that it prints."""
    config = directory / "patchbay.toml"
    config.write_text(CONFIG.format(url=url))
    config.chmod(0o600)
    result = CliRunner().invoke(app, ["check", "--config", str(config)])
    return result.exit_code, result.output


def test_a_server_that_keeps_nothing_is_doubtful(server: RedisServer, tmp_path: Path) -> None:
    status, words = check(tmp_path, server.url())
    assert status == 0
    assert "keeps nothing over a restart" in " ".join(words.split())


def test_a_server_that_does_not_answer_is_refused(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    status, words = check(tmp_path, f"redis://:correct-horse@127.0.0.1:{server.port}/0")
    assert status != 0
    assert f"redis://127.0.0.1:{server.port}/0 does not answer" in " ".join(words.split())
    assert "correct-horse" not in words


def test_a_server_that_may_evict_places_is_doubtful(server: RedisServer) -> None:
    server.ask("CONFIG SET maxmemory 100mb")
    server.ask("CONFIG SET maxmemory-policy allkeys-lru")
    _, doubts = inspect_server(parse_redis_url(server.url()), "agent")
    assert any("maxmemory-policy allkeys-lru" in doubt for doubt in doubts)


def test_a_replica_is_refused(server: RedisServer) -> None:
    primary = RedisServer()
    try:
        server.ask(f"REPLICAOF 127.0.0.1 {primary.port}")
        with pytest.raises(StoreFailed, match="is a replica"):
            inspect_server(parse_redis_url(server.url()), "agent")
    finally:
        primary.stop()
