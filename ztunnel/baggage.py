"""W3C baggage as the mesh uses it: what a proxy tells its peer about the workload it stands for."""

from __future__ import annotations

from typing import Final, NamedTuple

from meshcore.model import Workload

_TYPES: Final = ("deployment", "cronjob", "pod", "job")  # by WorkloadType
_NAME_KEYS: Final = frozenset(f"k8s.{kind}.name" for kind in _TYPES)
_VALUE_MAX: Final = 253  # characters; a peer's text ends up in metric labels


class Baggage(NamedTuple):
    """What a peer said of itself; "" is absent. Not authenticated: good for telemetry only."""

    cluster: str = ""
    namespace: str = ""
    workload: str = ""
    service: str = ""
    revision: str = ""
    region: str = ""
    zone: str = ""


_FIELDS: Final = {
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    **dict.fromkeys(_NAME_KEYS, "workload"),
    "service.name": "service",
    "service.version": "revision",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
}


def render(workload: Workload) -> bytes:
    """The header value for a workload; empty parts are left out."""
    locality = workload.locality
    parts = (
        ("k8s.cluster.name", workload.cluster_id),
        ("k8s.namespace.name", workload.namespace),
        (f"k8s.{_TYPES[workload.workload_type]}.name", workload.workload_name),
        ("service.name", workload.canonical_name),
        ("service.version", workload.canonical_revision),
        ("cloud.region", locality.region if locality else ""),
        ("cloud.availability_zone", locality.zone if locality else ""),
    )
    text = ",".join(f"{key}={value}" for key, value in parts if value)
    # A header value carries no control characters (RFC 9110 section 5.5); names of Kubernetes have none.
    return (text if text.isprintable() else "".join(c for c in text if c.isprintable())).encode()


def parse(text: str) -> Baggage:
    """Read a header value: split at `,` then `=`, no trimming, no percent-decoding, unknown keys ignored."""
    found: dict[str, str] = {}
    for part in text.split(","):
        pieces = part.split("=")
        if len(pieces) >= 2 and pieces[0] in _FIELDS:
            found[_FIELDS[pieces[0]]] = pieces[1][:_VALUE_MAX]
    return Baggage(**found)
