"""The command lines of the programs of this bench, each a module beside this one."""

from __future__ import annotations

import sys

import msgspec


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", f"bench.istiod.{name}", *arguments]


def as_argument(value: msgspec.Struct) -> str:
    """One argument that holds a whole structure."""
    return msgspec.json.encode(value).decode()
