"""What commands that look into a running process share: a GET from its admin port, tables, forms of output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
import msgspec

from meshcore.errors import ConfigError, MeshError, Unavailable
from meshcore.netns import inside, open_netns

TIMEOUT_S: Final = 10.0
BODY_MAX: Final = 512 * 2**20
"""A dump of 100,000 pods has about 60 MiB."""
CAUSE_CHARS: Final = 200

Row: TypeAlias = tuple[str, ...]


class UnexpectedAnswer(MeshError, code="admin.answer"):
    """What answered is not the admin port that was looked for."""


def get_json(address: tuple[str, int], path: str, *, hint: str, netns: Path | None = None) -> Any:
    """GET a JSON value from an admin port, from inside `netns` if given.

    Raises Unavailable, with `hint`, if nothing answers, and UnexpectedAnswer if it is no JSON.
    """
    host, port = address
    where = f"{host}:{port}" + (f" in {netns}" if netns else "")
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        with _entered(netns):
            connection.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(BODY_MAX)
    except (OSError, HTTPException) as error:
        raise Unavailable(f"nothing answers at {where}: {error}; {hint}") from None
    finally:
        connection.close()
    if answer.status != 200:
        said = body[:CAUSE_CHARS].decode(errors="replace").strip()
        raise UnexpectedAnswer(f"{where} answered to {path} with status {answer.status}: {said}")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnexpectedAnswer(f"{where} answered to {path} with something that is not JSON") from None


def host_port(text: str, option: str) -> tuple[str, int]:
    """Of HOST:PORT; a UsageError names the option."""
    host, colon, port = text.rpartition(":")
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"{option} {text!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def table(header: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as they must be, three blanks apart."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def as_text(content: Any, output: str) -> str:
    """As `json` or `yaml`; raises ConfigError if the latter is not installed."""
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError("-o yaml needs PyYAML, which is not installed: pip install pyyaml, or use -o json") from None
    return str(yaml.safe_dump(content, sort_keys=False)).rstrip()


@contextlib.contextmanager
def _entered(netns: Path | None) -> Iterator[None]:
    if netns is None:
        yield
        return
    fd = open_netns(netns)
    try:
        with inside(fd):
            yield  # a socket that is made here stays in this namespace wherever the thread goes
    finally:
        os.close(fd)
