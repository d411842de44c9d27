"""Names of the things a decision can depend on.

A decision records the key of everything it looked up, found or not; a change reports the key of
everything it moved. A verdict is recomputed when the two meet, so both sides build keys here.
"""

from __future__ import annotations

from typing import TypeAlias

Key: TypeAlias = tuple[str | bytes | int, ...]


def ip_key(network: str, ip: bytes) -> Key:
    """What stands at an address: the workloads there, and the services with that exact VIP."""
    return ("ip", network, ip)


def cidr_key(network: str) -> Key:
    """The services of a network whose VIP is a range: consulted when no exact VIP is found."""
    return ("cidr", network)


def workload_key(uid: str) -> Key:
    return ("workload", uid)


def local_key(namespace: str, name: str) -> Key:
    """A pod of this node as WDS describes it; found by name, never by IP."""
    return ("local", namespace, name)


def service_key(key: str) -> Key:
    """A service, and its endpoints. `key` is `namespace/hostname`."""
    return ("service", key)


def host_key(hostname: str) -> Key:
    """Every service and workload of that hostname, in any namespace."""
    return ("host", hostname)


def policy_key(key: str) -> Key:
    """One policy, by its resource name `namespace/name`."""
    return ("policy", key)


def policy_namespace_key(namespace: str) -> Key:
    """The set of policies that apply to a whole namespace; "" stands for the mesh."""
    return ("policy-ns", namespace)


def certificate_key(cert_id: int) -> Key:
    """The first certificate of an identity; only upcalls that wait for it depend on it."""
    return ("certificate", cert_id)


def pod_key(pod_id: int) -> Key:
    return ("pod", pod_id)
