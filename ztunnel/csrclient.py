"""Asks a short-lived child for keys and certificate requests; see `ztunnel.csr`."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from meshcore.errors import CertificateError, DeadlineExceeded
from ztunnel import child, csr
from ztunnel.csr import KeyRequest

BATCH_MAX: Final = 256
ANSWER_MAX: Final = 2**20  # bytes


async def generate(
    identities: Sequence[str], environment: Mapping[str, str], timeout: float = csr.TIMEOUT_S
) -> list[KeyRequest]:
    """One KeyRequest for each identity, in order; at most BATCH_MAX. Raises CertificateError or DeadlineExceeded."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ours, theirs = socket.socketpair()
    process = None
    try:
        with theirs:
            process = child.spawn(
                ["-P", "-c", "from ztunnel.csr import main; main()"],
                {csr.FD: theirs.fileno()},
                {**environment, "PYTHONPATH": _path(environment)},
                ended.set_result,
            )
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=ANSWER_MAX)
            try:
                writer.write(msgspec.msgpack.encode(list(identities)))
                writer.write_eof()
                data = await reader.read()
            finally:
                writer.close()
            status = await asyncio.shield(ended)
    except TimeoutError:
        raise DeadlineExceeded(f"keys were not made within {timeout:g} s") from None
    except OSError as error:
        raise CertificateError(f"the process that makes keys broke off: {error}") from None
    finally:
        ours.close()
        if process is not None and process.running:
            process.signal(signal.SIGKILL)
    try:
        found = msgspec.msgpack.decode(data, type=list[KeyRequest])
    except msgspec.DecodeError:
        raise CertificateError(f"the process that makes keys {child.describe(status)}") from None
    if len(found) != len(identities):
        raise CertificateError("the process that makes keys made too few")
    return found


def _path(environment: Mapping[str, str]) -> str:
    known = environment.get("PYTHONPATH", "")
    return f"{child.ROOT}:{known}" if known else child.ROOT
