# SPDX-License-Identifier: BSD-2-Clause
"""From the store's URL to the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store.connect import open_store
from gateway.store.worker_id import WorkerId

ME = WorkerId.of_this_process("me")


@pytest.mark.parametrize("absolute", [True, False])
async def test_the_url_names_the_file(
    absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(f"sqlite:///{tmp_path}/calls.db" if absolute else "sqlite:///calls.db", ME)
    monkeypatch.chdir("/")
    await store.open()
    await store.close()
    assert (tmp_path / "calls.db").is_file()


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("mysql://:secret@localhost/calls", "'mysql' is another scheme"),
        ("sqlite://host/calls.db", "must begin with sqlite:///"),
        ("calls.db", "must begin with sqlite:///"),
        ("", "must begin with sqlite:///"),
        ("sqlite:///", "names no file"),
        ("sqlite:////var/lib/", "names no file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///a\0b", "no file name has"),
    ],
)
def test_another_url_is_refused_with_a_sentence(url: str, detail: str) -> None:
    with pytest.raises(ValueError, match=detail) as refusal:
        open_store(url, ME)
    assert "secret" not in str(refusal.value)
