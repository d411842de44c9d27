"""The Kubernetes objects of the laptop mesh, written as YAML files into the directory that istiod and the agents watch.

The demo plays API server and kubelet: it writes what a user would apply, and the status that kubelet would report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from ambient.demo.topology import (
    HTTP,
    MEMBER_NAMESPACES,
    NODES,
    OUTSIDE_NAMESPACE,
    SECOND,
    SYSTEM_NAMESPACE,
    Pod,
    Service,
)

Object = dict[str, Any]

MODE_LABEL: Final = "istio.io/dataplane-mode"
REDIRECTION: Final = "ambient.istio.io/redirection"
NETNS_ANNOTATION: Final = "cni.ambient.mesh/netns"


class ManifestDir:
    """A directory of YAML files; each is replaced as a whole, so that a reader never sees half of one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, objects: Iterable[Object]) -> None:
        """Put `objects` into `name`.yaml, in place of what stood there."""
        draft = self._directory / f".{name}.draft"
        draft.write_text(yaml.safe_dump_all(objects, sort_keys=False))
        draft.rename(self._directory / f"{name}.yaml")

    def remove(self, name: str) -> None:
        """Delete `name`.yaml; absent is fine."""
        with contextlib.suppress(FileNotFoundError):
            (self._directory / f"{name}.yaml").unlink()


def _object(kind: str, name: str, namespace: str | None = None, api: str = "v1", **rest: Any) -> Object:
    metadata: Object = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata |= rest.pop("metadata", {})
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def namespaces(*, enrolled: bool) -> list[Object]:
    """All namespaces; those of the mesh's members with the label that enrols their pods, or without it."""
    label = {"labels": {MODE_LABEL: "ambient"}} if enrolled else {}
    members = [_object("Namespace", name, metadata=label) for name in MEMBER_NAMESPACES]
    return [*members, _object("Namespace", OUTSIDE_NAMESPACE), _object("Namespace", SYSTEM_NAMESPACE)]


def nodes() -> list[Object]:
    return [
        _object(
            "Node",
            node.name,
            metadata={"labels": {"topology.kubernetes.io/region": "laptop", "topology.kubernetes.io/zone": node.name}},
            spec={"podCIDR": node.pod_cidr},
            status={"addresses": [{"type": "InternalIP", "address": node.ip}]},
        )
        for node in NODES
    ]


def service_accounts(pods: Iterable[Pod]) -> list[Object]:
    wanted = dict.fromkeys((pod.service_account, pod.namespace) for pod in pods)
    return [_object("ServiceAccount", name, namespace) for name, namespace in wanted]


def pod_uid(pod: Pod, generation: int) -> str:
    """A uid as kubelet would report it: another one each time that a pod of this name is made."""
    return f"{generation:08x}-0000-4000-8000-{int.from_bytes(pod.name.encode()[-6:]):012x}"


def pod(entry: Pod, *, netns: str, uid: str, claims_hbone: bool = False, deleted: bool = False) -> Object:
    """A running pod with the status that kubelet reports; `claims_hbone` adds what an agent notes on enrolment.

    `deleted` marks it as being deleted, which it is until its containers have ended.
    """
    annotations = {NETNS_ANNOTATION: netns} | ({REDIRECTION: "enabled"} if claims_hbone else {})
    deletion = {"deletionTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")} if deleted else {}
    ports = [{"name": "http", "containerPort": HTTP}, {"name": "second", "containerPort": SECOND}] if entry.web else []
    return _object(
        "Pod",
        entry.name,
        entry.namespace,
        metadata={"uid": uid, "labels": {"app": entry.app}, "annotations": annotations} | deletion,
        spec={
            "nodeName": entry.node,
            "serviceAccountName": entry.service_account,
            "containers": [{"name": "app", "image": "nginx" if entry.web else "curl", "ports": ports}],
        },
        status={
            "phase": "Running",
            "podIP": entry.ip,
            "podIPs": [{"ip": entry.ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    )


def service(entry: Service) -> Object:
    return _object(
        "Service",
        entry.name,
        entry.namespace,
        spec={
            "selector": {"app": entry.app},
            "clusterIP": entry.vip,
            "clusterIPs": [entry.vip],
            "ports": [{"name": "http", "port": entry.port, "targetPort": HTTP, "protocol": "TCP"}],
        },
    )


def endpoint_slice(entry: Service, pods: Mapping[str, Pod], uids: Mapping[str, str]) -> Object:
    """What the endpoints controller would publish for the pods that the service selects."""
    return _object(
        "EndpointSlice",
        f"{entry.name}-1",
        entry.namespace,
        api="discovery.k8s.io/v1",
        metadata={"labels": {"kubernetes.io/service-name": entry.name}},
        addressType="IPv4",
        ports=[{"name": "http", "port": HTTP, "protocol": "TCP"}],
        endpoints=[
            {
                "addresses": [each.ip],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": each.node,
                "targetRef": {"kind": "Pod", "name": name, "namespace": each.namespace, "uid": uids[name]},
            }
            for name, each in pods.items()
            if (each.app, each.namespace) == (entry.app, entry.namespace)
        ],
    )


def authorization(name: str, namespace: str, app: str, action: str, rules: list[Object]) -> Object:
    """An AuthorizationPolicy for the pods labelled `app`."""
    return _object(
        "AuthorizationPolicy",
        name,
        namespace,
        api="security.istio.io/v1",
        spec={"selector": {"matchLabels": {"app": app}}, "action": action, "rules": rules},
    )


def peer_authentication(namespace: str, mode: str) -> Object:
    """The PeerAuthentication `default` of a namespace; `mode` is STRICT or PERMISSIVE."""
    spec = {"mtls": {"mode": mode}}
    return _object("PeerAuthentication", "default", namespace, api="security.istio.io/v1", spec=spec)
