"""A worker in plain Python: speaks the records, moves no bytes. Started by the real zygote in place of the real one.

It says HELLO, keeps what it was told, answers POD_ADD with POD_READY, DRAIN with DRAINED and DUMP with one flow, and
writes its counters. A SANS record tells it what else to do: see `_command`; `tell` makes it
list what it heard in the text of a CERT_ERROR.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time

from meshcore import records
from meshcore.records import PageCell, Rec

_SIZE = records.PAGE_BYTES + records.SLOT_MAX * records.SLOT_BYTES


class Worker:
    """As `ztunnel._fastpath.Worker`."""

    def __init__(self, control_fd: int, page_fd: int, index: int) -> None:
        self._sock = socket.socket(fileno=control_fd)
        self._map = mmap.mmap(page_fd, _SIZE)
        self._cells = memoryview(self._map).cast("Q")
        self._index = index
        self._fds: list[int] = []
        self._heard: list[str] = []

    def run(self) -> int:
        self._cells[PageCell.PID] = os.getpid()
        self._sock.send(_head(Rec.HELLO, struct.pack("=II", os.getpid(), records.RECORDS_VERSION)))
        while True:
            record, ancillary, _, _ = self._sock.recvmsg(records.RECORD_MAX, 64)
            self._cells[PageCell.CLOCK_MS] = time.monotonic_ns() // 1_000_000
            self._cells[PageCell.LOOP_TURNS] += 1
            if not record:
                return 0
            for _, _, body in ancillary:
                self._fds += struct.unpack(f"={len(body) // 4}i", body)
            kind = records.record_type(record)
            if kind is Rec.STOP:
                return 0
            self._take(kind, record)

    def _take(self, kind: Rec, record: bytes) -> None:
        text = kind.name
        if kind is Rec.VERDICT:
            fields = records.VERDICT.unpack_from(record)
            text += f":{fields[3]}:{records.Action(fields[10]).name}"  # cookie and action
        self._heard.append(text)
        if kind is Rec.POD_ADD:
            pod_id = records.POD_ADD.unpack_from(record)[3]
            self._sock.send(_head(Rec.POD_READY, struct.pack("=II", pod_id, 0)))
        elif kind is Rec.DRAIN:
            self._sock.send(_head(Rec.DRAINED, b""))
        elif kind is Rec.DUMP:
            ip = records.pack_ip(bytes([10, 0, 0, 1 + self._index]))
            flow = (1, 7, ip, ip, ip, 4000, 80, 15008, 1, 2, 11, 22, 33)
            size = records.DUMP_FLOW.size
            self._sock.send(records.DUMP_FLOW.pack(Rec.DUMP_FLOW, records.RECORDS_VERSION, size, *flow))
            self._sock.send(_head(Rec.DUMP_END, b""))
        elif kind is Rec.SANS:
            self._command(record[records.SANS.size :].rstrip(b"\0").decode())

    def _command(self, text: str) -> None:
        match text.split():
            case ["exit", status]:
                os._exit(int(status))
            case ["hang"]:
                time.sleep(3600)
            case ["garbage"]:
                self._sock.send(b"garbage")
            case ["tell"]:
                body = struct.pack("=4I", 0, 0, 0, 0) + " ".join(self._heard).encode()
                self._sock.send(_head(Rec.CERT_ERROR, body))
            case ["upcall", cookie, pod_id, src, dst, port]:
                ips = [records.pack_ip(socket.inet_aton(each)) for each in (src, dst, "0.0.0.0")]
                fields = (int(cookie), int(pod_id), 4000, int(port), *ips, records.Direction.OUTBOUND, 0)
                size = records.UPCALL.size
                head = (Rec.UPCALL, records.RECORDS_VERSION, size)
                self._sock.send(records.UPCALL.pack(*head, *fields, 0, 0, 0, 0, 0, 0))
            case ["count", slot, cell, number]:
                start = (records.PAGE_BYTES + int(slot) * records.SLOT_BYTES) // 8
                self._cells[start + int(cell)] += int(number)


def _head(kind: Rec, body: bytes) -> bytes:
    return records.HEAD.pack(kind, records.RECORDS_VERSION, records.HEAD.size + len(body)) + body
