"""The admin port: config_dump, log levels, shutdown. Loopback only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from meshcore.errors import ConfigError
from meshcore.records import Direction, DumpFlow, Protocol, Rec, decode_dump_flow, encode_dump, ip_text
from meshcore.zds import WorkloadInfo
from ztunnel.http import Handler, Request, Response
from ztunnel.inpod import Pods
from ztunnel.log import Filter
from ztunnel.workerlink import WorkerLink

DUMP_TIMEOUT_S: Final = 2.0
JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"

_INDEX: Final = """<!DOCTYPE html>
<html><head><title>ztunnel admin</title></head><body><h1>ztunnel admin</h1><ul>
<li><a href="/config_dump">/config_dump</a>: what this ztunnel knows, as JSON</li>
<li>/logging: POST with ?level=LEVEL or ?level=TARGET=LEVEL, ?reset; shows or changes what is logged</li>
<li>/quitquitquit: POST; drains and ends</li>
</ul></body></html>
"""


class FlowDumps:
    """Asks workers for their live connections."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._flows: list[DumpFlow] = []
        self._waiting: set[WorkerLink] = set()
        self._done = asyncio.Event()

    async def collect(self, links: Iterable[WorkerLink]) -> list[DumpFlow]:
        """All connections; those of a worker that does not answer within DUMP_TIMEOUT_S are missing."""
        async with self._lock:
            self._flows = []
            self._waiting = set(links)
            self._done.clear()
            if not self._waiting:
                return []
            for link in list(self._waiting):
                link.send(encode_dump())
            try:
                async with asyncio.timeout(DUMP_TIMEOUT_S):
                    await self._done.wait()
            except TimeoutError:
                self._waiting.clear()
            return sorted(self._flows)

    def record(self, link: WorkerLink, kind: Rec, record: bytes) -> None:
        """A DUMP_FLOW or DUMP_END; late ones are dropped."""
        if link not in self._waiting:
            return
        if kind is Rec.DUMP_FLOW:
            self._flows.append(decode_dump_flow(record))
            return
        self._waiting.discard(link)
        if not self._waiting:
            self._done.set()

    def worker_gone(self, index: int) -> None:
        self._waiting = {link for link in self._waiting if link.index != index}
        if not self._waiting:
            self._done.set()


def workload_state(pods: Pods, flows: Iterable[DumpFlow]) -> dict[str, Any]:
    """`workloadState`: pods by uid, with their connections."""
    connections: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for flow in flows:
        sides = connections.setdefault(flow.pod_id, {"inbound": [], "outbound": []})
        outbound = flow.direction is Direction.OUTBOUND
        sides["outbound" if outbound else "inbound"].append(
            {
                "src": _address(flow.src),
                "originalDst": _address(flow.dst) if outbound else None,
                "actualDst": _address(flow.actual),
                "protocol": "HBONE" if flow.protocol is Protocol.HBONE else "TCP",
                "bytesSent": flow.bytes_sent,
                "bytesReceived": flow.bytes_received,
                "ageMs": flow.age_ms,
            }
        )
    found = {uid: _workload("Up", pod.info, connections.get(pod.pod_id)) for uid, pod in pods.running.items()}
    found |= {uid: _workload("Pending", info, None) for uid, (info, _) in pods.pending.items()}
    return dict(sorted(found.items()))


def _workload(state: str, info: WorkloadInfo, connections: dict[str, list[dict[str, Any]]] | None) -> dict[str, Any]:
    return {
        "state": state,
        "connections": connections or {"inbound": [], "outbound": []},
        "info": {"name": info.name, "namespace": info.namespace, "serviceAccount": info.service_account},
    }


def _address(address: tuple[bytes, int]) -> str:
    ip, port = address
    return f"[{ip_text(ip)}]:{port}" if len(ip) == 16 else f"{ip_text(ip)}:{port}"


def version(istio_version: str) -> dict[str, str]:
    """`version` of config_dump; keys are upstream's."""
    return {
        "version": istio_version,
        "gitRevision": "unknown",
        "rustVersion": "none",
        "buildProfile": "release",
        "buildStatus": "unknown",
        "istioVersion": istio_version,
        "cryptoProvider": ssl.OPENSSL_VERSION,
    }


class Admin:
    """Handlers of the admin port. `dump()` makes the content of config_dump; `changed()` follows a change of levels."""

    def __init__(
        self,
        levels: Filter,
        dump: Callable[[], Awaitable[dict[str, Any]]],
        changed: Callable[[], None],
        shutdown: Callable[[], None],
    ) -> None:
        self._levels = levels
        self._dump = dump
        self._changed = changed
        self._shutdown = shutdown

    def routes(self) -> dict[str, Handler]:
        return {
            "/": self._index,
            "/config_dump": self._config_dump,
            "/logging": self._logging,
            "/quitquitquit": self._quit,
        }

    async def _index(self, _: Request) -> Response:
        return Response(200, _INDEX.encode(), HTML)

    async def _config_dump(self, _: Request) -> Response:
        content = msgspec.json.encode(await self._dump())
        return Response(200, msgspec.json.format(content, indent=2) + b"\n", JSON)

    async def _logging(self, request: Request) -> Response:
        if request.method != "POST":
            return Response.text("method not allowed, use POST\n", 405)
        query = dict(request.query)
        level = query.get("level", "")
        try:
            if level or "reset" in query:
                self._levels.change(level, reset="reset" in query)
                self._changed()
        except ConfigError as error:
            return Response.text(f"{error}\n", 400)
        return Response.text(f"current log level is {self._levels}\n")

    async def _quit(self, request: Request) -> Response:
        if request.method != "POST":
            return Response.text("method not allowed, use POST\n", 405)
        self._shutdown()
        return Response.text("shutdown now\n")
