"""Records that several kinds of Istio share. Source: Istio API, package of the kind named at each."""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    TEXT,
    TEXTS,
    UNSIGNED,
    conditions,
    enum,
    int_or_string,
    list_of,
    map_of,
    names,
    record,
    text,
    unsigned,
)

MATCH_LABELS: Final = record({"matchLabels": map_of(text(at_most=63), at_most=4096)})
"""type.v1beta1 WorkloadSelector."""
WORKLOAD_SELECTOR: Final = record({"labels": map_of(text(at_most=63), at_most=256)})
"""networking.v1alpha3 WorkloadSelector."""
TARGET_REF: Final = record(
    {
        "group": text(at_most=253),
        "kind": text(at_least=1, at_most=63),
        "name": text(at_least=1, at_most=253),
        "namespace": TEXT,
    },
    required=("kind", "name"),
)
TARGETS: Final = {
    "selector": MATCH_LABELS,
    "targetRef": TARGET_REF,
    "targetRefs": list_of(TARGET_REF, at_most=16),
}
"""What a policy applies to: pods by label, or objects by name."""

STRING_MATCH: Final = record(names("exact", "prefix", "regex"), one_of=(("exact", "prefix", "regex"),))
SERVICE_PORT: Final = record({"number": UNSIGNED, "protocol": TEXT, "name": TEXT, "targetPort": UNSIGNED})
DESTINATION: Final = record(
    {"host": TEXT, "subset": TEXT, "port": record({"number": UNSIGNED})},
    required=("host",),
)
EXPORT_TO: Final = TEXTS

WORKLOAD: Final = record(
    {
        "address": text(at_most=256),
        "ports": map_of(unsigned(), at_most=128),
        "labels": map_of(TEXT, at_most=256),
        "network": text(at_most=2048),
        "locality": text(at_most=2048),
        "weight": UNSIGNED,
        "serviceAccount": text(at_most=253),
    }
)
"""networking.v1alpha3 WorkloadEntry: a kind, an endpoint of a ServiceEntry and the template of a WorkloadGroup."""

PROVIDER: Final = record({"name": text(at_least=1)}, required=("name",))
TRAFFIC_MODE: Final = enum("CLIENT_AND_SERVER", "CLIENT", "SERVER")

_MESSAGE: Final = record(
    {
        "type": record(names("name", "code")),
        "level": enum("UNKNOWN", "ERROR", "WARNING", "INFO"),
        "documentationUrl": TEXT,
    }
)
STATUS_FIELDS: Final = {
    "conditions": conditions(("type",), {"lastProbeTime": TEXT, "observedGeneration": int_or_string()}),
    "validationMessages": list_of(_MESSAGE),
    "observedGeneration": int_or_string(),
}
STATUS: Final = record(STATUS_FIELDS)
"""meta.v1alpha1 IstioStatus."""
