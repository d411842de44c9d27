"""The cluster as this node knows it: workloads, services and policies, and where to find them.

Everything is kept encoded and decoded when a decision asks. Nothing here waits or does I/O.
Endpoints are not copied into services: a service holds row numbers of the workloads that name it,
known or not yet known, so a service that arrives late finds its endpoints, and a health policy
that changes takes effect on all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Authorization,
    NetworkMode,
    PolicyScope,
    Service,
    Visibility,
    Workload,
)
from ztunnel import ingest, keys
from ztunnel.keys import Key
from ztunnel.table import WorkloadTable

_POLICIES_DECODED: Final = 256  # kept as objects; a policy is evaluated far more often than it changes

_K = TypeVar("_K")
_V = TypeVar("_V")

_encode = msgspec.msgpack.Encoder().encode
_decode_service = msgspec.msgpack.Decoder(Service).decode


class Resource(Protocol):
    """One resource of a push. `body` is the MessagePack form of the type's model."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Change(NamedTuple):
    """What one push moved.

    `keys` are those of the moved things that are watched (see `ClusterState.watched`); `gone` are addresses that
    no workload has any more; `rejected` maps the names of refused resources to the reason.
    """

    keys: set[Key]
    gone: set[bytes]
    rejected: dict[str, str]
    unknown: list[str]
    """Removed names that were not known; worth a warning, no more."""


class _Everything(Container[Key]):
    def __contains__(self, key: object) -> bool:
        return True


class _ServiceEntry(msgspec.Struct, gc=False):
    key: str
    order: int  # of first arrival: the last tie-break between services
    body: bytes
    version: str
    namespace: str
    hostname: str
    canonical: bool
    public: bool
    vips: tuple[tuple[str, bytes], ...]
    cidrs: tuple[tuple[str, int, int, int], ...]  # network, bytes of the family, address >> host bits, host bits


class _PolicyEntry(msgspec.Struct, gc=False):
    body: bytes
    version: str
    namespace: str | None  # whose workloads it applies to: "" all, None only those that name it


