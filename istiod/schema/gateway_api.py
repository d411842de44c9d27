"""Records that kinds of the Gateway API share. Source: Gateway API v1, shared_types.go, object_reference_types.go."""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    LABELS,
    PORT,
    TEXT,
    TEXTS,
    Text,
    conditions,
    enum,
    integer,
    list_of,
    map_of,
    names,
    record,
    text,
)

API_GROUP: Final = "gateway.networking.k8s.io"
_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"


def group(default: str | None = None) -> Text:
    """The core group is written as an empty text."""
    return text(pattern=f"({_DOMAIN})?", what="an API group such as apps", at_most=253, default=default)


def kind(default: str | None = None) -> Text:
    return text(
        pattern="[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?",
        what="a kind such as Service",
        at_least=1,
        at_most=63,
        default=default,
    )


NAME: Final = text(at_least=1, at_most=253)
NAMESPACE: Final = text(pattern=_LABEL, what="a namespace", at_least=1, at_most=63)
SECTION: Final = text(pattern=_DOMAIN, what="a name in lower case", at_least=1, at_most=253)
HOSTNAME: Final = text(
    pattern=rf"(\*\.)?{_DOMAIN}", what="a host name in lower case such as *.example.com", at_least=1, at_most=253
)
PRECISE_HOSTNAME: Final = text(
    pattern=_DOMAIN, what="a host name in lower case without wildcard", at_least=1, at_most=253
)
DURATION: Final = text(pattern="([0-9]{1,5}(h|m|s|ms)){1,4}", what="a duration such as 1m30s or 500ms")
HEADER_NAME: Final = text(
    pattern=r"[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+", what="the name of a header", at_least=1, at_most=256
)
CONTROLLER: Final = text(
    pattern=rf"{_DOMAIN}\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+",
    what="the name of a controller such as example.com/name",
    at_least=1,
    at_most=253,
)

LOCAL_REF: Final = record({"group": group(), "kind": kind(), "name": NAME}, required=("group", "kind", "name"))
OBJECT_REF: Final = record({**LOCAL_REF.fields, "namespace": NAMESPACE}, required=LOCAL_REF.required)
SECRET_REF: Final = record(
    {"group": group(""), "kind": kind("Secret"), "name": NAME, "namespace": NAMESPACE}, required=("name",)
)
_PARENT_GATEWAY: Final = {
    "group": group(API_GROUP),
    "kind": kind("Gateway"),
    "name": NAME,
    "namespace": NAMESPACE,
}
PARENT_GATEWAY_REF: Final = record(_PARENT_GATEWAY, required=("name",))
PARENT_REF: Final = record({**_PARENT_GATEWAY, "sectionName": SECTION, "port": PORT}, required=("name",))
BACKEND: Final = {
    "group": group(""),
    "kind": kind("Service"),
    "name": NAME,
    "namespace": NAMESPACE,
    "port": PORT,
}
BACKEND_REF: Final = record(BACKEND, required=("name",))
WEIGHTED: Final = {**BACKEND, "weight": integer(0, 1_000_000, default=1)}

LABEL_SELECTOR: Final = record(
    {
        "matchLabels": LABELS,
        "matchExpressions": list_of(
            record({**names("key", "operator"), "values": TEXTS}, required=("key", "operator")),
        ),
    }
)
OPTIONS: Final = map_of(text(at_most=4096), at_most=16)
ALL_OR_NONE: Final = enum("All", "None")

CONDITIONS: Final = conditions(("lastTransitionTime", "message", "reason", "status", "type"), at_most=8)
_PARENT_STATUS: Final = record(
    {"parentRef": PARENT_REF, "controllerName": CONTROLLER, "conditions": CONDITIONS},
    required=("parentRef", "controllerName"),
)
ROUTE_STATUS: Final = record({"parents": list_of(_PARENT_STATUS, at_most=32)}, required=("parents",))
_ANCESTOR_STATUS: Final = record(
    {"ancestorRef": PARENT_REF, "controllerName": CONTROLLER, "conditions": CONDITIONS},
    required=("ancestorRef", "controllerName"),
)
POLICY_STATUS: Final = record({"ancestors": list_of(_ANCESTOR_STATUS, at_most=16)}, required=("ancestors",))
FEATURES: Final = list_of(record({"name": TEXT}, required=("name",)), keys=("name",), at_most=64)
