"""Which messages are not wanted: by a pattern on the command line, or by an annotation of the object."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from istiod.analyze.codes import CODES
from istiod.analyze.message import Message
from istiod.analyze.world import Written
from meshcore.errors import ConfigError

ANNOTATION: Final = "galley.istio.io/analyze-suppress"
_EXAMPLE: Final = 'write it as "IST0101=VirtualService reviews.default", with * for any part'


class Suppression(NamedTuple):
    """A code, and a pattern of `KIND NAME.NAMESPACE`."""

    code: str
    resource: re.Pattern[str]

    def covers(self, one: Message) -> bool:
        return one.code.id == self.code and self.resource.fullmatch(one.resource) is not None


def parse(text: str) -> Suppression:
    """`CODE=KIND NAME.NAMESPACE`, where `*` stands for any text. Raises ConfigError."""
    code, equals, resource = text.partition("=")
    if not equals or not resource:
        raise ConfigError(f"--suppress {text!r}: no object is named; {_EXAMPLE}")
    if code not in CODES:
        raise ConfigError(f"--suppress {text!r}: there is no code {code!r}; `--list-codes` prints them")
    pattern = ".*".join(re.escape(part) for part in resource.split("*"))
    return Suppression(code, re.compile(pattern))


def annotated(one: Message, written: Written | None) -> bool:
    """Whether the object itself asks for silence: a list of codes, or `*` for all."""
    if written is None:
        return False
    codes = written.root["metadata"]["annotations"][ANNOTATION].text.split(",")
    return any(code.strip() in ("*", one.code.id) for code in codes)
