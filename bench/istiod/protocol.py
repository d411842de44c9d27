"""What the bench and a process with clients say to each other: one JSON text a line, one answer to every command."""

from __future__ import annotations

import asyncio
from typing import Final, Literal, TypeAlias

import msgspec

from bench.errors import BenchError
from bench.istiod.fleet import Sizes

LINE_MAX: Final = 64 * 2**20
"""Bytes of a line: the truth about 10,000 pods takes 2 MB."""

State: TypeAlias = Literal["up", "down", "gone"]
"""Of a pod, as a client was told."""


class Plan(msgspec.Struct, frozen=True):
    """What a process is started with: its part of the clients is every `of`-th, from number `part` on."""

    bench: tuple[str, int]
    istiod: tuple[str, int]
    ca_dir: str
    sizes: Sizes
    part: int
    of: int


class _Command(msgspec.Struct, frozen=True, tag=True):
    pass


class Connect(_Command, frozen=True):
    """Connect everybody and wait until all have heard of everything they asked for -> Times."""

    timeout: float


class Disconnect(_Command, frozen=True):
    """Close every connection; what was received is kept -> Done."""


class Follow(_Command, frozen=True):
    """Names by namespace that the clients of a namespace subscribe to from now on -> Done."""

    names: dict[str, list[str]]


class Expect(_Command, frozen=True):
    """Begin to look out for these resources -> Done."""

    states: dict[str, State]


class Await(_Command, frozen=True):
    """Wait until every client was told what it is expected to be told -> Times. The moments of single resources are
    asked for apart: they are many.
    """

    timeout: float
    each: bool = False


class Report(_Command, frozen=True):
    """-> Counts."""


class Truth(msgspec.Struct, frozen=True):
    """A pod as it is, to be compared with what a client was told."""

    ip: str
    node: str
    service: str
    ready: bool


class Verify(_Command, frozen=True):
    """Compare what every client holds with what there is -> Verdict."""

    names: list[str]
    """Of every address."""
    pods: dict[str, Truth]
    policies: int


Command: TypeAlias = Connect | Disconnect | Follow | Expect | Await | Report | Verify


class _Reply(msgspec.Struct, frozen=True, tag=True):
    pass


class Done(_Reply, frozen=True):
    """It is done, or the process is there."""


class Times(_Reply, frozen=True):
    """When each client was there, in seconds of the machine's monotonic clock; and who was not in time."""

    at: list[float]
    late: list[str] = []
    last: dict[str, float] = {}
    """Of Await: when the last client was told of each resource that was looked out for."""


class Counts(_Reply, frozen=True):
    """Sums over the clients of a process since its start. `received` and `sent` are bytes of TLS records."""

    messages: int
    message_bytes: int
    connections: int
    rejected: int
    terminations: dict[str, int]
    received: int
    sent: int


class Verdict(_Reply, frozen=True):
    """What is wrong, nothing if all is right; and the names that all clients together hold."""

    problems: list[str]
    held: int
    digest: str
    """Of the names and versions that a client holds that holds everything."""


class Failed(_Reply, frozen=True):
    """The command could not be carried out."""

    why: str


Reply: TypeAlias = Done | Times | Counts | Verdict | Failed

_encode: Final = msgspec.json.Encoder().encode
_command: Final = msgspec.json.Decoder(Command)
_reply: Final = msgspec.json.Decoder(Reply)


async def read_command(reader: asyncio.StreamReader) -> Command | None:
    """The next one; None at the end."""
    line = await reader.readline()
    command: Command | None = _command.decode(line) if line else None
    return command


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Raises BenchError if there will be none."""
    line = await reader.readline()
    if not line:
        raise BenchError("a process with clients has ended")
    reply: Reply = _reply.decode(line)
    return reply


async def write(writer: asyncio.StreamWriter, said: Command | Reply) -> None:
    writer.write(_encode(said) + b"\n")
    await writer.drain()
