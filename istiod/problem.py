"""What the checks say about an object: one thing about one field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshcore.yamldoc import Path

SCHEMA_ERROR: Final = "IST0106"
SCHEMA_WARNING: Final = "IST0133"
DEPRECATED: Final = "IST0002"
UNREACHABLE_RULE: Final = "IST0130"
INEFFECTIVE_MATCH: Final = "IST0131"
ADDRESSES_REQUIRED: Final = "IST0134"
RELATIVE_PATCH: Final = "IST0151"
"""Codes of `istioctl analyze`, so that a message can be searched for and suppressed as upstream's."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to say about one field; a warning leaves the object in use.

    `code` is that of `istioctl analyze`; without one it is the code of a schema error or warning.
    """

    path: Path
    message: str
    warning: bool = False
    code: str = ""

    def __post_init__(self) -> None:
        if not self.code:
            object.__setattr__(self, "code", SCHEMA_WARNING if self.warning else SCHEMA_ERROR)
