"""What a pushed resource must satisfy before it may change anything.

A resource that fails is refused by name and reason (a NACK); the version before it stays in
force. Upstream drops an unusable entry of a policy and truncates a port; here both are refused,
because what is left would mean something else than what was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from meshcore.errors import ConfigError
from meshcore.identity import DEFAULT_TRUST_DOMAIN
from meshcore.model import (
    Address,
    Authorization,
    GatewayAddress,
    IpMatch,
    LbScope,
    Match,
    NetworkAddress,
    Port,
    Service,
    StringMatch,
    Workload,
)

DEFAULT_SERVICE_ACCOUNT: Final = "default"
DEFAULT_CLUSTER: Final = "Kubernetes"
_PORT_MAX: Final = 65535
_WEIGHT_MAX: Final = 2**32 - 1

_address = msgspec.msgpack.Decoder(Address)
_authorization = msgspec.msgpack.Decoder(Authorization)


class ResourceError(ConfigError, code="config.resource"):
    """A resource of the control plane cannot be used."""


def address(body: bytes) -> Workload | Service:
    """Decode and check one Address; raises ResourceError."""
    try:
        found = _address.decode(body)
    except msgspec.DecodeError as error:
        raise ResourceError(f"cannot be decoded: {error}") from None
    if found.workload is not None and found.service is None:
        return _workload(found.workload)
    if found.service is not None and found.workload is None:
        return _service(found.service)
    raise ResourceError("must hold either a workload or a service")


def authorization(body: bytes) -> Authorization:
    """Decode and check one policy; raises ResourceError."""
    try:
        policy = _authorization.decode(body)
    except msgspec.DecodeError as error:
        raise ResourceError(f"cannot be decoded: {error}") from None
    for rule in policy.rules:
        for clause in rule.clauses:
            for match in clause.matches:
                _match(match)
    return policy


def _workload(workload: Workload) -> Workload:
    if not workload.uid:
        raise ResourceError("uid is empty")
    for ip in workload.addresses:
        _ip(ip, "addresses")
    for key, ports in workload.services.items():
        if "/" not in key:
            raise ResourceError(f"services: {key!r} is not of the form namespace/hostname")
        _ports(ports, f"services[{key}]")
    _gateway(workload.waypoint, "waypoint")
    _gateway(workload.network_gateway, "network_gateway")
    if workload.application_tunnel is not None:
        _port(workload.application_tunnel.port, "application_tunnel.port")
    _weight(workload.capacity, "capacity")
    if workload.trust_domain and workload.service_account and workload.cluster_id:
        return workload
    return msgspec.structs.replace(
        workload,
        trust_domain=workload.trust_domain or DEFAULT_TRUST_DOMAIN,
        service_account=workload.service_account or DEFAULT_SERVICE_ACCOUNT,
        cluster_id=workload.cluster_id or DEFAULT_CLUSTER,
    )


def _service(service: Service) -> Service:
    if not service.hostname:
        raise ResourceError("hostname is empty")
    for vip in service.addresses:
        _network_address(vip, "addresses")
    _ports(service.ports, "ports")
    _gateway(service.waypoint, "waypoint")
    for waypoint in service.weighted_waypoints:
        _gateway(waypoint.destination, "weighted_waypoints.destination")
        _weight(waypoint.weight, "weighted_waypoints.weight")
    balancing = service.load_balancing
    if balancing is not None and LbScope.UNSPECIFIED in balancing.routing_preference:
        raise ResourceError("load_balancing.routing_preference: UNSPECIFIED_SCOPE cannot be compared")
    return service


def _match(match: Match) -> None:
    for field in ("namespaces", "not_namespaces", "principals", "not_principals"):
        for wanted in getattr(match, field):
            _string(wanted, field)
    for field in ("source_ips", "not_source_ips", "destination_ips", "not_destination_ips"):
        for wanted in getattr(match, field):
            _cidr(wanted, field)
    for field in ("destination_ports", "not_destination_ports"):
        for port in getattr(match, field):
            _port(port, field)


def _string(wanted: StringMatch, field: str) -> None:
    kinds = (wanted.exact is not None) + (wanted.prefix is not None) + (wanted.suffix is not None) + wanted.presence
    if kinds != 1:
        raise ResourceError(f"{field}: a string match needs one of exact, prefix, suffix, presence and has {kinds}")


def _cidr(wanted: IpMatch, field: str) -> None:
    _ip(wanted.address, field)
    _prefix_length(wanted.address, wanted.length, field)


def _gateway(gateway: GatewayAddress | None, field: str) -> None:
    if gateway is None:
        return
    if (gateway.hostname is None) == (gateway.address is None):
        raise ResourceError(f"{field}: destination must be a hostname or an address")
    if gateway.address is not None:
        _network_address(gateway.address, field)
    _port(gateway.hbone_mtls_port, f"{field}.hbone_mtls_port")


def _network_address(found: NetworkAddress, field: str) -> None:
    _ip(found.address, field)
    if found.length is not None:
        _prefix_length(found.address, found.length, field)


def _ip(ip: bytes, field: str) -> None:
    if len(ip) not in (4, 16):
        raise ResourceError(f"{field}: an IP address has 4 or 16 bytes, not {len(ip)}")


def _prefix_length(ip: bytes, length: int, field: str) -> None:
    if not 0 <= length <= 8 * len(ip):
        raise ResourceError(f"{field}: prefix length {length} is out of range for an address of {len(ip)} bytes")


def _ports(ports: Iterable[Port], field: str) -> None:
    for port in ports:
        _port(port.service_port, field)
        _port(port.target_port, field)


def _port(port: int, field: str) -> None:
    if not 0 <= port <= _PORT_MAX:
        raise ResourceError(f"{field}: port {port} is out of range")


def _weight(weight: int, field: str) -> None:
    if not 0 <= weight <= _WEIGHT_MAX:
        raise ResourceError(f"{field}: {weight} is out of range")
