"""Lets a zygote find the tests' own worker whichever build the packages come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztunnel import child

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def worker_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "ROOT", f"{child.ROOT}:{PROJECT}")
