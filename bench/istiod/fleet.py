"""A cluster as an API server shows it: namespaces, nodes, services, their slices and pods, and what happens to pods."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

Obj = dict[str, Any]

CLUSTER: Final = "Kubernetes"
DOMAIN: Final = "cluster.local"
ROOT_NAMESPACE: Final = "istio-system"
WAYPOINT: Final = "waypoint"
PORT: Final = 80
TARGET_PORT: Final = 8080
_PODS: Final = ipaddress.ip_address("10.128.0.0")
_SERVICES: Final = ipaddress.ip_address("10.96.1.0")
_WAYPOINTS: Final = ipaddress.ip_address("10.96.128.0")
_HASHES: Final = ("6d4cf56db6", "7c9b8f5d44")
"""Of a ReplicaSet's pod template: before and after a rollout."""
_CREATED: Final = "2026-11-01T08:00:00Z"


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything there is. Every service has a service account and, as far as they suffice, pods."""

    pods: int = 10_000
    namespaces: int = 50
    nodes: int = 100
    services: int = 1_000
    ztunnels: int = 100
    """Clients that hold everything."""
    waypoints: int = 50
    """Clients that hold what belongs to one namespace."""

    def scaled(self, pods: int) -> Sizes:
        """The same clients and nodes over a cluster of so many pods, with as many pods for each service."""
        services = max(1, self.services * pods // self.pods)
        return msgspec.structs.replace(
            self, pods=pods, services=services, namespaces=max(1, min(self.namespaces, services))
        )


class Member(NamedTuple):
    """A pod as its service sees it."""

    name: str
    ip: str
    node: str
    ready: bool = True


class Fleet:
    """The objects of a cluster of these sizes. Methods that change a pod change what later calls return."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.members: list[list[Member]] = [[] for _ in range(sizes.services)]
        self.others: set[str] = set()
        """Names of addresses that are there without our doing."""
        for number in range(sizes.pods):
            service = number % sizes.services
            self.members[service].append(self._member(service, number, _HASHES[0], number))

    def _member(self, service: int, number: int, template: str, address: int) -> Member:
        return Member(
            f"{self.service_name(service)}-{template}-{number:05}",
            str(_PODS + address + 1),
            self.node_name(number % self.sizes.nodes),
        )

    def node_name(self, number: int) -> str:
        return f"node-{number:03}"

    def namespace_name(self, number: int) -> str:
        return f"team-{number:02}"

    def namespace_of(self, service: int) -> str:
        return self.namespace_name(service % self.sizes.namespaces)

    def service_name(self, service: int) -> str:
        return f"app-{service:04}"

    def service_key(self, service: int) -> str:
        """The name of the service's resource."""
        return f"{self.namespace_of(service)}/{self.service_name(service)}.{self.namespace_of(service)}.svc.{DOMAIN}"

    def uid(self, service: int, member: Member) -> str:
        """The name of the pod's resource."""
        return f"{CLUSTER}//Pod/{self.namespace_of(service)}/{member.name}"

    def waypoint_key(self, namespace: str) -> str:
        """The name of the resource of the Service in front of a namespace's waypoint."""
        return f"{namespace}/{WAYPOINT}.{namespace}.svc.{DOMAIN}"

    def names(self) -> set[str]:
        """The name of every address that istiod has to publish for this cluster as it is now."""
        found = self.others | {
            self.waypoint_key(self.namespace_name(number)) for number in range(self.sizes.namespaces)
        }
        for service, members in enumerate(self.members):
            found.add(self.service_key(service))
            found.update(self.uid(service, member) for member in members)
        return found

    def names_of(self, namespace: str) -> set[str]:
        """The part of `names` that a waypoint of this namespace needs: its services and the pods behind them."""
        found = set()
        for service, members in enumerate(self.members):
            if self.namespace_of(service) == namespace:
                found.add(self.service_key(service))
                found.update(self.uid(service, member) for member in members)
        return found

    def set_ready(self, service: int, position: int, ready: bool) -> Member:
        """A pod of a service becomes ready, or not -> it."""
        member = self.members[service][position]._replace(ready=ready)
        self.members[service][position] = member
        return member

    def successor(self, service: int, position: int) -> Member:
        """The pod that a rollout would start in place of this one; nothing changes yet."""
        held = self.members[service][position]
        number = int(held.name.rpartition("-")[2])
        return self._member(service, number, _HASHES[1], self.sizes.pods + number)

    def add(self, service: int, member: Member) -> None:
        self.members[service].append(member)

    def drop(self, service: int, member: Member) -> None:
        self.members[service] = [one for one in self.members[service] if one.name != member.name]

    def objects(self) -> Iterator[Obj]:
        """Everything, each object after the namespace it is in."""
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT_NAMESPACE}}
        for number in range(self.sizes.namespaces):
            yield from self._namespace(self.namespace_name(number), number)
        for number in range(self.sizes.nodes):
            yield _node(self.node_name(number), number)
        for service in range(self.sizes.services):
            yield from self._service(service)
            yield self.slice_of(service)
            for member in self.members[service]:
                yield self.pod(service, member)

    def pod(self, service: int, member: Member) -> Obj:
        """A pod about as large as an API server tells of it."""
        name, namespace = self.service_name(service), self.namespace_of(service)
        template = member.name.split("-")[-2]
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": f"{name}-{template}",
            "uid": "5c3f0a52-6d34-4b8e-9c53-0a8f4b1d7e11",
            "controller": True,
            "blockOwnerDeletion": True,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": member.name,
                "namespace": namespace,
                "generateName": f"{name}-{template}-",
                "labels": {"app": name, "version": "v1", "pod-template-hash": template},
                "annotations": {"ambient.istio.io/redirection": "enabled", "prometheus.io/scrape": "true"},
                "ownerReferences": [owner],
            },
            "spec": _pod_spec(name, member.node),
            "status": self.pod_status(member),
        }

    def pod_status(self, member: Member) -> Obj:
        state = "True" if member.ready else "False"
        conditions = {
            "PodReadyToStartContainers": "True",
            "Initialized": "True",
            "Ready": state,
            "ContainersReady": state,
            "PodScheduled": "True",
        }
        return {
            "phase": "Running",
            "hostIP": "192.168.0.1",
            "podIP": member.ip,
            "podIPs": [{"ip": member.ip}],
            "qosClass": "Burstable",
            "startTime": _CREATED,
            "conditions": [
                {"type": name, "status": value, "lastTransitionTime": _CREATED} for name, value in conditions.items()
            ],
            "containerStatuses": [
                {
                    "name": "app",
                    "image": "registry.example/app:1.0",
                    "imageID": "registry.example/app@sha256:" + "0123456789abcdef" * 4,
                    "containerID": "containerd://" + "fedcba9876543210" * 4,
                    "ready": member.ready,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": _CREATED}},
                    "lastState": {},
                }
            ],
        }

    def slice_of(self, service: int) -> Obj:
        """The EndpointSlice of a service, with all its pods as they are."""
        name, namespace = self.service_name(service), self.namespace_of(service)
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-x7k2p",
                "namespace": namespace,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [member.ip],
                    "nodeName": member.node,
                    "conditions": {"ready": member.ready, "serving": member.ready, "terminating": False},
                    "targetRef": {"kind": "Pod", "namespace": namespace, "name": member.name},
                }
                for member in self.members[service]
            ],
        }

    def _namespace(self, name: str, number: int) -> Iterator[Obj]:
        labels = {
            "istio.io/dataplane-mode": "ambient",
            "istio.io/use-waypoint": WAYPOINT,
            "kubernetes.io/metadata.name": name,
        }
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        managed = {"gateway.istio.io/managed": "istio.io-mesh-controller"}
        yield _service_object(name, WAYPOINT, str(_WAYPOINTS + number), [{"name": "mesh", "port": 15008}], {}, managed)
        yield {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": WAYPOINT, "namespace": name, "labels": {"istio.io/waypoint-for": "service"}},
            "spec": {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
            "status": {"addresses": [{"type": "Hostname", "value": f"{WAYPOINT}.{name}.svc.{DOMAIN}"}]},
        }
        yield {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "same-team", "namespace": name},
            "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"namespaces": [name, ROOT_NAMESPACE]}}]}]},
        }

    def _service(self, service: int) -> Iterator[Obj]:
        name, namespace = self.service_name(service), self.namespace_of(service)
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        ports = [{"name": "http", "port": PORT, "targetPort": TARGET_PORT, "protocol": "TCP"}]
        app = {"app": name}
        yield _service_object(namespace, name, str(_SERVICES + service), ports, app, app)


def _service_object(
    namespace: str, name: str, ip: str, ports: list[Obj], selector: dict[str, str], labels: dict[str, str]
) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": ports,
            "selector": selector,
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
    }


def _node(name: str, number: int) -> Obj:
    labels = {
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/region": "region-1",
        "topology.kubernetes.io/zone": f"zone-{number % 3}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number % 250 + 1}"}]},
    }


def _pod_spec(name: str, node: str) -> Obj:
    probe = {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10}
    return {
        "nodeName": node,
        "serviceAccountName": name,
        "serviceAccount": name,
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
        "tolerations": [
            {"key": f"node.kubernetes.io/{word}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for word in ("not-ready", "unreachable")
        ],
        "containers": [
            {
                "name": "app",
                "image": "registry.example/app:1.0",
                "imagePullPolicy": "IfNotPresent",
                "ports": [{"name": "http", "containerPort": TARGET_PORT, "protocol": "TCP"}],
                "env": [{"name": f"SETTING_{number}", "value": "on"} for number in range(8)],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "livenessProbe": probe,
                "readinessProbe": probe,
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "volumeMounts": [
                    {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
                ],
            }
        ],
        "volumes": [
            {
                "name": "token",
                "projected": {
                    "defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}],
                },
            }
        ],
    }
