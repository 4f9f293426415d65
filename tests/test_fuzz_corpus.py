# SPDX-License-Identifier: BSD-2-Clause
"""The corpus of `make fuzz`, with all inputs that it has found, passes on every run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.one import target_function
from gateway.fastpath import accelerator

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
DIRECTORIES = {"scanner": "frames", "accelerator": "frames"}
TARGETS = [
    "accelerator",
    "exotel",
    "handshake",
    "plivo",
    "telnyx",
    "twilio",
    "upgrade",
    "scanner",
    "translation",
]


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_of_the_corpus_passes(name: str) -> None:
    if name == "accelerator" and not accelerator.ACTIVE:
        return  # there is nothing in C to compare with
    target = target_function(name)
    inputs = sorted((CORPUS / DIRECTORIES.get(name, name)).iterdir())
    assert inputs
    for each in inputs:
        target(each.read_bytes())


def test_each_part_of_the_corpus_has_a_target() -> None:
    assert {each.name for each in CORPUS.iterdir()} == {DIRECTORIES.get(name, name) for name in TARGETS}
