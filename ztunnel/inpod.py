"""Pods of this node: the client of the node agent (ZDS), and the listeners in each pod's network namespace.

Every listener is made here, one per worker and port, and a duplicate is kept, so a worker's death closes none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable
from typing import Final

from meshcore import netns, zds
from meshcore.errors import DeadlineExceeded, MeshError, NamespaceError, ProtocolError, Unavailable
from meshcore.zds import AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo
from ztunnel.decision import HBONE_LISTENER_PORT, INBOUND_PLAIN_PORT, OUTBOUND_PORT

log = logging.getLogger("ztunnel.inpod")

PORTS: Final = (OUTBOUND_PORT, INBOUND_PLAIN_PORT, HBONE_LISTENER_PORT)  # the order of REC_POD_ADD
MIGRATE_REQUESTS: Final = "net.ipv4.tcp_migrate_req"
"""A listener that is closed hands its waiting connections to another of the same port: workers may leave."""

RETRY_PENDING_S: Final = 5.0
CONNECT_BACKOFF_MIN_S: Final = 0.02
BACKOFF_MAX_S: Final = 15.0
HELLO_BACKOFF_S: Final = 0.5
HELLO_BACKOFF_AFTER_READY_S: Final = 0.005
BACKOFF_JITTER: Final = 0.2
ACK_TIMEOUT_S: Final = 5.0


class ZdsViolation(ProtocolError, code="zds.violation"):
    """The node agent broke the protocol in a way that leaves our pods in doubt: drain and start anew."""


class Listeners:
    """The sockets of one pod: per worker one for each of PORTS. `spoof`: the pod's clients can be impersonated."""

    def __init__(self, per_worker: list[tuple[socket.socket, ...]], *, spoof: bool) -> None:
        self.per_worker = per_worker
        self.spoof = spoof

    def fds(self, worker: int) -> list[int]:
        return [each.fileno() for each in self.per_worker[worker]]

    def close(self) -> None:
        for sockets in self.per_worker:
            for each in sockets:
                each.close()
        self.per_worker = []


class Pod:
    """A pod that is being proxied. It owns `netns_fd` and its listeners until `close`."""

    def __init__(self, pod_id: int, uid: str, info: WorkloadInfo, netns_fd: int, listeners: Listeners) -> None:
        self.pod_id = pod_id
        self.uid = uid
        self.info = info
        self.netns_fd = netns_fd
        self.netns_id = netns.netns_id(netns_fd)
        self.listeners = listeners

    def close(self) -> None:
        self.listeners.close()
        os.close(self.netns_fd)


class Listening:
    """How listeners are made; see ztunnel.config for the fields."""

    def __init__(self, *, workers: int, mark: int, transparent: bool | None, ipv6: bool) -> None:
        self._workers = workers
        self._mark = mark
        self._transparent = transparent
        self._ipv6 = ipv6

    def open(self, netns_fd: int) -> Listeners:
        """All listeners of one pod, or NamespaceError and none."""
        per_worker: list[tuple[socket.socket, ...]] = []
        opened: list[socket.socket] = []
        spoof = True
        try:
            with netns.inside(netns_fd):
                _migrate_requests(netns_fd)
                for _ in range(self._workers):
                    mine: list[socket.socket] = []
                    for port in PORTS:
                        listener, transparent = netns.listen_tcp(
                            netns_fd,
                            port,
                            mark=self._mark,
                            transparent=self._transparent,
                            reuseport=True,
                            ipv6=self._ipv6,
                        )
                        opened.append(listener)
                        mine.append(listener)
                        spoof = spoof and (transparent or port == OUTBOUND_PORT)
                    per_worker.append(tuple(mine))
        except MeshError:
            for listener in opened:
                listener.close()
            raise
        return Listeners(per_worker, spoof=spoof)


def _migrate_requests(netns_fd: int) -> None:
    try:
        netns.set_sysctl(netns_fd, MIGRATE_REQUESTS, "1")
    except NamespaceError as error:
        log.warning("%s: connections may be reset when a worker ends", error)  # kernels before 5.14


