"""Which workloads may serve a connection, on which address and port, and with which weight."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Final, NamedTuple

from meshcore.model import (
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    Port,
    Service,
    Workload,
    WorkloadStatus,
)
from ztunnel.decision import View, service_name

ENDPOINTS_MAX: Final = 256  # per verdict; 32 bytes each on the wire to a worker
WEIGHT_MAX: Final = 65535  # u16 in the record

_ONLY: Final = {IPFamilies.IPV4_ONLY: 4, IPFamilies.IPV6_ONLY: 16}  # bytes of an address


class Choice(NamedTuple):
    """A workload that may serve: dial `ip`; `port` is the port of its application (or of a waypoint's listener)."""

    workload: Workload
    service: Service | None
    """Through which it was found; its SANs are accepted too."""
    ip: bytes
    port: int
    weight: float


class Pick(NamedTuple):
    """The outcome of a selection. No choices means no healthy upstream; the rest says why."""

    choices: tuple[Choice, ...] = ()
    service: Service | None = None
    passthrough: bool = False
    """The service's load balancing says: go where the client said."""
    remote: Workload | None = None
    """One of those left out because they are on another network."""
    unresolved: Workload | None = None
    """One of those left out because they have a hostname and no address."""


class Want(NamedTuple):
    """What is asked of an upstream. `ip` is the wanted address, or shows the wanted family."""

    ip: bytes
    port: int
    waypoint: bool = False


def pick_upstream(view: View, source: Workload, network: str, want: Want) -> Pick | None:
    """Who answers at `want.ip`: a service of that VIP before a workload of that address; None if nobody does."""
    service = view.service_at(network, want.ip, source.namespace)
    if service is not None:
        return pick_service(view, source, service, want)
    workload = view.workload_at(network, want.ip)
    if workload is None:
        return None
    return pick_workload(source, workload, want)


def pick_workload(source: Workload, workload: Workload, want: Want) -> Pick:
    """One workload, addressed as itself: its port is the one asked for, its health is not considered."""
    if workload.network != source.network:
        return Pick(remote=workload)
    ip = _address(workload, IPFamilies.AUTOMATIC, want.ip)
    if ip is None:
        return Pick(unresolved=workload)
    return Pick((Choice(workload, None, ip, want.port, 1),))


def pick_service(view: View, source: Workload, service: Service, want: Want) -> Pick:
    """The endpoints of a service that qualify, weighted by capacity."""
    balancing = service.load_balancing or LoadBalancing()
    if balancing.mode is LbMode.PASSTHROUGH:
        return Pick(service=service, passthrough=True)
    key = service_name(service)
    service_ports = _port_map(service.ports)
    remote = unresolved = None
    found: list[Choice] = []
    for workload in view.endpoints(service):
        if workload.status is not WorkloadStatus.HEALTHY and balancing.health_policy is not HealthPolicy.ALLOW_ALL:
            continue
        port = resolve_port(workload, service_ports, workload.services[key], want)
        if not port:
            continue
        if workload.network != source.network:
            if workload.addresses or workload.hostname or workload.network_gateway is not None:
                remote = workload
            continue
        ip = _address(workload, service.ip_families, want.ip)
        if ip is not None:
            found.append(Choice(workload, service, ip, port, workload.capacity))
        elif workload.hostname:
            unresolved = workload
    found = _by_locality(source, balancing, found)
    choices = _subset(source.uid, [choice for choice in found if choice.weight])
    return Pick(tuple(choices), service, remote=remote, unresolved=unresolved)


def resolve_port(workload: Workload, service_ports: dict[int, int], own_ports: Sequence[Port], want: Want) -> int:
    """The application port behind service port `want.port`, or 0 if this endpoint does not serve it."""
    own = next((port.target_port for port in own_ports if port.service_port == want.port), 0)
    declared = service_ports.get(want.port)
    tunnel = workload.application_tunnel
    if declared is None and not (want.waypoint and tunnel is not None):
        return 0
    if own or declared:
        return own or declared or 0
    # Target port 0 is a named port: only the endpoint knows. A waypoint behind a tunnel takes every port.
    if tunnel is not None and tunnel.port and declared is None:
        return want.port
    return 0


def service_port(workload: Workload, service: Service, port: int) -> int:
    """Inbound: the port of this workload behind a service port; 0 if there is none."""
    own = _port_map(workload.services.get(service_name(service), ()))
    return own.get(port, 0) or _port_map(service.ports).get(port, 0)


def spread(groups: Iterable[tuple[int, Sequence[Choice]]]) -> tuple[Choice, ...]:
    """Merge groups so that each gets its share by weight, and inside a group each choice its own."""
    merged: list[Choice] = []
    for weight, choices in groups:
        total = sum(choice.weight for choice in choices)
        merged += (choice._replace(weight=weight * choice.weight / total) for choice in choices if choice.weight)
    return tuple(nlargest(ENDPOINTS_MAX, merged, key=lambda choice: choice.weight))


def scale(weights: Sequence[float]) -> list[int]:
    """Weights that fit the record, in proportion; nothing that had a weight gets none."""
    top = max(weights, default=0)
    if top <= WEIGHT_MAX and all(weight == int(weight) for weight in weights):
        return [int(weight) for weight in weights]
    return [max(1, round(weight * WEIGHT_MAX / top)) for weight in weights]


def _port_map(ports: Sequence[Port]) -> dict[int, int]:
    return {port.service_port: port.target_port for port in ports}


def _address(workload: Workload, families: IPFamilies, want: bytes) -> bytes | None:
    """The wanted address if it is the workload's; else one that the service's families allow, of the wanted family
    if there is one."""
    if want in workload.addresses:
        return want
    usable = workload.addresses
    if families in _ONLY:
        usable = tuple(ip for ip in usable if len(ip) == _ONLY[families])
    return next((ip for ip in usable if len(ip) == len(want)), usable[0] if usable else None)


def _by_locality(source: Workload, balancing: LoadBalancing, choices: list[Choice]) -> list[Choice]:
    scopes = balancing.routing_preference
    if balancing.mode is LbMode.STRICT:
        return [c for c in choices if all(_same(scope, source, c.workload) for scope in scopes)]
    if balancing.mode is LbMode.FAILOVER:
        ranks = [_rank(scopes, source, c.workload) for c in choices]
        best = max(ranks, default=0)
        return [c for c, rank in zip(choices, ranks, strict=True) if rank == best]
    return choices


def _rank(scopes: Sequence[LbScope], source: Workload, workload: Workload) -> int:
    """How many leading scopes agree. NETWORK in first place is special: a mismatch there does not end the count,
    a match outranks everything else."""
    rank = 0
    for i, scope in enumerate(scopes):
        if _same(scope, source, workload):
            rank += len(scopes) if i == 0 and scope is LbScope.NETWORK else 1
        elif i or scope is not LbScope.NETWORK:
            break
    return rank


def _same(scope: LbScope, source: Workload, workload: Workload) -> bool:
    if scope is LbScope.NODE:
        return source.node == workload.node
    if scope is LbScope.CLUSTER:
        return source.cluster_id == workload.cluster_id
    if scope is LbScope.NETWORK:
        return source.network == workload.network
    ours, theirs = source.locality, workload.locality
    if scope is LbScope.REGION:
        return (ours.region if ours else "") == (theirs.region if theirs else "")
    if scope is LbScope.ZONE:
        return (ours.zone if ours else "") == (theirs.zone if theirs else "")
    return (ours.subzone if ours else "") == (theirs.subzone if theirs else "")


def _subset(salt: str, choices: list[Choice]) -> list[Choice]:
    """At most ENDPOINTS_MAX choices, in a fixed order; the same for the same source, different between sources.

    Priority sampling (Duffield, Lund, Thorup, 2007): keep those with the largest weight/u, u in (0, 1] from a hash, and
    give those below the first one left out that one's priority for weight. Each choice keeps its share on average.
    """
    if len(choices) <= ENDPOINTS_MAX:
        return sorted(choices, key=lambda choice: choice.workload.uid)
    scored = [
        (choice.weight * 2**32 / (zlib.crc32(f"{salt}\0{choice.workload.uid}".encode()) + 1), choice)
        for choice in choices
    ]
    top = nlargest(ENDPOINTS_MAX + 1, scored, key=lambda pair: (pair[0], pair[1].workload.uid))
    threshold = top.pop()[0]
    kept = [choice._replace(weight=max(choice.weight, threshold)) for _, choice in top]
    return sorted(kept, key=lambda choice: choice.workload.uid)
