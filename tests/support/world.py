"""A cluster in a few lines: builders for workloads, services and policies, and flows through it.

world = World()
world.pod("client", ip="10.0.0.1")
world.pod("server", ip="10.0.0.2", services={"default/web.example": {80: 8080}})
world.service("web.example", vips=["10.1.0.1"], ports={80: 8080})
decision = world.outbound("client", "10.1.0.1", 80)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Address,
    Authorization,
    Clause,
    GatewayAddress,
    IpMatch,
    LoadBalancing,
    Match,
    NamespacedHostname,
    NetworkAddress,
    PolicyAction,
    PolicyScope,
    Port,
    Rule,
    Service,
    StringMatch,
    TunnelProtocol,
    WeightedWaypoint,
    Workload,
)
from meshcore.records import Action, Direction, Endpoint, Upcall, UpcallFlag, Verdict
from ztunnel.decide import decide
from ztunnel.decision import Decision, LocalPod, Pending, Settings
from ztunnel.ids import IdSource
from ztunnel.labels import LabelSet
from ztunnel.state import Change, ClusterState

NO_IP = b"\0" * 16


class Resource(NamedTuple):
    name: str
    version: str
    body: bytes


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def encoded(thing: Workload | Service | Authorization) -> bytes:
    if isinstance(thing, Workload):
        return msgspec.msgpack.encode(Address(workload=thing))
    if isinstance(thing, Service):
        return msgspec.msgpack.encode(Address(service=thing))
    return msgspec.msgpack.encode(thing)


def resource_name(thing: Workload | Service | Authorization) -> str:
    if isinstance(thing, Workload):
        return thing.uid
    return f"{thing.namespace}/{thing.hostname if isinstance(thing, Service) else thing.name}"


def ports(mapping: Mapping[int, int]) -> tuple[Port, ...]:
    return tuple(Port(service, target) for service, target in mapping.items())


def by_host(host: str, namespace: str = "default", port: int = 15008) -> GatewayAddress:
    return GatewayAddress(hostname=NamespacedHostname(namespace, host), hbone_mtls_port=port)


def by_ip(text: str, network: str = "", port: int = 15008) -> GatewayAddress:
    return GatewayAddress(address=NetworkAddress(network, ip(text)), hbone_mtls_port=port)


def weighted(**weights: int) -> tuple[WeightedWaypoint, ...]:
    """`weighted(red=3)` refers to the waypoint service `red.example`."""
    return tuple(WeightedWaypoint(by_host(f"{name}.example"), weight) for name, weight in weights.items())


def cidr(text: str) -> IpMatch:
    network = ipaddress.ip_network(text)
    return IpMatch(network.network_address.packed, network.prefixlen)


def vip(text: str) -> NetworkAddress:
    """`10.0.0.1`, `10.0.0.0/8`, or either with `network|` before it."""
    network, _, address = text.rpartition("|")
    host, slash, length = address.partition("/")
    return NetworkAddress(network, ip(host), int(length) if slash else None)


def exactly(*values: str) -> tuple[StringMatch, ...]:
    return tuple(StringMatch(exact=value) for value in values)


class World:
    """A ClusterState with builders; every pod may also be a local one."""

    def __init__(self, network: str = "", settings: Settings | None = None) -> None:
        self.state = ClusterState(network)
        self.ids = IdSource()
        self.settings = settings or Settings()
        self.change = Change(set(), set(), {}, [])
        self.pods: dict[str, LocalPod] = {}
        self._version = 0

    # Resources. Each builder applies one push and leaves what it moved in `change`.

    def apply(self, *things: Workload | Service | Authorization, removed: Sequence[str] = ()) -> Change:
        self._version += 1
        kind = AUTHORIZATION_TYPE if things and isinstance(things[0], Authorization) else ADDRESS_TYPE
        resources = [Resource(resource_name(t), str(self._version), encoded(t)) for t in things]
        self.change = self.state.apply(kind, resources, removed)
        return self.change

    def remove_policy(self, name: str) -> Change:
        self.change = self.state.apply(AUTHORIZATION_TYPE, [], [name])
        return self.change

    def pod(
        self,
        name: str,
        *,
        ip: str | Sequence[str] = (),
        namespace: str = "default",
        services: Mapping[str, Mapping[int, int]] | None = None,
        hbone: bool = True,
        spoof: bool = False,
        **fields: Any,
    ) -> Workload:
        """A pod, HBONE unless told otherwise. Service keys without a slash are `default/KEY`."""
        ips = [ip] if isinstance(ip, str) else ip
        fields.setdefault("service_account", name)
        fields.setdefault("uid", f"Kubernetes//Pod/{namespace}/{name}")
        fields.setdefault("workload_name", name)
        fields.setdefault("canonical_name", name)
        workload = Workload(
            name=name,
            namespace=namespace,
            addresses=tuple(ipaddress.ip_address(one).packed for one in ips),
            tunnel_protocol=TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE,
            services={k if "/" in k else f"default/{k}": ports(v) for k, v in (services or {}).items()},
            **fields,
        )
        self.apply(workload)
        self.local(workload, spoof=spoof)
        return workload

    def local(self, workload: Workload, *, spoof: bool = False) -> LocalPod:
        """Make a workload's pod known as one of this node, whether or not its record was applied."""
        number = len(self.pods) + 1
        if workload.name in self.pods:
            number = self.pods[workload.name].pod_id
        pod = LocalPod(
            number,
            workload.uid,
            workload.name,
            workload.namespace,
            workload.service_account or "default",
            spoof,
            cert_id=100 + number,
        )
        self.pods[workload.name] = pod
        return pod

    def service(
        self,
        hostname: str,
        *,
        vips: Sequence[str] = (),
        ports: Mapping[int, int] | None = None,
        namespace: str = "default",
        lb: LoadBalancing | None = None,
        **fields: Any,
    ) -> Service:
        found = Service(
            name=hostname.partition(".")[0],
            namespace=namespace,
            hostname=hostname,
            addresses=tuple(vip(text) for text in vips),
            ports=tuple(Port(service, target) for service, target in (ports or {80: 8080}).items()),
            load_balancing=lb,
            **fields,
        )
        self.apply(found)
        return found

    def policy(
        self,
        name: str,
        *matches: Match,
        action: PolicyAction = PolicyAction.ALLOW,
        scope: PolicyScope = PolicyScope.NAMESPACE,
        namespace: str = "default",
        rules: tuple[Rule, ...] | None = None,
        dry_run: bool = False,
    ) -> Authorization:
        """Matches are alternatives of one clause; `rules` replaces them."""
        found = Authorization(
            name, namespace, scope, action, (Rule((Clause(matches),)),) if rules is None else rules, dry_run
        )
        self.apply(found)
        return found

    # Flows

    def outbound_upcall(self, pod: str, to: str, port: int, *, source: str = "10.0.0.1") -> Upcall:
        return self._upcall(pod, Direction.OUTBOUND, source, to, port)

    def inbound_upcall(
        self,
        pod: str,
        to: str,
        port: int,
        *,
        peer: str = "spiffe://cluster.local/ns/default/sa/client",
        source: str = "10.0.0.1",
        local: str | None = None,
        host: str = "",
        forwarded: str = "",
        baggage: str = "",
        gateway: bool = False,
    ) -> Upcall:
        """`to` is the authority's address; with `host` it is the connection's local address only."""
        call = self._upcall(pod, Direction.INBOUND_HBONE, source, to, port)
        return call._replace(
            flags=UpcallFlag.GATEWAY if gateway else UpcallFlag(0),
            dst_ip=NO_IP if host else call.dst_ip,
            local_ip=ip(local or to),
            peer=peer,
            host=host,
            forwarded=forwarded,
            baggage=baggage,
        )

    def plain_upcall(self, pod: str, to: str, port: int, *, source: str = "10.0.0.1") -> Upcall:
        return self._upcall(pod, Direction.INBOUND_PLAIN, source, to, port)

    def _upcall(self, pod: str, direction: Direction, source: str, to: str, port: int) -> Upcall:
        pod_id = self.pods[pod].pod_id
        return Upcall(7, pod_id, direction, UpcallFlag(0), ip(source), 40000, ip(to), port, NO_IP, "", "", "", "")

    def ask(self, upcall: Upcall) -> Decision | Pending:
        pod = next(pod for pod in self.pods.values() if pod.pod_id == upcall.pod_id)
        return decide(upcall, pod, self.state, self.ids, self.settings)

    def decide(self, upcall: Upcall) -> Decision:
        decision = self.ask(upcall)
        assert isinstance(decision, Decision), "the pod's own record is missing"
        return decision

    def outbound(self, pod: str, to: str, port: int, *, source: str = "10.0.0.1") -> Verdict:
        return self.decide(self.outbound_upcall(pod, to, port, source=source)).verdict

    def inbound(self, pod: str, to: str, port: int, **fields: Any) -> Verdict:
        return self.decide(self.inbound_upcall(pod, to, port, **fields)).verdict

    def plain(self, pod: str, to: str, port: int, *, source: str = "10.0.0.1") -> Verdict:
        return self.decide(self.plain_upcall(pod, to, port, source=source)).verdict

    # Reading verdicts

    def labels(self, verdict: Verdict, endpoint: int = 0) -> LabelSet:
        label_id = verdict.endpoints[endpoint].label_id if verdict.endpoints else verdict.label_id
        return self.ids.labels[label_id]

    def expected(self, endpoint: Endpoint) -> tuple[str, ...]:
        return self.ids.sans[endpoint.sans_id]


def destinations(verdict: Verdict) -> list[str]:
    """Where a verdict dials, as text, sorted."""
    return sorted(f"{ipaddress.ip_address(e.ip)}:{e.port}" for e in verdict.endpoints)


def shares(verdict: Verdict) -> dict[str, float]:
    """Share of connections per address."""
    total = sum(e.weight for e in verdict.endpoints)
    return {str(ipaddress.ip_address(e.ip)): e.weight / total for e in verdict.endpoints}


def refusal(verdict: Verdict) -> str:
    """The reason of a denial; fails if it is none."""
    assert verdict.action is Action.DENY
    return verdict.reason.decode()
