"""Two real workers under callgrind, and both ends of what goes through them, in lockstep.

One piece of work is outstanding at a time, every write is small enough to arrive whole, and the next step is taken when
the last byte of the one before has arrived. So a worker wakes up as often, reads and writes as much and takes the same
way through its code every time, however long it took and whatever else the machine did.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench import config, load
from bench.certs import Authority
from bench.errors import BenchError
from bench.gate import callgrind
from bench.gate.callgrind import Profile
from bench.subjects.control import WorkerNode
from bench.subjects.ours import Ours
from meshcore.records import PageCell
from ztunnel.supervisor import WORKER_MODULE

_WAIT: Final = 30.0  # seconds for one step: under valgrind everything takes fifty times as long
_LOG_LOOK: Final = 0.005  # seconds between two looks at the access logs
_CUT: Final = "*recvmsg*"  # a worker calls recvmsg for records of its control process and for nothing else
# Whatever the clock alone would make a worker do is put off until after the measurement.
_TIMEOUTS: Final = ("AMBIENT_CONNECT_TIMEOUT", "AMBIENT_TLS_HANDSHAKE_TIMEOUT", "AMBIENT_CONNECT_RESPONSE_TIMEOUT")
_SETTINGS: Final = dict.fromkeys((*_TIMEOUTS, "AMBIENT_PING_INTERVAL", "POOL_UNUSED_RELEASE_TIMEOUT"), "1h")

_BODY: Final = b"x" * config.BODY_BYTES
REQUEST: Final = b"GET /1k HTTP/1.1\r\nHost: web.bench.svc.cluster.local\r\nUser-Agent: replay\r\nAccept: */*\r\n\r\n"
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
BLOCK: Final = b"b" * (16384 - 9)
"""A TLS record less the head of one HTTP/2 frame: what a worker reads from an application at most in one go."""
BLOCKS: Final = 64
"""Of a bulk piece: 1 MB."""


class CountedNode(WorkerNode):
    """A worker under callgrind. It has a process of its own: valgrind does not know the pidfds of a zygote."""

    def launch(self, link: int, page: int) -> int:
        out = self.log.with_suffix(".callgrind")
        self._parts = callgrind.Parts(out)
        self._counted: Profile = Counter()
        program = load.program("worker", link, page, config.BUILD, WORKER_MODULE)
        self._process = self.spawn([*callgrind.command(out, _CUT), *program], [link, page])
        return self._process.pid

    def counted(self) -> Profile:
        """Everything until now. The worker must be idle; every call cuts at the same point of its code."""
        # What follows the last cut: it took a record, and the next call said that there was no other.
        before = self._parts.read()
        self.settle()
        last = self._parts.read(1)
        if not last:
            raise BenchError(f"worker {self.name} took a record from its control process without a call of {_CUT}")
        self._counted.update(sum((*before, *last), Counter[str]()))
        return Counter(self._counted)

    def asleep(self) -> bool:
        """Does the worker wait for events, with none at hand? Then the next one makes a turn of its loop by itself."""
        waiting = self.page.cell(PageCell.EPOLL_WAIT) > self.page.cell(PageCell.LOOP_TURNS)
        return waiting and Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def has_logged(self) -> bool:
        """Has every line of the access log been written? The worker gathers them, for 100 ms at most."""
        return self.log.read_bytes().count(b"\n") == self.page.cell(PageCell.LOG_LINES)

    def stop(self) -> None:
        super().stop()
        if hasattr(self, "_process"):
            self._process.wait(_WAIT)


class Replay:
    """The pair, and a listener where its origin is. A context manager; files go to `directory`, an empty one."""

    def __init__(self, directory: Path) -> None:
        self._pair = Ours(directory, Authority(), _SETTINGS, CountedNode)

    def __enter__(self) -> Self:
        self._listener = socket.create_server((config.ORIGIN, config.HTTP_PORT))
        self._listener.settimeout(_WAIT)
        try:
            self._pair.launch()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pair.stop()
        self._listener.close()
        if isinstance(error, OSError):
            raise BenchError(f"the pair of workers under callgrind has failed: {error}") from error

    def count(self, work: Callable[[], None], pieces: int) -> Profile:
        """Instructions of both workers for 2 * `pieces` pieces of work.

        The difference between a run of `pieces` and one of three times as many: what both have once is in neither.
        """
        for _ in range(pieces):  # until buffers and tables have their size
            work()
        marks = [self._counted()]
        for run in (pieces, 3 * pieces):
            for _ in range(run):
                work()
            marks.append(self._counted())
        short, long = (Counter(later) for later in marks[1:])
        short.subtract(marks[0])
        long.subtract(marks[1])
        long.subtract(short)
        return long

    def _counted(self) -> Profile:
        return sum((node.counted() for node in self._nodes()), Counter[str]())

    def _nodes(self) -> list[CountedNode]:
        return [node for node in (self._pair.client, self._pair.server) if isinstance(node, CountedNode)]

    def _settle(self) -> None:
        """Wait until both workers have dealt with everything.

        Needed where a step gives a worker an event of its own beside the one that answers the step, the peer's
        acknowledgement of a FIN for example: whether it takes both in one turn of its loop would be luck.
        """
        before: list[int] = []

        def settled() -> bool:
            nonlocal before
            last, before = before, []
            if all(node.asleep() for node in self._nodes()):
                before = [node.page.cell(PageCell.LOOP_TURNS) for node in self._nodes()]
            # Twice the same: the first may have been woken by the second after it was looked at.
            return bool(before) and before == last

        self._await(settled, "a worker does not come to rest")

    def _has_logged(self) -> bool:
        return all(node.has_logged() for node in self._nodes())

    def _await(self, condition: Callable[[], bool], fault: str, pause: float = 0.0) -> None:
        deadline = time.monotonic() + _WAIT
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError(fault)
            time.sleep(pause)

    # What goes through

    def open(self) -> tuple[socket.socket, socket.socket]:
        """A captured connection and its other end in the application; one byte has gone each way."""
        client = socket.create_connection(self._pair.http, _WAIT)
        try:
            app, _ = self._listener.accept()
        except BaseException:
            client.close()
            raise
        app.settimeout(_WAIT)
        for end in (client, app):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Not before: whether the byte is there when the client's worker first looks for it would be luck.
        self._settle()
        carry(client, app, b"?")
        self._settle()
        carry(app, client, b"!")
        self._settle()
        return client, app

    def close(self, client: socket.socket, app: socket.socket) -> None:
        """End both directions, one after the other.

        Returns when neither worker has a connection any more and the access log has its line: how many lines a worker
        writes at a time would depend on how fast they follow each other.
        """
        client.shutdown(socket.SHUT_WR)
        _expect_end(app)
        self._settle()
        app.close()
        _expect_end(client)
        client.close()
        self._await(self._has_logged, "a worker does not write its access log", _LOG_LOOK)
        self._settle()
        if any(node.page.cell(PageCell.FLOWS_OPEN) for node in self._nodes()):
            raise BenchError("a worker does not let go of a connection that both sides have ended")


def carry(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Send `data` and wait until all of it has come out at the other end."""
    sender.sendall(data)
    receive(receiver, len(data))


