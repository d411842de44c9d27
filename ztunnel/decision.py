"""What goes into a decision and what comes out of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from meshcore.errors import MeshError
from meshcore.model import Authorization, Service, Workload
from meshcore.records import Flag, Verdict, ip_text
from ztunnel import keys
from ztunnel.keys import Key
from ztunnel.state import ClusterState

OUTBOUND_PORT: Final = 15001
INBOUND_PLAIN_PORT: Final = 15006
HBONE_LISTENER_PORT: Final = 15008
SOCKS5_PORT: Final = 15080

ILLEGAL_PORTS: Final = frozenset({OUTBOUND_PORT, INBOUND_PLAIN_PORT, HBONE_LISTENER_PORT})
"""Our own listeners: a connection sent there would come back to us (upstream's `illegal_ports`)."""

RECURSIVE_CALL: Final = "attempted recursive call to ourselves"
NO_LOCAL_WORKLOAD: Final = "failed to fetch information about local workload"

HTTP_BAD_REQUEST: Final = 400
HTTP_UNAUTHORIZED: Final = 401
HTTP_UNAVAILABLE: Final = 503


class LocalPod(NamedTuple):
    """A pod of this node whose traffic is captured. `cert_id` is the identity it presents."""

    pod_id: int
    uid: str
    name: str
    namespace: str
    service_account: str
    spoof: bool
    cert_id: int = 0


class Settings(NamedTuple):
    """The options that decisions read; names as in the environment."""

    socks5: bool = False
    """UNSTABLE_ENABLE_SOCKS5: makes 15080 one more port of ours."""
    response_baggage: bool = True
    """ENABLE_RESPONSE_BAGGAGE: send ours with the 200, believe the client's for labels."""
    localhost_app_tunnel: bool = True
    """LOCALHOST_APP_TUNNEL: dial an application tunnel on the loopback address."""

    @property
    def illegal_ports(self) -> frozenset[int]:
        return ILLEGAL_PORTS | {SOCKS5_PORT} if self.socks5 else ILLEGAL_PORTS


class Decision(NamedTuple):
    """`verdict.mask` is what it consulted of the upcall, `deps` what it consulted of the cluster."""

    verdict: Verdict
    deps: frozenset[Key]
    notes: tuple[str, ...] = ()
    """What dry-run policies would have done."""


class Pending(NamedTuple):
    """The pod's own record has not arrived yet. Ask again when one of `deps` moves, until the upcall times out."""

    deps: frozenset[Key]


class Refused(MeshError, code="decision.refused"):
    """A connection cannot be routed or is not allowed. `flag` NONE: not counted, the log alone tells."""

    def __init__(self, reason: str, *, status: int = 0, flag: Flag = Flag.NONE) -> None:
        super().__init__(reason)
        self.status = status
        self.flag = flag


class View:
    """The cluster as one decision saw it: every question goes through here and leaves its key in `deps`."""

    def __init__(self, state: ClusterState, pod: LocalPod) -> None:
        self._state = state
        self._pod = pod
        self.deps: set[Key] = {keys.pod_key(pod.pod_id)}

    @property
    def network(self) -> str:
        return self._state.network

    def local(self) -> Workload | None:
        pod = self._pod
        self.deps.add(keys.local_key(pod.namespace, pod.name))
        return self._state.local(pod.namespace, pod.name, pod.service_account)

    def workload_at(self, network: str, ip: bytes) -> Workload | None:
        self.deps.add(keys.ip_key(network, ip))
        return self._state.workload_at(network, ip)

    def workload_by_host(self, namespace: str, hostname: str) -> Workload | None:
        self.deps.add(keys.host_key(hostname))
        return self._state.workload_by_host(namespace, hostname)

    def service(self, key: str) -> Service | None:
        self.deps.add(keys.service_key(key))
        return self._state.service(key)

    def service_at(self, network: str, ip: bytes, client_namespace: str) -> Service | None:
        found, exact = self._state.service_at(network, ip, client_namespace)
        self.deps.add(keys.ip_key(network, ip))
        if not exact:
            self.deps.add(keys.cidr_key(network))
        return found

    def service_by_host(self, hostname: str, client_namespace: str) -> Service | None:
        self.deps.add(keys.host_key(hostname))
        return self._state.service_by_host(hostname, client_namespace)

    def endpoints(self, service: Service) -> list[Workload]:
        key = service_name(service)
        self.deps.add(keys.service_key(key))
        return list(self._state.endpoints(key))

    def policies(self, workload: Workload) -> list[tuple[str, Authorization]]:
        self.deps.add(keys.policy_namespace_key(""))
        self.deps.add(keys.policy_namespace_key(workload.namespace))
        self.deps.update(keys.policy_key(name) for name in workload.authorization_policies)
        return self._state.policies_for(workload)


def service_name(service: Service) -> str:
    """The resource name, which is also the key in `Workload.services`."""
    return f"{service.namespace}/{service.hostname}"


def address_text(ip: bytes, port: int) -> str:
    text = ip_text(ip)
    return f"[{text}]:{port}" if len(ip) == 16 else f"{text}:{port}"


def is_loopback(ip: bytes) -> bool:
    """127.0.0.0/8 and ::1."""
    return ip[0] == 127 if len(ip) == 4 else ip == b"\0" * 15 + b"\1"
