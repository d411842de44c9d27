"""The whole mesh: every object of the store to every resource of the proxies.

The result is computed anew each time and compared by content (`istiod.push`). An incremental version would keep, per
workload, the keys it was made from, and enter through `translate_pod`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from istiod import objects
from istiod.sources import Store
from istiod.translate import authorization, services, workloads
from istiod.translate.common import NETWORK_LABEL, MeshConfig, selects
from istiod.translate.peer_authentication import PeerAuthentications
from meshcore.model import Address, Authorization, Workload


class Resources(NamedTuple):
    """Resource name to resource, by type."""

    addresses: dict[str, Address]
    authorizations: dict[str, Authorization]


class Translator:
    """One pass over a store that does not change meanwhile."""

    def __init__(self, store: Store, mesh: MeshConfig) -> None:
        self._namespaces = store.of("Namespace", objects.Namespace)
        self._nodes = store.of("Node", objects.Node)
        self._pods = store.of("Pod", objects.Pod)
        self._services = store.of("Service", objects.Service)
        self._slices = store.of("EndpointSlice", objects.EndpointSlice)
        self._policies = store.of("AuthorizationPolicy", objects.AuthorizationPolicy)
        system = self._namespaces.get(("", mesh.root_namespace))
        network = system.metadata.labels.get(NETWORK_LABEL, "") if system is not None else ""
        self.mesh = MeshConfig(mesh.cluster_id, mesh.cluster_domain, mesh.trust_domain, mesh.root_namespace, network)
        settings = store.of("PeerAuthentication", objects.PeerAuthentication)
        self._mtls = PeerAuthentications(settings.values(), self.mesh)
        self._index = workloads.ServiceIndex(self._services, self._slices.values())
        self._selective: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        for (namespace, name), policy in sorted(self._policies.items()):
            if policy.spec.selector is not None and authorization.sent_to_ztunnel(policy):
                labels = policy.spec.selector.match_labels
                self._selective.setdefault(namespace, []).append((f"{namespace}/{name}", labels))

    def translate(self) -> Resources:
        addresses: dict[str, Address] = {}
        for (namespace, _), service in self._index.services.items():
            translated = services.translate(service, self._namespaces.get(("", namespace)), self.mesh)
            addresses[f"{namespace}/{translated.hostname}"] = Address(service=translated)
        for pod in self._pods.values():
            if workloads.exists(pod):
                workload = self.translate_pod(pod)
                addresses[workload.uid] = Address(workload=workload)
        for (namespace, _), entry in self._slices.items():
            owner = self._index.services.get((namespace, entry.metadata.labels.get(workloads.SERVICE_NAME, "")))
            if owner is not None:
                for workload in workloads.without_pod(entry, owner, self.mesh):
                    addresses[workload.uid] = Address(workload=workload)
        return Resources(addresses, self._authorizations())

    def translate_pod(self, pod: objects.Pod) -> Workload:
        node = self._nodes.get(("", pod.spec.node_name))
        return workloads.translate(pod, node, self._index.ports(pod, self.mesh), self._policies_of(pod), self.mesh)

    def _policies_of(self, pod: objects.Pod) -> tuple[str, ...]:
        meta = pod.metadata
        namespaces = dict.fromkeys((self.mesh.root_namespace, meta.namespace))
        chosen = [
            key
            for namespace in namespaces
            for key, labels in self._selective.get(namespace, ())
            if selects(labels, meta.labels)
        ]
        return (*chosen, *self._mtls.for_pod(meta.namespace, meta.labels))

    def _authorizations(self) -> dict[str, Authorization]:
        found = [authorization.translate(policy, self.mesh) for policy in self._policies.values()]
        found += self._mtls.policies()
        return {f"{policy.namespace}/{policy.name}": policy for policy in found if policy is not None}