def receive(sock: socket.socket, size: int) -> None:
    """Take exactly `size` bytes. Raises BenchError when the connection ends before."""
    while size:
        got = len(sock.recv(size))
        if got == 0:
            raise BenchError("a connection through the pair of workers ended early")
        size -= got


def _expect_end(sock: socket.socket) -> None:
    if sock.recv(1):
        raise BenchError("bytes came out of the pair of workers that nobody sent")


def request(replay: Replay, pieces: int) -> Profile:
    """An HTTP request and its answer of 1 KB through an established tunnel."""
    client, app = replay.open()

    def work() -> None:
        carry(client, app, REQUEST)
        carry(app, client, ANSWER)

    found = replay.count(work, pieces)
    replay.close(client, app)
    return found


def bulk(replay: Replay, pieces: int) -> Profile:
    """1 MB from the client to the application through an established tunnel."""
    client, app = replay.open()

    def work() -> None:
        for _ in range(BLOCKS):
            carry(client, app, BLOCK)

    found = replay.count(work, pieces)
    replay.close(client, app)
    return found


def stream(replay: Replay, pieces: int) -> Profile:
    """A captured connection that finds its verdict and its HBONE connection there: open, a byte each way, close."""
    return replay.count(lambda: replay.close(*replay.open()), pieces)