class ClusterState:
    """Indexes over encoded resources. `network` is this ztunnel's own (NETWORK)."""

    def __init__(self, network: str = "", watched: Container[Key] | None = None) -> None:
        self.network = network
        self.watched: Container[Key] = _Everything() if watched is None else watched
        self._workloads = WorkloadTable()
        self._workloads_by_host: dict[str, array[int]] = {}
        self._endpoints: dict[str, array[int]] = {}
        self._services: dict[str, _ServiceEntry] = {}
        self._services_by_vip: dict[tuple[str, bytes], list[_ServiceEntry]] = {}
        self._services_by_host: dict[str, list[_ServiceEntry]] = {}
        self._cidr_services: dict[str, list[_ServiceEntry]] = {}
        self._service_count = 0  # services ever seen, gives `order`
        self._policies: dict[str, _PolicyEntry] = {}
        self._policies_by_namespace: dict[str, list[str]] = {}
        self._decode_policy = lru_cache(_POLICIES_DECODED)(msgspec.msgpack.Decoder(Authorization).decode)

    # Changes

    def apply(self, type_url: str, resources: Iterable[Resource], removed: Iterable[str] = ()) -> Change:
        """Apply one push: updates in order, then removals. Good resources count even if others are refused."""
        change = Change(set(), set(), {}, [])
        lost: set[tuple[str, bytes]] = set()
        if type_url == ADDRESS_TYPE:
            for resource in resources:
                try:
                    found = ingest.address(resource.body)
                except ingest.ResourceError as error:
                    change.rejected[resource.name] = str(error)
                    continue
                if isinstance(found, Workload):
                    self._put_workload(found, resource.version, change, lost)
                else:
                    self._put_service(found, resource.version, change)
            for name in removed:
                self._remove_address(name, change, lost)
        elif type_url == AUTHORIZATION_TYPE:
            for resource in resources:
                try:
                    policy = ingest.authorization(resource.body)
                except ingest.ResourceError as error:
                    change.rejected[resource.name] = str(error)
                    continue
                self._put_policy(resource.name, policy, resource.version, change)
            for name in removed:
                self._remove_policy(name, change)
        else:
            raise ingest.ResourceError(f"{type_url} is not a type this proxy subscribes to")
        for network, ip in lost:
            if network == self.network and self._workloads.find_ip(network, ip) is None:
                change.gone.add(ip)
        return change

    def versions(self, type_url: str) -> Iterator[tuple[str, str]]:
        """(name, version) of everything held of a type, for a subscription that resumes."""
        if type_url == ADDRESS_TYPE:
            yield from self._workloads.versions()
            yield from ((key, entry.version) for key, entry in self._services.items())
        elif type_url == AUTHORIZATION_TYPE:
            yield from ((key, policy.version) for key, policy in self._policies.items())

    def _touch(self, change: Change, *moved: Key) -> None:
        change.keys.update(key for key in moved if key in self.watched)

    def _put_workload(self, new: Workload, version: str, change: Change, lost: set[tuple[str, bytes]]) -> None:
        number = self._workloads.find_uid(new.uid)
        if number is None:
            number = self._workloads.insert(new, version)
            self._link(number, new.services)
            if new.hostname:
                self._workloads_by_host.setdefault(new.hostname, array("I")).append(number)
            self._touch_workload(new, change)
            return
        old = self._workloads[number]
        if old == new:
            if self._workloads.version(number) != version:
                self._workloads.set_version(number, version)
            return
        self._workloads.replace(number, old, new, version)
        self._unlink(number, old.services.keys() - new.services.keys())
        self._link(number, new.services.keys() - old.services.keys())
        if old.hostname != new.hostname:
            self._forget_host(number, old.hostname)
            if new.hostname:
                self._workloads_by_host.setdefault(new.hostname, array("I")).append(number)
        self._touch_workload(old, change)
        self._touch_workload(new, change)
        lost |= _indexed(old) - _indexed(new)

    def _remove_address(self, name: str, change: Change, lost: set[tuple[str, bytes]]) -> None:
        number = self._workloads.find_uid(name)
        if number is not None:
            old = self._workloads[number]
            self._unlink(number, old.services)
            self._forget_host(number, old.hostname)
            self._workloads.remove(number, old)
            self._touch_workload(old, change)
            lost |= _indexed(old)
        elif name in self._services:
            self._drop_service(self._services[name], change)
        else:
            change.unknown.append(name)

    def _touch_workload(self, workload: Workload, change: Change) -> None:
        self._touch(change, keys.workload_key(workload.uid), keys.local_key(workload.namespace, workload.name))
        for network, ip in _indexed(workload):
            self._touch(change, keys.ip_key(network, ip))
        for service in workload.services:
            self._touch(change, keys.service_key(service))
        if workload.hostname:
            self._touch(change, keys.host_key(workload.hostname))

    def _link(self, number: int, services: Iterable[str]) -> None:
        for key in services:
            self._endpoints.setdefault(key, array("I")).append(number)

    def _unlink(self, number: int, services: Iterable[str]) -> None:
        for key in services:
            rows = self._endpoints[key]
            rows.remove(number)
            if not rows:
                del self._endpoints[key]

    def _forget_host(self, number: int, hostname: str) -> None:
        if hostname:
            rows = self._workloads_by_host[hostname]
            rows.remove(number)
            if not rows:
                del self._workloads_by_host[hostname]

    def _put_service(self, service: Service, version: str, change: Change) -> None:
        key = f"{service.namespace}/{service.hostname}"
        body = _encode(service)
        old = self._services.get(key)
        if old is not None:
            if old.body == body:
                old.version = version
                return
            self._drop_service(old, change)
        else:
            self._service_count += 1
        vips, cidrs = _split_vips(service)
        entry = _ServiceEntry(
            key,
            self._service_count if old is None else old.order,
            body,
            version,
            service.namespace,
            service.hostname,
            service.canonical,
            service.visibility is Visibility.PUBLIC,
            vips,
            cidrs,
        )
        self._services[key] = entry
        for vip in vips:
            self._services_by_vip.setdefault(vip, []).append(entry)
        for network in {cidr[0] for cidr in cidrs}:
            self._cidr_services.setdefault(network, []).append(entry)
        self._services_by_host.setdefault(service.hostname, []).append(entry)
        self._touch_service(entry, change)

    def _drop_service(self, entry: _ServiceEntry, change: Change) -> None:
        del self._services[entry.key]
        for vip in entry.vips:
            _discard(self._services_by_vip, vip, entry)
        for network in {cidr[0] for cidr in entry.cidrs}:
            _discard(self._cidr_services, network, entry)
        _discard(self._services_by_host, entry.hostname, entry)
        self._touch_service(entry, change)

    def _touch_service(self, entry: _ServiceEntry, change: Change) -> None:
        self._touch(change, keys.service_key(entry.key), keys.host_key(entry.hostname))
        self._touch(change, *(keys.ip_key(network, ip) for network, ip in entry.vips))
        self._touch(change, *(keys.cidr_key(cidr[0]) for cidr in entry.cidrs))

    def _put_policy(self, name: str, policy: Authorization, version: str, change: Change) -> None:
        body = _encode(policy)
        old = self._policies.get(name)
        if old is not None:
            if old.body == body:
                old.version = version
                return
            self._remove_policy(name, change)
        namespace = None
        if policy.scope is PolicyScope.GLOBAL:
            namespace = ""
        elif policy.scope is PolicyScope.NAMESPACE:
            namespace = policy.namespace
        entry = _PolicyEntry(body, version, namespace)
        self._policies[name] = entry
        if namespace is not None:
            self._policies_by_namespace.setdefault(namespace, []).append(name)
            self._policies_by_namespace[namespace].sort()
        self._touch_policy(name, entry, change)

    def _remove_policy(self, name: str, change: Change) -> None:
        entry = self._policies.pop(name, None)
        if entry is None:
            change.unknown.append(name)
            return
        if entry.namespace is not None:
            _discard(self._policies_by_namespace, entry.namespace, name)
        self._touch_policy(name, entry, change)

    def _touch_policy(self, name: str, entry: _PolicyEntry, change: Change) -> None:
        self._touch(change, keys.policy_key(name))
        if entry.namespace is not None:
            self._touch(change, keys.policy_namespace_key(entry.namespace))

    # Questions

    @property
    def counts(self) -> dict[str, int]:
        return {
            "workloads": len(self._workloads),
            "services": len(self._services),
            "policies": len(self._policies),
        }

    def workloads(self) -> Iterator[Workload]:
        return iter(self._workloads)

    def services(self) -> Iterator[Service]:
        return (_decode_service(entry.body) for entry in self._services.values())

    def policies(self) -> Iterator[tuple[str, Authorization]]:
        """(resource name, policy)."""
        return ((name, self._decode_policy(entry.body)) for name, entry in self._policies.items())

    def staged_services(self) -> Collection[str]:
        """Keys of services that workloads belong to and that are not known (yet)."""
        return self._endpoints.keys() - self._services.keys()

    def workload(self, uid: str) -> Workload | None:
        number = self._workloads.find_uid(uid)
        return None if number is None else self._workloads[number]

    def workload_at(self, network: str, ip: bytes) -> Workload | None:
        """The workload at an address; host-network pods are never found so."""
        return self._workloads.find_ip(network, ip)

    def workload_by_host(self, namespace: str, hostname: str) -> Workload | None:
        rows = self._workloads_by_host.get(hostname, ())
        found = [w for w in (self._workloads[number] for number in rows) if w.namespace == namespace]
        return min(found, key=lambda w: w.uid, default=None)

    def local(self, namespace: str, name: str, service_account: str) -> Workload | None:
        """The record of a pod of this node; None until the control plane sent one that agrees in all three."""
        found = [w for w in self._workloads.find_name(namespace, name) if w.service_account == service_account]
        return min(found, key=lambda w: ("//Pod/" not in w.uid, w.uid), default=None)

    def service(self, key: str) -> Service | None:
        entry = self._services.get(key)
        return None if entry is None else _decode_service(entry.body)

    def service_at(self, network: str, ip: bytes, client_namespace: str) -> tuple[Service | None, bool]:
        """The service of a VIP as a client in `client_namespace` sees it, and whether the VIP is its own address.

        Among owners of the exact address: same namespace, then canonical, then the oldest. If there is none, ranges:
        same namespace, then the longest prefix, then canonical.
        """
        exact = [e for e in self._services_by_vip.get((network, ip), ()) if _visible(e, client_namespace)]
        if exact:
            return _decode_service(min(exact, key=lambda e: _preference(e, client_namespace)).body), True
        best: _ServiceEntry | None = None
        best_rank = (False, -1, False)
        number = int.from_bytes(ip, "big")
        for entry in self._cidr_services.get(network, ()):
            if not _visible(entry, client_namespace):
                continue
            for where, size, prefix, shift in entry.cidrs:
                rank = (entry.namespace == client_namespace, 8 * size - shift, entry.canonical)
                if where == network and size == len(ip) and number >> shift == prefix and rank > best_rank:
                    best, best_rank = entry, rank
        return None if best is None else _decode_service(best.body), False

    def service_by_host(self, hostname: str, client_namespace: str) -> Service | None:
        """The service of a hostname as a client in `client_namespace` sees it; same preferences as for a VIP."""
        entries = [e for e in self._services_by_host.get(hostname, ()) if _visible(e, client_namespace)]
        if not entries:
            return None
        return _decode_service(min(entries, key=lambda e: _preference(e, client_namespace)).body)

    def endpoints(self, key: str) -> Iterator[Workload]:
        """Workloads that name this service, healthy or not, in no particular order."""
        table = self._workloads
        return (table[number] for number in self._endpoints.get(key, ()))

    def policies_for(self, workload: Workload) -> list[tuple[str, Authorization]]:
        """(name, policy) that apply to a workload: its namespace's, the mesh's, those it names. Unknown ones are
        skipped: until the control plane has sent them there is nothing to enforce."""
        names = dict.fromkeys(self._policies_by_namespace.get(workload.namespace, ()) if workload.namespace else ())
        names.update(dict.fromkeys(self._policies_by_namespace.get("", ())))
        names.update(dict.fromkeys(workload.authorization_policies))
        return [(n, self._decode_policy(self._policies[n].body)) for n in names if n in self._policies]


