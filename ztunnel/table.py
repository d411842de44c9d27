"""Workloads, encoded: what 100,000 of them cost decides what a ztunnel costs.

A workload is kept as a short MessagePack row (name, addresses, status, version) and numbers of
shared parts: its template (what all pods of a deployment have in common), its place (node and
locality) and the beginning of its uid. Reading one back takes about two microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import msgspec

from meshcore.model import Locality, NetworkMode, TunnelProtocol, Workload, WorkloadStatus
from ztunnel.hashindex import HashIndex
from ztunnel.interner import Interner

_DECODED_MAX: Final = 256  # templates and places kept as objects; about 1.5 KiB each


class _Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    template: int
    place: int
    prefix: int  # of the uid, up to its last slash
    rest: str | None  # of the uid; None: it is the name
    name: str
    addresses: tuple[bytes, ...]
    status: WorkloadStatus
    version: str


class _Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    node: str
    locality: Locality | None


_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(_Row).decode


def _ip_hash(network: str, ip: bytes) -> int:
    return hash((network, ip))


def _name_hash(namespace: str, name: str) -> int:
    return hash((namespace, name))


def _precedence(workload: Workload) -> tuple[bool, bool, str]:
    """Who wins a shared address: a pod, then one that speaks HBONE; then any, but always the same."""
    return "//Pod/" not in workload.uid, workload.tunnel_protocol is not TunnelProtocol.HBONE, workload.uid


class WorkloadTable:
    """Rows with indexes by uid, by (network, address) and by (namespace, name)."""

    def __init__(self) -> None:
        self._rows: list[bytes | None] = []
        self._free: list[int] = []
        self._templates = Interner()
        self._places = Interner()
        self._prefixes = Interner()
        self._decode_template = lru_cache(_DECODED_MAX)(msgspec.msgpack.Decoder(Workload).decode)
        self._decode_place = lru_cache(_DECODED_MAX)(msgspec.msgpack.Decoder(_Place).decode)
        self._by_uid = HashIndex()
        self._by_ip = HashIndex()
        self._by_name = HashIndex()

    def __len__(self) -> int:
        return len(self._rows) - len(self._free)

    def __iter__(self) -> Iterator[Workload]:
        return (self._decode(_decode_row(row)) for row in self._rows if row is not None)

    def __getitem__(self, number: int) -> Workload:
        return self._decode(self._row(number))

    def versions(self) -> Iterator[tuple[str, str]]:
        """(uid, version) of each: what a resumed subscription tells the control plane it has."""
        for raw in self._rows:
            if raw is not None:
                row = _decode_row(raw)
                yield self._uid(row), row.version

    def version(self, number: int) -> str:
        return self._row(number).version

    def find_uid(self, uid: str) -> int | None:
        """Row number of a workload, or None."""
        for number in self._by_uid.find(hash(uid)):
            if self._uid(self._row(number)) == uid:
                return number
        return None

    def find_ip(self, network: str, ip: bytes) -> Workload | None:
        """The workload at an address. Several may share it: see `_precedence`."""
        best: Workload | None = None
        for number in self._by_ip.find(_ip_hash(network, ip)):
            found = self[number]
            if found.network != network or ip not in found.addresses:
                continue
            if best is None or _precedence(found) < _precedence(best):
                best = found
        return best

    def find_name(self, namespace: str, name: str) -> Iterator[Workload]:
        for number in self._by_name.find(_name_hash(namespace, name)):
            found = self[number]
            if found.name == name and found.namespace == namespace:
                yield found

    def insert(self, workload: Workload, version: str) -> int:
        """Add a workload whose uid is not in the table; returns its row number."""
        row = _encode(self._intern(workload, version))
        if self._free:
            number = self._free.pop()
            self._rows[number] = row
        else:
            number = len(self._rows)
            self._rows.append(row)
        for index, key in self._index_entries(workload):
            index.add(key, number)
        return number

    def replace(self, number: int, old: Workload, new: Workload, version: str) -> None:
        """Put `new` where `old` stands; both have the same uid."""
        before = self._row(number)
        self._rows[number] = _encode(self._intern(new, version))
        self._release(before)
        gone, come = self._index_entries(old), self._index_entries(new)
        for entry in gone:
            if entry not in come:
                entry[0].remove(entry[1], number)
        for entry in come:
            if entry not in gone:
                entry[0].add(entry[1], number)

    def set_version(self, number: int, version: str) -> None:
        self._rows[number] = _encode(msgspec.structs.replace(self._row(number), version=version))

    def remove(self, number: int, workload: Workload) -> None:
        """Take out a workload; `workload` is what stands in the row."""
        self._release(self._row(number))
        self._rows[number] = None
        self._free.append(number)
        for index, key in self._index_entries(workload):
            index.remove(key, number)

    def _index_entries(self, workload: Workload) -> list[tuple[HashIndex, int]]:
        entries = [
            (self._by_uid, hash(workload.uid)),
            (self._by_name, _name_hash(workload.namespace, workload.name)),
        ]
        # Pods of the host network share the node's address: it says nothing about which of them is meant.
        if workload.network_mode is not NetworkMode.HOST_NETWORK:
            entries += [(self._by_ip, _ip_hash(workload.network, ip)) for ip in set(workload.addresses)]
        return entries

    def _intern(self, workload: Workload, version: str) -> _Row:
        cut = workload.uid.rfind("/") + 1  # the rest is the pod's name, nearly always
        prefix, rest = workload.uid[:cut], workload.uid[cut:]
        template = msgspec.structs.replace(
            workload, uid="", name="", addresses=(), node="", locality=None, status=WorkloadStatus.HEALTHY
        )
        return _Row(
            self._templates.acquire(_encode(template)),
            self._places.acquire(_encode(_Place(workload.node, workload.locality))),
            self._prefixes.acquire(prefix.encode()),
            None if rest == workload.name else rest,
            workload.name,
            workload.addresses,
            workload.status,
            version,
        )

    def _release(self, row: _Row) -> None:
        self._templates.release(row.template)
        self._places.release(row.place)
        self._prefixes.release(row.prefix)

    def _row(self, number: int) -> _Row:
        raw = self._rows[number]
        if raw is None:
            raise KeyError(number)
        return _decode_row(raw)

    def _uid(self, row: _Row) -> str:
        return self._prefixes[row.prefix].decode() + (row.name if row.rest is None else row.rest)

    def _decode(self, row: _Row) -> Workload:
        place = self._decode_place(self._places[row.place])
        return msgspec.structs.replace(
            self._decode_template(self._templates[row.template]),
            uid=self._uid(row),
            name=row.name,
            addresses=row.addresses,
            node=place.node,
            locality=place.locality,
            status=row.status,
        )
