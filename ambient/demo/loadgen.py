"""A small HTTP client that runs inside a pod and counts exactly what happened. Standard library only.

Commands, each printing JSON lines on stdout; times are CLOCK_MONOTONIC, which all processes of a machine share:
  new  HOST PORT PATH RATE LIMIT   a new connection per request, RATE a second, LIMIT at once, until stdin ends
  hold HOST PORT PATH COUNT LIMIT  COUNT connections open at once, a request on each, then a second one on each
  watch HOST PORT PATH             one connection, one request, then wait until it is closed
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any, NoReturn

CONNECT_TIMEOUT = 10.0  # seconds
REPLY_TIMEOUT = 10.0
REPORT_EVERY = 0.1
EXAMPLES = 5


class Failure(Exception):
    """A request that did not give 200; the text is its kind, the label under which it is counted."""


def emit(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def open(self) -> None:
        """Connect; raises Failure `refused`, `connect-timeout` or `connect-...`."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        except ConnectionRefusedError:
            raise Failure("refused") from None
        except TimeoutError:
            raise Failure("connect-timeout") from None
        except OSError as error:
            raise Failure(f"connect-{error.strerror or error}") from None

    async def get(self, path: str, *, close: bool) -> str:
        """-> the body; raises Failure `reset`, `closed` (before a whole reply), `reply-timeout` or `status-...`."""
        tail = "Connection: close\r\n\r\n" if close else "\r\n"
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n{tail}".encode())
                await self.writer.drain()
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = (await self.reader.readexactly(int(fields.get("content-length", "0")))).decode()
        except TimeoutError:
            raise Failure("reply-timeout") from None
        except asyncio.IncompleteReadError:
            raise Failure("closed") from None
        except OSError:
            raise Failure("reset") from None
        status = head.split(" ", 2)[1]
        if status != "200":
            raise Failure(f"status-{status}")
        return body

    def abandon(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()


async def until_stdin_ends() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


class Load:
    """Requests at a steady rate, each on a connection of its own, whatever happens to the others."""

    def __init__(self, host: str, port: int, path: str, limit: int) -> None:
        self.host, self.port, self.path = host, port, path
        self.limit = limit
        self.ok = 0
        self.failed: Counter[str] = Counter()
        self.examples: list[tuple[float, float, str]] = []  # began, ended, kind
        self.answers: dict[str, list[float]] = {}  # pod -> count, first and last time of an answer
        self.slowest = 0.0
        self.tasks: set[asyncio.Task[None]] = set()

    async def one(self) -> None:
        began = time.monotonic()
        connection = Connection(self.host, self.port)
        try:
            await connection.open()
            body = (await connection.get(self.path, close=True)).strip()
        except Failure as failure:
            self.failed[str(failure)] += 1
            self.examples.append((began, time.monotonic(), str(failure)))
        else:
            now = time.monotonic()
            self.ok += 1
            self.slowest = max(self.slowest, now - began)
            seen = self.answers.setdefault(body, [0, now, now])
            seen[0] += 1
            # The time when the request began: what was under way while something changed is not held against it.
            seen[2] = max(seen[2], began)
        finally:
            connection.abandon()

    async def run(self, rate: float) -> None:
        stop = asyncio.create_task(until_stdin_ends())
        due = report = time.monotonic()
        while not stop.done():
            now = time.monotonic()
            while due <= now and len(self.tasks) < self.limit:
                task = asyncio.create_task(self.one())
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
                due += 1 / rate
            due = max(due, now - 1.0)  # after a stall the backlog is at most one second
            if now >= report:
                emit(ok=self.ok, failed=dict(self.failed), answers=self.answers, now=now)
                report = now + REPORT_EVERY
            await asyncio.sleep(min(max(due - now, 0.001), REPORT_EVERY))
        if self.tasks:
            await asyncio.wait(self.tasks)
        emit(
            final=True,
            ok=self.ok,
            failed=dict(self.failed),
            examples=self.examples[:EXAMPLES],
            slowest=self.slowest,
            answers=self.answers,
            now=time.monotonic(),
        )


async def hold(host: str, port: int, path: str, count: int, limit: int) -> None:
    """Open `count` connections, at most `limit` being opened at a time; nothing is closed before all are open."""
    gate = asyncio.Semaphore(limit)
    failed: Counter[str] = Counter()
    connections = [Connection(host, port) for _ in range(count)]

    async def request(connection: Connection, *, first: bool) -> bool:
        async with gate:
            try:
                if first:
                    await connection.open()
                await connection.get(path, close=False)
            except Failure as failure:
                failed[f"{'first' if first else 'second'}-{failure}"] += 1
                return False
            return True

    began = time.monotonic()
    opened = await asyncio.gather(*(request(each, first=True) for each in connections))
    emit(opened=sum(opened), seconds=time.monotonic() - began)
    alive = [each for each, good in zip(connections, opened, strict=True) if good]
    again = await asyncio.gather(*(request(each, first=False) for each in alive))
    emit(final=True, opened=sum(opened), again=sum(again), failed=dict(failed), seconds=time.monotonic() - began)
    for connection in connections:
        connection.abandon()


async def watch(host: str, port: int, path: str) -> None:
    connection = Connection(host, port)
    await connection.open()
    await connection.get(path, close=False)
    emit(open=True, now=time.monotonic())
    try:
        how = "closed" if await connection.reader.read(1) == b"" else "data"
    except OSError as error:
        how = f"reset: {error.strerror}"
    emit(final=True, how=how, now=time.monotonic())


def main() -> NoReturn:
    command, host, port, path, *rest = sys.argv[1:]
    if command == "new":
        rate, limit = float(rest[0]), int(rest[1])
        asyncio.run(Load(host, int(port), path, limit).run(rate))
    elif command == "hold":
        asyncio.run(hold(host, int(port), path, int(rest[0]), int(rest[1])))
    else:
        try:
            asyncio.run(watch(host, int(port), path))
        except Failure as failure:
            emit(final=True, how=f"never open: {failure}", now=time.monotonic())
    sys.exit(0)


if __name__ == "__main__":
    main()
