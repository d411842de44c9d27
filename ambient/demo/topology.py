"""Who is where: the nodes, the pods, their addresses and services. Data only.

Every address lies in 10.77.0.0/16 and exists inside the namespaces alone, so it can collide with nothing outside.

    node-1 (10.77.0.1) ---- node link ---- node-2 (10.77.0.2)        control plane 10.77.254.1, a link to each node
      frontend  10.77.1.11                   web-2     10.77.2.12
      web-1     10.77.1.12                   store     10.77.2.13
      outsider  10.77.1.19                   batch     10.77.2.14
      ztunnel-1 10.77.1.2                    ztunnel-2 10.77.2.2
"""

from __future__ import annotations

from typing import Final, NamedTuple

NODE_LINK: Final = "node-link"
"""Name of the interface that joins the nodes, on both of them."""

CONTROL: Final = "control"
CONTROL_IP: Final = "10.77.254.1"

HTTP: Final = 8080
SECOND: Final = 8081
"""A second port of every nginx, for policies by port."""

TRUST_DOMAIN: Final = "cluster.local"
SYSTEM_NAMESPACE: Final = "istio-system"
MEMBER_NAMESPACES: Final = ("shop", "ops")
"""Namespaces whose label enrols and un-enrols their pods."""

OUTSIDE_NAMESPACE: Final = "legacy"


class Node(NamedTuple):
    name: str
    ip: str
    pod_cidr: str

    @property
    def gateway(self) -> str:
        """The node's address on the pods' side, source of kubelet's probes."""
        return self.pod_cidr.replace(".0/24", ".1")


class Pod(NamedTuple):
    """A pod is a network namespace with one address; `web` says that nginx runs in it."""

    name: str
    namespace: str
    service_account: str
    node: str
    ip: str
    app: str
    web: bool = True

    @property
    def principal(self) -> str:
        return f"{TRUST_DOMAIN}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def spiffe(self) -> str:
        return f"spiffe://{self.principal}"


class Service(NamedTuple):
    name: str
    namespace: str
    vip: str
    port: int
    app: str

    @property
    def hostname(self) -> str:
        return f"{self.name}.{self.namespace}.svc.cluster.local"


NODES: Final = (Node("node-1", "10.77.0.1", "10.77.1.0/24"), Node("node-2", "10.77.0.2", "10.77.2.0/24"))

FRONTEND: Final = Pod("frontend", "shop", "frontend", "node-1", "10.77.1.11", "frontend", web=False)
WEB_1: Final = Pod("web-1", "shop", "web", "node-1", "10.77.1.12", "web")
OUTSIDER: Final = Pod("outsider", OUTSIDE_NAMESPACE, "outsider", "node-1", "10.77.1.19", "outsider", web=False)
WEB_2: Final = Pod("web-2", "shop", "web", "node-2", "10.77.2.12", "web")
STORE: Final = Pod("store", "shop", "store", "node-2", "10.77.2.13", "store")
BATCH: Final = Pod("batch", "ops", "batch", "node-2", "10.77.2.14", "batch", web=False)
PODS: Final = (FRONTEND, WEB_1, OUTSIDER, WEB_2, STORE, BATCH)

WEB_3: Final = Pod("web-3", "shop", "web", "node-2", "10.77.2.15", "web")
"""Not there at first: a scenario starts and deletes it."""

WEB: Final = Service("web", "shop", "10.77.96.10", 80, "web")
STORE_SERVICE: Final = Service("store", "shop", "10.77.96.11", 80, "store")
SERVICES: Final = (WEB, STORE_SERVICE)


def node(name: str) -> Node:
    """The node of that name; a KeyError would be a bug of the table above."""
    return next(entry for entry in NODES if entry.name == name)


def other_node(name: str) -> Node:
    return next(entry for entry in NODES if entry.name != name)


def ztunnel_ip(node_name: str, generation: int = 0) -> str:
    """Address of a ztunnel: as a DaemonSet pod it has its own namespace; a newer one stands beside the older."""
    return node(node_name).pod_cidr.replace(".0/24", f".{2 + generation}")
