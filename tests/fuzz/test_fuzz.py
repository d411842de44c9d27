"""Every fuzz entry on its seeds, on random bytes, and on its seeds damaged: a short run in each test run.

`python -m tests.fuzz NAME --seconds N` goes on for longer.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import ENTRIES, damaged, load

ROUNDS = 300


@pytest.mark.parametrize("name", ENTRIES)
def test_seeds_and_what_becomes_of_them(name: str) -> None:
    entry = load(name)
    seeds = getattr(entry, "SEEDS", ()) or (b"",)
    for seed in seeds:
        entry.fuzz_one(seed)
    source = random.Random(name)
    for _ in range(ROUNDS):
        data = damaged(source, seeds)
        try:
            entry.fuzz_one(data)
        except Exception as error:
            error.add_note(f"{name}: input {data!r}")
            raise


@pytest.mark.parametrize("name", ENTRIES)
def test_random_bytes(name: str) -> None:
    entry = load(name)

    @given(st.binary(max_size=600))
    @settings(max_examples=100, deadline=None)
    def run(data: bytes) -> None:
        entry.fuzz_one(data)

    run()
