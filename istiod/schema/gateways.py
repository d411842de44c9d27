"""Classes, gateways, listener sets, grants and backend TLS of the Gateway API.

Source: Gateway API v1, gatewayclass_types.go, gateway_types.go, listenerset_types.go, referencegrant_types.go and
backendtlspolicy_types.go.
"""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    AGE,
    PORT,
    Column,
    Field,
    Table,
    enum,
    integer,
    list_of,
    map_of,
    record,
    text,
)
from istiod.schema.gateway_api import (
    ALL_OR_NONE,
    API_GROUP,
    CONDITIONS,
    CONTROLLER,
    FEATURES,
    HOSTNAME,
    LABEL_SELECTOR,
    LOCAL_REF,
    NAME,
    NAMESPACE,
    OBJECT_REF,
    OPTIONS,
    PARENT_GATEWAY_REF,
    POLICY_STATUS,
    PRECISE_HOSTNAME,
    SECRET_REF,
    SECTION,
    group,
    kind,
)
from istiod.schema.routes import EXTERNAL_AUTH

_ACCEPTED: Final = Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status')
_PROGRAMMED: Final = Column("Programmed", '.status.conditions[?(@.type=="Programmed")].status')

GATEWAY_CLASS: Final = Table(
    record(
        {"controllerName": CONTROLLER, "parametersRef": OBJECT_REF, "description": text(at_most=64)},
        required=("controllerName",),
    ),
    record({"conditions": CONDITIONS, "supportedFeatures": FEATURES}),
    ("gc",),
    (
        Column("Controller", ".spec.controllerName"),
        _ACCEPTED,
        AGE,
        Column("Description", ".spec.description", priority=1),
    ),
)

_ROUTE_KINDS: Final = list_of(record({"group": group(API_GROUP), "kind": kind()}, required=("kind",)), at_most=8)


def _namespaces(*origins: str, default: str) -> Field:
    return record({"from": enum(*origins, default=default), "selector": LABEL_SELECTOR})


_LISTENER: Final = record(
    {
        "name": SECTION,
        "hostname": HOSTNAME,
        "port": PORT,
        "protocol": text(at_least=1, at_most=255),
        "tls": record(
            {
                "mode": enum("Terminate", "Passthrough", default="Terminate"),
                "certificateRefs": list_of(SECRET_REF, at_most=64),
                "options": OPTIONS,
            }
        ),
        "allowedRoutes": record(
            {"namespaces": _namespaces("All", "Selector", "Same", "None", default="Same"), "kinds": _ROUTE_KINDS}
        ),
        "filters": record(
            {
                "requests": list_of(
                    record(
                        {
                            "type": enum("ExternalAuth", "ExtensionRef"),
                            "externalAuth": EXTERNAL_AUTH,
                            "extensionRef": LOCAL_REF,
                        },
                        required=("type",),
                    ),
                    at_most=16,
                )
            }
        ),
    },
    required=("name", "port", "protocol"),
)
_LISTENERS: Final = list_of(_LISTENER, keys=("name",), at_least=1, at_most=64)
_LISTENER_STATUSES: Final = list_of(
    record(
        {
            "name": SECTION,
            "supportedKinds": _ROUTE_KINDS,
            "attachedRoutes": integer(0),
            "conditions": CONDITIONS,
        },
        required=("name", "attachedRoutes", "conditions"),
    ),
    keys=("name",),
    at_most=64,
)

_ADDRESS: Final = {
    "type": text(at_least=1, at_most=253, default="IPAddress"),
    "value": text(at_most=253),
    "routability": text(at_most=253),
}
_CLIENT_VALIDATION: Final = record(
    {
        "validation": record(
            {
                "caCertificateRefs": list_of(OBJECT_REF, at_least=1, at_most=8),
                "mode": enum("AllowValidOnly", "AllowInsecureFallback", default="AllowValidOnly"),
            },
            required=("caCertificateRefs",),
        )
    }
)
_GATEWAY_TLS: Final = record(
    {
        "backend": record({"clientCertificateRef": SECRET_REF}),
        "frontend": record(
            {
                "default": _CLIENT_VALIDATION,
                "perPort": list_of(
                    record({"port": PORT, "tls": _CLIENT_VALIDATION}, required=("port", "tls")),
                    keys=("port",),
                    at_most=64,
                ),
            },
            required=("default",),
        ),
    }
)
_INFRASTRUCTURE: Final = record(
    {
        "labels": map_of(text(at_most=63), at_most=8),
        "annotations": map_of(text(at_most=4096), at_most=8),
        "parametersRef": LOCAL_REF,
    }
)
GATEWAY: Final = Table(
    record(
        {
            "gatewayClassName": NAME,
            "listeners": _LISTENERS,
            "addresses": list_of(record(_ADDRESS), at_most=16),
            "infrastructure": _INFRASTRUCTURE,
            "allowedListeners": record({"namespaces": _namespaces("All", "Selector", "Same", "None", default="None")}),
            "tls": _GATEWAY_TLS,
            "defaultScope": ALL_OR_NONE,
        },
        required=("gatewayClassName", "listeners"),
    ),
    record(
        {
            "addresses": list_of(record(_ADDRESS, required=("value",)), at_most=16),
            "conditions": CONDITIONS,
            "listeners": _LISTENER_STATUSES,
            "attachedListenerSets": integer(0),
        }
    ),
    ("gtw",),
    (
        Column("Class", ".spec.gatewayClassName"),
        Column("Address", ".status.addresses[*].value"),
        _PROGRAMMED,
        AGE,
    ),
)
LISTENER_SET: Final = Table(
    record({"parentRef": PARENT_GATEWAY_REF, "listeners": _LISTENERS}, required=("parentRef", "listeners")),
    record({"conditions": CONDITIONS, "listeners": _LISTENER_STATUSES}),
    ("lset",),
    (_ACCEPTED, _PROGRAMMED, AGE),
)

REFERENCE_GRANT: Final = Table(
    record(
        {
            "from": list_of(
                record(
                    {"group": group(), "kind": kind(), "namespace": NAMESPACE}, required=("group", "kind", "namespace")
                ),
                at_least=1,
                at_most=16,
            ),
            "to": list_of(
                record({"group": group(), "kind": kind(), "name": NAME}, required=("group", "kind")),
                at_least=1,
                at_most=16,
            ),
        },
        required=("from", "to"),
    ),
    None,
    ("refgrant",),
    (AGE,),
)

BACKEND_TLS_POLICY: Final = Table(
    record(
        {
            "targetRefs": list_of(
                record({**LOCAL_REF.fields, "sectionName": SECTION}, required=LOCAL_REF.required),
                at_least=1,
                at_most=16,
            ),
            "validation": record(
                {
                    "caCertificateRefs": list_of(LOCAL_REF, at_most=8),
                    "wellKnownCACertificates": text(at_least=1, at_most=253),
                    "hostname": PRECISE_HOSTNAME,
                    "subjectAltNames": list_of(
                        record(
                            {
                                "type": enum("Hostname", "URI"),
                                "hostname": HOSTNAME,
                                "uri": text(at_least=1, at_most=253),
                            },
                            required=("type",),
                        ),
                        at_most=5,
                    ),
                },
                required=("hostname",),
            ),
            "options": OPTIONS,
        },
        required=("targetRefs", "validation"),
    ),
    POLICY_STATUS,
    ("btlspolicy",),
    (AGE,),
)
