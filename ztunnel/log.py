"""Log lines of the control process, in the shape of upstream's: tab-separated text, or one JSON object a line.

asyncio has loaded `logging` anyhow, so this only formats and filters. Workers write their own lines to the same place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from meshcore.errors import ConfigError

OFF: Final = 60
TRACE: Final = 5
LEVELS: Final = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES: Final = {logging.CRITICAL: "error", logging.ERROR: "error", logging.WARNING: "warn", logging.INFO: "info"}
_STDOUT: Final = 1
_PREFIX: Final = "ztunnel."

ACCESS: Final = "access"


class Handler(logging.Handler):
    """Writes to stdout, each line with one write."""

    def __init__(self, *, json: bool, fd: int = _STDOUT) -> None:
        super().__init__()
        self._json = json
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a closed stdout must not end the proxy
            os.write(self._fd, self.line(record))

    def line(self, record: logging.LogRecord) -> bytes:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        level = _NAMES.get(record.levelno, "debug" if record.levelno >= logging.DEBUG else "trace")
        message = record.getMessage()
        if record.exc_info:
            import traceback

            message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if self._json:
            return msgspec.json.encode({"level": level, "time": time, "scope": record.name, "message": message}) + b"\n"
        text = message.replace("\t", " ")
        return f"{time}\t{level}\t{record.name.removeprefix(_PREFIX)}\t{text}\n".encode(errors="replace")


class Filter:
    """Levels by target, changed at run time. Text form: `info,access=off,certs=debug`."""

    def __init__(self, text: str) -> None:
        self._initial = {"": logging.INFO} | parse(text)
        self._levels = self._initial
        self._apply(())

    def change(self, text: str, *, reset: bool = False) -> None:
        """Add directives, after going back to the start's when `reset`. Raises ConfigError for an unknown level."""
        added = parse(text) if text else {}
        before = self._levels
        self._levels = (self._initial if reset else before) | added
        self._apply(before)

    def level(self, target: str) -> int:
        return self._levels.get(target, self._levels[""])

    @property
    def access(self) -> bool:
        """Whether access-log lines are wanted."""
        return self.level(ACCESS) <= logging.INFO

    def __str__(self) -> str:
        names = {number: name for name, number in LEVELS.items()}
        rest = [f"{target}={names[level]}" for target, level in sorted(self._levels.items()) if target]
        return ",".join([names[self._levels[""]], *rest])

    def _apply(self, before: Iterable[str]) -> None:
        for target in {*before, *self._levels} - {"", ACCESS}:
            level = self._levels.get(target, logging.NOTSET)
            for name in (target, _PREFIX + target):
                logging.getLogger(name).setLevel(level)
        logging.getLogger().setLevel(self._levels[""])


def parse(text: str) -> dict[str, int]:
    """`level` or `target=level`, separated by commas -> level by target, "" is the rest. Raises ConfigError."""
    levels: dict[str, int] = {}
    for part in text.split(","):
        target, equals, name = part.strip().rpartition("=")
        level = LEVELS.get(name.lower())
        if level is None or (equals and not target):
            raise ConfigError(f"log level {part.strip()!r}: give LEVEL or TARGET=LEVEL with one of {', '.join(LEVELS)}")
        levels[target.replace("::", ".").removeprefix(_PREFIX)] = level
    return levels


def start(text: str, *, json: bool) -> Filter:
    """Send everything that is logged in this process to stdout, filtered by `text` (RUST_LOG)."""
    logging.getLogger().handlers[:] = [Handler(json=json)]
    return Filter(text)