def _indexed(workload: Workload) -> set[tuple[str, bytes]]:
    """The addresses a workload can be found at."""
    if workload.network_mode is NetworkMode.HOST_NETWORK:
        return set()
    return {(workload.network, ip) for ip in workload.addresses}


def _split_vips(service: Service) -> tuple[tuple[tuple[str, bytes], ...], tuple[tuple[str, int, int, int], ...]]:
    vips: dict[tuple[str, bytes], None] = {}
    cidrs = []
    for vip in service.addresses:
        bits = 8 * len(vip.address)
        if vip.length is None or vip.length == bits:
            vips[vip.network, vip.address] = None
        else:
            shift = bits - vip.length
            cidrs.append((vip.network, len(vip.address), int.from_bytes(vip.address, "big") >> shift, shift))
    return tuple(vips), tuple(cidrs)


def _visible(entry: _ServiceEntry, client_namespace: str) -> bool:
    return entry.public or entry.namespace == client_namespace


def _preference(entry: _ServiceEntry, client_namespace: str) -> tuple[bool, bool, int]:
    return entry.namespace != client_namespace, not entry.canonical, entry.order


def _discard(index: dict[_K, list[_V]], key: _K, value: _V) -> None:
    held = index[key]
    held.remove(value)
    if not held:
        del index[key]