class Pods:
    """Pods by uid. `on_started(pod)` may refuse by raising MeshError; `on_stopped(pod)` comes before it is closed."""

    def __init__(
        self, listening: Listening, on_started: Callable[[Pod], None], on_stopped: Callable[[Pod], None]
    ) -> None:
        self.running: dict[str, Pod] = {}
        self.pending: dict[str, tuple[WorkloadInfo, int]] = {}
        """Pods whose listeners could not be made yet, with their namespaces, which are ours."""
        self.started = 0
        self.stopped = 0
        self._listening = listening
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._next_id = 1

    def add(self, uid: str, info: WorkloadInfo, netns_fd: int) -> None:
        """Proxy a pod; takes `netns_fd`. Raises MeshError when it could not be started: it is then pending."""
        self.drop_pending(uid)
        known = self.running.get(uid)
        if known is not None:
            if known.netns_id == netns.netns_id(netns_fd):
                os.close(netns_fd)
                return
            self.stop(uid)
        try:
            self._start(uid, info, netns_fd)
        except MeshError:
            self.pending[uid] = (info, netns_fd)
            raise

    def remove(self, uid: str) -> None:
        """Stop a pod, if it is one of ours."""
        self.drop_pending(uid)
        if uid in self.running:
            self.stop(uid)

    def retry(self) -> None:
        """Try pending pods again."""
        for uid, (info, netns_fd) in list(self.pending.items()):
            try:
                self._start(uid, info, netns_fd)
            except MeshError as error:
                log.warning("pod %s/%s still cannot be proxied: %s", info.namespace, info.name, error)
            else:
                del self.pending[uid]

    def clear_pending(self) -> None:
        for uid in list(self.pending):
            self.drop_pending(uid)

    def stop(self, uid: str) -> None:
        """Stop a running pod."""
        pod = self.running.pop(uid)
        self.stopped += 1
        log.info("pod %s/%s is no longer proxied", pod.info.namespace, pod.info.name)
        self._on_stopped(pod)
        pod.close()

    def close_listeners(self) -> None:
        """Accept nothing any more; the workers close theirs when they are told to drain."""
        self.clear_pending()
        for pod in self.running.values():
            pod.listeners.close()

    def _start(self, uid: str, info: WorkloadInfo, netns_fd: int) -> None:
        listeners = self._listening.open(netns_fd)
        pod = Pod(self._next_id, uid, info, netns_fd, listeners)
        self._next_id += 1
        try:
            self._on_started(pod)
        except MeshError:
            listeners.close()
            raise
        self.running[uid] = pod
        self.started += 1
        log.info("pod %s/%s is proxied", info.namespace, info.name)

    def drop_pending(self, uid: str) -> None:
        """No longer try to start a pod."""
        found = self.pending.pop(uid, None)
        if found is not None:
            os.close(found[1])


class _Lost(MeshError, code="zds.lost", retryable=True):
    """The connection to the node agent ended."""


