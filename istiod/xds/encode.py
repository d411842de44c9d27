"""From our models to Istio's protobuf messages. Enumerations already carry the protobuf numbers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

from istiod.xds.descriptors import message
from meshcore import model
from meshcore.errors import ConfigError

_Workload: Final = message("istio.workload.Workload")
_Service: Final = message("istio.workload.Service")
_Address: Final = message("istio.workload.Address")
_Gateway: Final = message("istio.workload.GatewayAddress")
_Network: Final = message("istio.workload.NetworkAddress")
_Hostname: Final = message("istio.workload.NamespacedHostname")
_Weighted: Final = message("istio.workload.WeightedWaypoint")
_PortList: Final = message("istio.workload.PortList")
_Port: Final = message("istio.workload.Port")
_Balancing: Final = message("istio.workload.LoadBalancing")
_Locality: Final = message("istio.workload.Locality")
_Tunnel: Final = message("istio.workload.ApplicationTunnel")
_Authorization: Final = message("istio.security.Authorization")
_Rule: Final = message("istio.security.Rule")
_Clause: Final = message("istio.security.Clause")
_Match: Final = message("istio.security.Match")
_Cidr: Final = message("istio.security.Address")
_Account: Final = message("istio.security.ServiceAccountMatch")
_String: Final = message("istio.security.StringMatch")
_Empty: Final = message("google.protobuf.Empty")
_UInt32: Final = message("google.protobuf.UInt32Value")


def encode_address(address: model.Address) -> bytes:
    """One branch must be set; raises ConfigError otherwise."""
    if address.workload is not None:
        return _bytes(_Address(workload=_workload(address.workload)))
    if address.service is not None:
        return _bytes(_Address(service=_service(address.service)))
    raise ConfigError("an address is neither a workload nor a service")


def encode_workload(workload: model.Workload) -> bytes:
    return _bytes(_workload(workload))


def encode_service(service: model.Service) -> bytes:
    return _bytes(_service(service))


def encode_authorization(policy: model.Authorization) -> bytes:
    return _bytes(
        _Authorization(
            name=policy.name,
            namespace=policy.namespace,
            scope=policy.scope,
            action=policy.action,
            rules=[
                _Rule(clauses=[_Clause(matches=[_match(match) for match in clause.matches]) for clause in rule.clauses])
                for rule in policy.rules
            ],
            dry_run=policy.dry_run,
        )
    )


def aliases_of(address: model.Address) -> tuple[str, ...]:
    """The other names of an address: NETWORK/IP, with a prefix length behind it if it is a range."""
    if address.workload is not None:
        network = address.workload.network
        return tuple(f"{network}/{_ip(value)}" for value in address.workload.addresses)
    if address.service is not None:
        return tuple(
            f"{vip.network}/{_ip(vip.address)}" + (f"/{vip.length}" if vip.length is not None else "")
            for vip in address.service.addresses
        )
    return ()


def _bytes(built: Any) -> bytes:
    # The order of map entries must not change: the version is a hash of the bytes.
    data: bytes = built.SerializeToString(deterministic=True)
    return data


def _ip(value: bytes) -> str:
    return str(ipaddress.ip_address(value)) if len(value) in (4, 16) else value.hex()


def _workload(workload: model.Workload) -> Any:
    tunnel = workload.application_tunnel
    return _Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        addresses=workload.addresses,
        network=workload.network,
        tunnel_protocol=workload.tunnel_protocol,
        trust_domain=workload.trust_domain,
        service_account=workload.service_account,
        waypoint=_gateway(workload.waypoint),
        node=workload.node,
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        workload_type=workload.workload_type,
        workload_name=workload.workload_name,
        native_tunnel=workload.native_tunnel,
        authorization_policies=workload.authorization_policies,
        status=workload.status,
        cluster_id=workload.cluster_id,
        network_gateway=_gateway(workload.network_gateway),
        hostname=workload.hostname,
        services={key: _PortList(ports=_ports(ports)) for key, ports in workload.services.items()},
        application_tunnel=None if tunnel is None else _Tunnel(protocol=tunnel.protocol, port=tunnel.port),
        locality=_locality(workload.locality),
        network_mode=workload.network_mode,
        # Absent means one, and zero means that no new connections are wanted.
        capacity=None if workload.capacity == 1 else _UInt32(value=workload.capacity),
    )


def _service(service: model.Service) -> Any:
    balancing = service.load_balancing
    return _Service(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        addresses=[_network(address) for address in service.addresses],
        ports=_ports(service.ports),
        subject_alt_names=service.subject_alt_names,
        waypoint=_gateway(service.waypoint),
        load_balancing=None
        if balancing is None
        else _Balancing(
            routing_preference=balancing.routing_preference,
            mode=balancing.mode,
            health_policy=balancing.health_policy,
        ),
        ip_families=service.ip_families,
        canonical=service.canonical,
        ingress_use_waypoint=service.ingress_use_waypoint,
        weighted_waypoints=[
            _Weighted(destination=_gateway(one.destination), weight=one.weight) for one in service.weighted_waypoints
        ],
        visibility=service.visibility,
    )


def _gateway(gateway: model.GatewayAddress | None) -> Any:
    if gateway is None:
        return None
    hostname, address = gateway.hostname, gateway.address
    return _Gateway(
        hostname=None if hostname is None else _Hostname(namespace=hostname.namespace, hostname=hostname.hostname),
        address=None if address is None else _network(address),
        hbone_mtls_port=gateway.hbone_mtls_port,
    )


def _network(address: model.NetworkAddress) -> Any:
    return _Network(network=address.network, address=address.address, length=address.length)


def _ports(ports: Iterable[model.Port]) -> list[Any]:
    return [
        _Port(service_port=port.service_port, target_port=port.target_port, app_protocol=port.app_protocol)
        for port in ports
    ]


def _locality(locality: model.Locality | None) -> Any:
    if locality is None:
        return None
    return _Locality(region=locality.region, zone=locality.zone, subzone=locality.subzone)


def _match(match: model.Match) -> Any:
    return _Match(
        namespaces=_strings(match.namespaces),
        not_namespaces=_strings(match.not_namespaces),
        principals=_strings(match.principals),
        not_principals=_strings(match.not_principals),
        source_ips=_cidrs(match.source_ips),
        not_source_ips=_cidrs(match.not_source_ips),
        destination_ips=_cidrs(match.destination_ips),
        not_destination_ips=_cidrs(match.not_destination_ips),
        destination_ports=match.destination_ports,
        not_destination_ports=match.not_destination_ports,
        service_accounts=_accounts(match.service_accounts),
        not_service_accounts=_accounts(match.not_service_accounts),
    )


def _strings(matches: Iterable[model.StringMatch]) -> list[Any]:
    return [
        _String(presence=_Empty()) if one.presence else _String(exact=one.exact, prefix=one.prefix, suffix=one.suffix)
        for one in matches
    ]


def _cidrs(matches: Iterable[model.IpMatch]) -> list[Any]:
    return [_Cidr(address=one.address, length=one.length) for one in matches]


def _accounts(matches: Iterable[model.ServiceAccountMatch]) -> list[Any]:
    return [_Account(namespace=one.namespace, service_account=one.service_account) for one in matches]
