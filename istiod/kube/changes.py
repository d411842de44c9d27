"""What a reflector tells of objects. Apart from it, so that who is told need not import an HTTP client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec


class RawChange(NamedTuple):
    """`raw` is None when the object is gone; else a view into the answer it came in: decode it at once, or `copy()`.

    Objects of built-in kinds carry no `kind` and `apiVersion` when they come from a list.
    """

    namespace: str
    name: str
    raw: msgspec.Raw | None
    resource_version: str


Sink = Callable[[Sequence[RawChange]], None]
"""Is handed at most 500 changes at a time; a later change of the same object supersedes an earlier one."""