class ZdsClient:
    """Keeps a connection to the node agent and does what it says. `on_ready(whether)` is called when that changes."""

    def __init__(self, path: str, pods: Pods, on_ready: Callable[[bool], None]) -> None:
        self._path = path
        self._pods = pods
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._seen: set[str] = set()
        self._snapshot = False
        self._ready = False
        self._was_ready = False
        self._said_absent = False

    async def run(self) -> None:
        """Serve until cancelled. Raises ZdsViolation when the agent breaks the protocol."""
        retry = asyncio.create_task(self._retry_pending())
        backoff = 0.0
        try:
            while True:
                sock = await self._connect()
                try:
                    await self._serve(sock)
                except _Lost as error:
                    log.warning("node agent: %s; connecting again", error)
                finally:
                    sock.close()
                    lasted = self._snapshot
                    self._lost()
                # What lasted is connected anew at once; what broke off before it began waits, ever longer.
                first = HELLO_BACKOFF_AFTER_READY_S if self._was_ready else HELLO_BACKOFF_S
                backoff = 0.0 if lasted else min(max(2 * backoff, first), BACKOFF_MAX_S)
                await asyncio.sleep(backoff * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER))
        finally:
            retry.cancel()

    async def _connect(self) -> socket.socket:
        backoff = CONNECT_BACKOFF_MIN_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            try:
                sock.connect(self._path)
            except OSError as error:
                sock.close()
                if not self._said_absent:
                    log.info("waiting for the node agent at %s: %s", self._path, error.strerror)
                    self._said_absent = True
            else:
                self._said_absent = False
                return sock
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_MAX_S)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            await self._send(sock, zds.encode_hello())
            while True:
                await self._take(sock)
        except (Unavailable, DeadlineExceeded) as error:
            raise _Lost(str(error)) from None

    async def _take(self, sock: socket.socket) -> None:
        """One request and its answer."""
        await self._until(sock, self._loop.add_reader, self._loop.remove_reader, None)
        try:
            data, fds = zds.recv_packet(sock)
        except BlockingIOError:
            return
        except ProtocolError as error:
            await self._refuse(sock, error)
            raise _Lost(str(error)) from None
        if not data:
            zds.close_all(fds)
            raise _Lost("it closed the connection")
        try:
            try:
                request = zds.decode_request(data)
            except ProtocolError:
                zds.close_all(fds)
                raise
            netns_fd = zds.take_netns(request, fds)
        except ProtocolError as error:
            await self._refuse(sock, error)
            raise _Lost(str(error)) from None
        try:
            refusal = self._carry_out(request, netns_fd)
        except ZdsViolation as error:
            await self._refuse(sock, error)
            raise
        await self._send(sock, zds.encode_ack(refusal))
        self._tell_ready()

    def _carry_out(self, request: zds.Request, netns_fd: int | None) -> str:
        """-> why it was refused, "" when it was not."""
        match request:
            case AddWorkload(uid, info):
                assert netns_fd is not None  # noqa: S101 - take_netns made sure
                if not self._snapshot:
                    self._seen.add(uid)
                try:
                    self._pods.add(uid, info, netns_fd)
                except MeshError as error:
                    log.warning("pod %s/%s cannot be proxied: %s", info.namespace, info.name, error)
                    return str(error)
            case KeepWorkload(uid):
                if self._snapshot:
                    raise ZdsViolation("KeepWorkload after the snapshot")
                self._seen.add(uid)
            case DelWorkload(uid):
                if self._snapshot:
                    self._pods.remove(uid)
                else:
                    self._seen.discard(uid)
                    self._pods.drop_pending(uid)
            case SnapshotSent():
                if self._snapshot:
                    raise ZdsViolation("a second SnapshotSent on one connection")
                self._snapshot = True
                for uid in set(self._pods.running) - self._seen:
                    self._pods.stop(uid)
        return ""

    async def _refuse(self, sock: socket.socket, error: ProtocolError) -> None:
        try:
            await self._send(sock, zds.encode_ack(str(error)))
        except MeshError as failure:
            log.debug("the refusal was not sent: %s", failure)

    async def _send(self, sock: socket.socket, data: bytes) -> None:
        while True:
            try:
                zds.send_packet(sock, data)
                return
            except BlockingIOError:
                await self._until(sock, self._loop.add_writer, self._loop.remove_writer, ACK_TIMEOUT_S)

    async def _until(
        self,
        sock: socket.socket,
        add: Callable[..., None],
        remove: Callable[[int], bool],
        timeout: float | None,
    ) -> None:
        """Wait for readiness. Reading has no limit: an agent that has nothing to say is silent for days."""
        ready = self._loop.create_future()
        add(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
        try:
            async with asyncio.timeout(timeout):
                await ready
        except TimeoutError:
            raise DeadlineExceeded(f"the node agent did not read for {timeout:g} s") from None
        finally:
            remove(sock.fileno())

    async def _retry_pending(self) -> None:
        while True:
            await asyncio.sleep(RETRY_PENDING_S)
            self._pods.retry()
            self._tell_ready()

    def _lost(self) -> None:
        self._seen.clear()
        self._snapshot = False
        self._pods.clear_pending()
        self._tell_ready()

    def _tell_ready(self) -> None:
        ready = self._snapshot and not self._pods.pending
        self._was_ready = self._was_ready or ready
        if ready != self._ready:
            self._ready = ready
            self._on_ready(ready)
