"""The processes of one measurement: where the cluster is, istiod, and those who are connected to it."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from ambient.demo.config import ambient_command
from ambient.demo.errors import DemoError
from ambient.demo.processes import Process, Processes, last_line
from bench import config
from bench.errors import BenchError
from bench.istiod import protocol
from bench.istiod.cluster import Cluster, SourceName, make
from bench.istiod.fleet import DOMAIN, Fleet, Sizes
from bench.istiod.programs import as_argument, program
from istiod import ca

R = TypeVar("R", bound=protocol.Reply)

HOST: Final = "127.0.0.1"
PORT: Final = 15012
HTTP_PORT: Final = 18080
METRICS_PORT: Final = 15014
_READY_S: Final = 300.0  # seconds for istiod to read 10,000 pods on a slow machine
_JOIN_S: Final = 120.0  # seconds for clients to make their keys and report
_ANSWER_S: Final = 60.0  # seconds for what takes clients no waiting
_STOP_S: Final = 30.0
_POLL_S: Final = 0.02
_HTTP_S: Final = 30.0


class Options(NamedTuple):
    """`debounce` is PILOT_DEBOUNCE_AFTER in seconds; with `profile`, istiod runs under cProfile and is not timed."""

    source: SourceName
    client_processes: int
    debounce: float
    profile: bool


class Link:
    """A process with clients: one command at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, command: protocol.Command, answer: type[R], timeout: float = _ANSWER_S) -> R:
        """Raises BenchError if it is not carried out, or not in time."""
        name = type(command).__name__
        try:
            async with asyncio.timeout(timeout):
                await protocol.write(self._writer, command)
                reply = await protocol.read_reply(self._reader)
        except (TimeoutError, OSError) as error:
            raise BenchError(f"clients: no answer to {name} within {timeout:g} s") from error
        if not isinstance(reply, answer):
            raise BenchError(f"clients: {name}: {getattr(reply, 'why', reply)}")
        return reply

    async def joined(self) -> None:
        """Return when all its clients are there."""
        await protocol.read_reply(self._reader)

    def close(self) -> None:
        self._writer.close()


class World:
    """Everything that runs. Use it in an `async with` block."""

    def __init__(self, directory: Path, sizes: Sizes, options: Options) -> None:
        self.options = options
        self.fleet = Fleet(sizes)
        self.links: list[Link] = []
        self._directory = directory
        self._ca = directory / "ca"
        logs = directory / "logs"
        for each in (logs, self._ca):
            each.mkdir(parents=True)
        self.processes = Processes(logs, config.child_environment(directory))
        self.cluster: Cluster = make(options.source, self.fleet, directory, self.processes)
        self._istiods = 0
        self._crowds = 0
        self._dumps = 0

    async def __aenter__(self) -> Self:
        rules = ca.SelfSigned(DOMAIN, timedelta(days=365))
        ca.StateDirectory(str(self._ca), rules).read()
        try:
            await self.cluster.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._hang_up()
        await self.cluster.close()
        await asyncio.to_thread(self.processes.stop_all)

    @property
    def istiod(self) -> Process:
        found = self.processes.get("istiod")
        if found is None:
            raise BenchError("istiod does not run")
        found.require_alive()
        return found

    @property
    def others(self) -> list[int]:
        """Pids of what is ours and not istiod."""
        return [process.pid for process in self.processes if process.name != "istiod"]

    @property
    def profile(self) -> Path:
        return self._directory / f"istiod-{self._istiods}.prof"

    async def start_istiod(self) -> float:
        """-> seconds until it is ready."""
        self._istiods += 1
        options = [
            *self.cluster.options,
            f"--ca-dir={self._ca}",
            f"--address={HOST}",
            f"--port={PORT}",
            f"--http-port={HTTP_PORT}",
            f"--monitoring-port={METRICS_PORT}",
        ]
        command = [*ambient_command(), "istiod"]
        if self.options.profile:
            command, self._dumps = program("profiled", str(self.profile)), 0
        settings = {"PILOT_DEBOUNCE_AFTER": f"{self.options.debounce * 1000:.0f}ms"}
        began = time.monotonic()
        process = self.processes.start("istiod", [*command, *options], settings=settings)
        while not await asyncio.to_thread(_is_ready):
            try:
                process.require_alive()
            except DemoError as error:
                raise BenchError(str(error)) from error
            if time.monotonic() - began > _READY_S:
                raise BenchError(f"istiod is not ready after {_READY_S:g} s; its log ends: {self._last_words()}")
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def stop_istiod(self) -> None:
        process = self.processes.get("istiod")
        if process is not None:
            await asyncio.to_thread(process.stop, _STOP_S)
            self.processes.forget("istiod")

    async def dump_profile(self) -> Path:
        """What istiod did since its start or the last dump, as a file for pstats."""
        self._dumps += 1
        written = Path(f"{self.profile}.{self._dumps}")
        self.istiod.signal(signal.SIGUSR1)
        deadline = time.monotonic() + _HTTP_S
        while not written.exists():  # noqa: ASYNC240 - once in a while, and nothing else is timed
            await asyncio.to_thread(_is_ready)  # the handler runs when the loop has something to do
            if time.monotonic() > deadline:
                raise BenchError("istiod does not write its profile")
            await asyncio.sleep(_POLL_S)
        return written

    async def start_clients(self) -> None:
        """Fresh processes with all clients, which are not connected yet."""
        count = self.options.client_processes
        arrived: asyncio.Queue[Link] = asyncio.Queue(count)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.put_nowait(Link(reader, writer))

        server = await asyncio.start_server(accept, HOST, 0, limit=protocol.LINE_MAX)
        bench = (HOST, server.sockets[0].getsockname()[1])
        try:
            for part in range(count):
                plan = protocol.Plan(bench, (HOST, PORT), str(self._ca), self.fleet.sizes, part, count)
                self.processes.start(f"clients-{self._crowds}-{part}", program("clients", as_argument(plan)))
            async with asyncio.timeout(_JOIN_S):
                self.links = [await arrived.get() for _ in range(count)]
                for link in self.links:
                    await link.joined()
        except TimeoutError:
            raise BenchError(f"the clients have not started within {_JOIN_S:g} s: {self._last_words()}") from None
        finally:
            server.close()
        self._crowds += 1

    async def stop_clients(self) -> None:
        self._hang_up()
        for process in self.processes:
            if process.name.startswith("clients-"):
                await asyncio.to_thread(process.stop)
                self.processes.forget(process.name)

    async def all(self, command: protocol.Command, answer: type[R], timeout: float = _ANSWER_S) -> list[R]:
        """Give a command to every process with clients at once."""
        return await asyncio.gather(*(link.call(command, answer, timeout) for link in self.links))

    async def metrics(self) -> dict[str, float]:
        """istiod's, by name, series of one name summed."""
        return await asyncio.to_thread(_metrics)

    def _hang_up(self) -> None:
        for link in self.links:
            link.close()
        self.links = []

    def _last_words(self) -> str:
        return "; ".join(f"{process.name}: {last_line(process.log)}" for process in self.processes)


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=_HTTP_S) as answer:
        return bytes(answer.read())


def _is_ready() -> bool:
    try:
        return bool(_get(HTTP_PORT, "/ready"))
    except (urllib.error.URLError, OSError):
        return False


def _metrics() -> dict[str, float]:
    try:
        text = _get(METRICS_PORT, "/metrics").decode()
    except OSError as error:
        raise BenchError(f"istiod's metrics cannot be read: {error}") from error
    return parse_metrics(text)


def parse_metrics(text: str) -> dict[str, float]:
    """The exposition format -> name to value, series of one name summed."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
