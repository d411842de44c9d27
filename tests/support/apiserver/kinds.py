"""The kinds a server knows, and how lists inside their objects are merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from istiod.resources import RESOURCES, Resource

Names = tuple[str, ...]
"""Field names from the root of an object down; items of lists add nothing."""

SET: Final = ("",)
"""Instead of keys: the list is a set of plain values."""

# A list that is not here is atomic, as it is in a CRD that does not say otherwise.
_LISTS: Final[dict[Names, Names]] = {
    ("metadata", "finalizers"): SET,
    ("metadata", "ownerReferences"): ("uid",),
    ("status", "conditions"): ("type",),
}
_LISTS_OF: Final[dict[str, dict[Names, Names]]] = {
    "Node": {("status", "addresses"): ("type",)},
    "Service": {("spec", "ports"): ("port", "protocol")},
    "ServiceAccount": {("secrets",): ("name",)},
    "Gateway": {
        ("spec", "listeners"): ("name",),
        ("status", "listeners"): ("name",),
        ("status", "listeners", "conditions"): ("type",),
    },
    "Deployment": {
        ("spec", "template", "spec", "containers"): ("name",),
        ("spec", "template", "spec", "containers", "env"): ("name",),
        ("spec", "template", "spec", "containers", "ports"): ("containerPort", "protocol"),
        ("spec", "template", "spec", "containers", "volumeMounts"): ("mountPath",),
        ("spec", "template", "spec", "volumes"): ("name",),
    },
}
_WITHOUT_STATUS: Final = frozenset(
    (
        "ConfigMap",
        "EndpointSlice",
        "Lease",
        "MutatingWebhookConfiguration",
        "ReferenceGrant",
        "Secret",
        "ServiceAccount",
        "ValidatingWebhookConfiguration",
    )
)
_STATUS_AT_CREATION: Final = frozenset(("Node",))

CRD_GROUP: Final = "apiextensions.k8s.io"
FURTHER: Final = (
    Resource("Lease", "leases", "coordination.k8s.io", ("v1",)),
    Resource("Deployment", "deployments", "apps", ("v1",)),
    Resource("HorizontalPodAutoscaler", "horizontalpodautoscalers", "autoscaling", ("v2",)),
    Resource("PodDisruptionBudget", "poddisruptionbudgets", "policy", ("v1",)),
    Resource("CustomResourceDefinition", "customresourcedefinitions", CRD_GROUP, ("v1",), namespaced=False),
    Resource(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        ("v1",),
        namespaced=False,
    ),
    Resource(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        ("v1",),
        namespaced=False,
    ),
)


class Kind(NamedTuple):
    kind: str
    plural: str
    group: str
    versions: tuple[str, ...]
    namespaced: bool
    custom: bool
    has_status: bool
    """`/status` exists, and the object itself is written without it."""

    keeps_status: bool
    """A create may bring a status."""

    lists: Mapping[Names, Names]

    @property
    def id(self) -> tuple[str, str]:
        return (self.group, self.plural)

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def api_version(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version


def of_resource(resource: Resource) -> Kind:
    return Kind(
        resource.kind,
        resource.plural,
        resource.group,
        resource.versions,
        resource.namespaced,
        resource.custom,
        has_status=resource.kind not in _WITHOUT_STATUS,
        keeps_status=resource.kind in _STATUS_AT_CREATION,
        lists=_LISTS | _LISTS_OF.get(resource.kind, {}),
    )


def of_crd(crd: Mapping[str, Any]) -> Kind:
    """The kind that a CustomResourceDefinition object defines, with the list types of its schema."""
    spec = crd["spec"]
    served = [version for version in spec["versions"] if version.get("served")]
    lists: dict[Names, Names] = {("metadata", "finalizers"): SET, ("metadata", "ownerReferences"): ("uid",)}
    for version in served:
        lists |= _list_types(version.get("schema", {}).get("openAPIV3Schema", {}), ())
    return Kind(
        spec["names"]["kind"],
        spec["names"]["plural"],
        spec["group"],
        tuple(version["name"] for version in served),
        namespaced=spec["scope"] == "Namespaced",
        custom=True,
        has_status=any("status" in version.get("subresources", {}) for version in served),
        keeps_status=False,
        lists=lists,
    )


def _list_types(schema: Mapping[str, Any], names: Names) -> dict[Names, Names]:
    found: dict[Names, Names] = {}
    if schema.get("x-kubernetes-list-type") == "map":
        found[names] = tuple(schema["x-kubernetes-list-map-keys"])
    elif schema.get("x-kubernetes-list-type") == "set":
        found[names] = SET
    for name, child in schema.get("properties", {}).items():
        found |= _list_types(child, (*names, name))
    return found | (_list_types(schema["items"], names) if "items" in schema else {})


def builtin(custom: Iterable[Resource]) -> list[Kind]:
    """What every server has, and the custom kinds that are to be there from the start."""
    own = [resource for resource in RESOURCES if not resource.custom]
    return [of_resource(resource) for resource in (*own, *FURTHER, *custom)]


CUSTOM: Final = tuple(resource for resource in RESOURCES if resource.custom)
