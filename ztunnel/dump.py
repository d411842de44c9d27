"""The `config_dump` shapes of workloads, services and policies, as `istioctl ztunnel-config` reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from meshcore.identity import DEFAULT_TRUST_DOMAIN
from meshcore.model import (
    Authorization,
    GatewayAddress,
    HealthPolicy,
    IPFamilies,
    IpMatch,
    LbMode,
    LbScope,
    LoadBalancing,
    Match,
    NetworkAddress,
    NetworkMode,
    PolicyAction,
    PolicyScope,
    Port,
    Service,
    ServiceAccountMatch,
    StringMatch,
    TunnelProtocol,
    TunnelTarget,
    Visibility,
    Workload,
    WorkloadStatus,
    WorkloadType,
)
from meshcore.records import ip_text
from ztunnel.decision import service_name
from ztunnel.ingest import DEFAULT_SERVICE_ACCOUNT
from ztunnel.state import ClusterState

Json: TypeAlias = dict[str, Any]

_STATUS: Final = {WorkloadStatus.HEALTHY: "Healthy", WorkloadStatus.UNHEALTHY: "Unhealthy"}
_PROTOCOL: Final = {TunnelProtocol.NONE: "TCP", TunnelProtocol.HBONE: "HBONE"}
_NETWORK_MODE: Final = {NetworkMode.STANDARD: "Standard", NetworkMode.HOST_NETWORK: "HostNetwork"}
_FAMILIES: Final = {IPFamilies.IPV4_ONLY: "IPv4", IPFamilies.IPV6_ONLY: "IPv6", IPFamilies.DUAL: "Dual"}
_TYPES: Final = {
    WorkloadType.DEPLOYMENT: "deployment",
    WorkloadType.CRONJOB: "cronjob",
    WorkloadType.POD: "pod",
    WorkloadType.JOB: "job",
}
_MODES: Final = {
    LbMode.UNSPECIFIED: "Standard",
    LbMode.STRICT: "Strict",
    LbMode.FAILOVER: "Failover",
    LbMode.PASSTHROUGH: "Passthrough",
}
_SCOPES: Final = {
    LbScope.REGION: "Region",
    LbScope.ZONE: "Zone",
    LbScope.SUBZONE: "Subzone",
    LbScope.NODE: "Node",
    LbScope.CLUSTER: "Cluster",
    LbScope.NETWORK: "Network",
}
_HEALTH: Final = {HealthPolicy.ONLY_HEALTHY: "OnlyHealthy", HealthPolicy.ALLOW_ALL: "AllowAll"}
_VISIBILITY: Final = {Visibility.PUBLIC: "Public", Visibility.NAMESPACE: "Namespace"}
_POLICY_SCOPES: Final = {
    PolicyScope.GLOBAL: "Global",
    PolicyScope.NAMESPACE: "Namespace",
    PolicyScope.WORKLOAD_SELECTOR: "WorkloadSelector",
}


def cluster(state: ClusterState) -> Json:
    """`workloads`, `services`, `policies` (sorted by key) and `stagedServices`."""
    services = sorted(state.services(), key=service_name)
    return {
        "workloads": [workload(w) for w in sorted(state.workloads(), key=lambda w: w.uid)],
        "services": [service(s, state.endpoints(service_name(s))) for s in services],
        "policies": [policy(p) for _, p in sorted(state.policies())],
        "stagedServices": {key: endpoints(key, state.endpoints(key)) for key in sorted(state.staged_services())},
    }


def workload(w: Workload) -> Json:
    found: Json = {
        "workloadIps": [ip_text(ip) for ip in w.addresses],
        "waypoint": _gateway(w.waypoint),
        "networkGateway": _gateway(w.network_gateway),
        "protocol": _PROTOCOL[w.tunnel_protocol],
        "networkMode": _NETWORK_MODE[w.network_mode],
        "uid": w.uid,
        "name": w.name,
        "namespace": w.namespace,
        "trustDomain": w.trust_domain if w.trust_domain != DEFAULT_TRUST_DOMAIN else "",
        "serviceAccount": w.service_account if w.service_account != DEFAULT_SERVICE_ACCOUNT else "",
        "network": w.network,
        "workloadName": w.workload_name,
        "workloadType": _TYPES[w.workload_type],
        "canonicalName": w.canonical_name,
        "canonicalRevision": w.canonical_revision,
        "hostname": w.hostname,
        "node": w.node,
        "nativeTunnel": w.native_tunnel,
        "applicationTunnel": None,
        "authorizationPolicies": list(w.authorization_policies),
        "status": _STATUS[w.status],
        "clusterId": w.cluster_id,
        "locality": None,
        "services": sorted(w.services),
        "capacity": w.capacity,
    }
    if w.application_tunnel is not None:
        name = "PROXY" if w.application_tunnel.protocol is TunnelTarget.PROXY else "NONE"
        found["applicationTunnel"] = {"protocol": name, "port": w.application_tunnel.port or None}
    if w.locality is not None:
        found["locality"] = {"region": w.locality.region, "zone": w.locality.zone, "subzone": w.locality.subzone}
    return _trimmed(found, keep=("workloadIps", "name", "namespace", "clusterId", "capacity"))


def service(s: Service, members: Iterable[Workload]) -> Json:
    exact = [vip for vip in s.addresses if not _is_cidr(vip)]
    found: Json = {
        "name": s.name,
        "namespace": s.namespace,
        "hostname": s.hostname,
        "vips": [_network_address(vip) for vip in exact],
        "cidrVips": [
            {"network": vip.network, "cidr": f"{ip_text(vip.address)}/{vip.length}"}
            for vip in s.addresses
            if _is_cidr(vip)
        ],
        "ports": _ports(s.ports),
        "endpoints": endpoints(service_name(s), members),
        "subjectAltNames": list(s.subject_alt_names),
        "waypoint": _gateway(s.waypoint),
        "weightedWaypoints": [
            {"destination": _destination(w.destination), "weight": w.weight} for w in s.weighted_waypoints
        ],
        "loadBalancer": _balancing(s.load_balancing),
        "ipFamilies": _FAMILIES.get(s.ip_families),
        "canonical": s.canonical,
        "visibility": _VISIBILITY[s.visibility],
    }
    kept = ("name", "namespace", "hostname", "vips", "ports", "endpoints", "subjectAltNames", "canonical")
    return _trimmed(found, keep=kept)


def endpoints(key: str, members: Iterable[Workload]) -> Json:
    """Endpoints of a service by workload uid; unhealthy ones are shown as such."""
    return {
        w.uid: {"workloadUid": w.uid, "port": _ports(w.services[key]), "status": _STATUS[w.status]}
        for w in sorted(members, key=lambda w: w.uid)
    }


def policy(p: Authorization) -> Json:
    return {
        "name": p.name,
        "namespace": p.namespace,
        "scope": _POLICY_SCOPES[p.scope],
        "action": "Allow" if p.action is PolicyAction.ALLOW else "Deny",
        "rules": [[[_match(m) for m in clause.matches] for clause in rule.clauses] for rule in p.rules],
        "dryRun": p.dry_run,
    }


def _match(m: Match) -> Json:
    return _trimmed(
        {
            "namespaces": [_string(one) for one in m.namespaces],
            "notNamespaces": [_string(one) for one in m.not_namespaces],
            "principals": [_string(one) for one in m.principals],
            "notPrincipals": [_string(one) for one in m.not_principals],
            "sourceIps": [_cidr(one) for one in m.source_ips],
            "notSourceIps": [_cidr(one) for one in m.not_source_ips],
            "destinationIps": [_cidr(one) for one in m.destination_ips],
            "notDestinationIps": [_cidr(one) for one in m.not_destination_ips],
            "destinationPorts": list(m.destination_ports),
            "notDestinationPorts": list(m.not_destination_ports),
            "serviceAccounts": [_account(one) for one in m.service_accounts],
            "notServiceAccounts": [_account(one) for one in m.not_service_accounts],
        }
    )


def _string(one: StringMatch) -> Json:
    if one.exact is not None:
        return {"Exact": one.exact}
    if one.prefix is not None:
        return {"Prefix": one.prefix}
    if one.suffix is not None:
        return {"Suffix": one.suffix}
    return {"Presence": []}


def _cidr(one: IpMatch) -> str:
    return f"{ip_text(one.address)}/{one.length}"


def _account(one: ServiceAccountMatch) -> Json:
    return {"namespace": one.namespace, "serviceAccount": one.service_account}


def _balancing(balancing: LoadBalancing | None) -> Json | None:
    if balancing is None:
        return None
    return {
        "routingPreferences": [_SCOPES[scope] for scope in balancing.routing_preference],
        "mode": _MODES[balancing.mode],
        "healthPolicy": _HEALTH[balancing.health_policy],
    }


def _gateway(reference: GatewayAddress | None) -> Json | None:
    if reference is None:
        return None
    return {"destination": _destination(reference), "hboneMtlsPort": reference.hbone_mtls_port}


def _destination(reference: GatewayAddress) -> str:
    if reference.hostname is not None:
        return f"{reference.hostname.namespace}/{reference.hostname.hostname}"
    return "" if reference.address is None else _network_address(reference.address)


def _network_address(address: NetworkAddress) -> str:
    return f"{address.network}/{ip_text(address.address)}"


def _is_cidr(address: NetworkAddress) -> bool:
    return address.length is not None and address.length != 8 * len(address.address)


def _ports(ports: Iterable[Port]) -> Json:
    return {str(port.service_port): port.target_port for port in ports}


def _trimmed(found: Json, keep: tuple[str, ...] = ()) -> Json:
    """Without the optional keys whose value says nothing."""
    return {key: value for key, value in found.items() if key in keep or value not in (None, "", [], {}, False)}
