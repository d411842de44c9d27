"""What changes a proxy: EnvoyFilter, ProxyConfig, WasmPlugin and TrafficExtension.

Source: Istio API networking.v1alpha3 envoy_filter.proto, networking.v1beta1 proxy_config.proto, extensions.v1alpha1.
"""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    AGE,
    INTEGER,
    LABELS,
    PORT,
    TEXT,
    UNSIGNED,
    Table,
    anything,
    enum,
    integer,
    list_of,
    names,
    record,
    text,
)
from istiod.schema.shared import MATCH_LABELS, STATUS, TARGET_REF, TARGETS, TRAFFIC_MODE, WORKLOAD_SELECTOR

_NAMED: Final = record(names("name"))
_FILTER: Final = record({"name": TEXT, "subFilter": _NAMED})
_LISTENER: Final = record(
    {
        "portNumber": UNSIGNED,
        **names("portName", "listenerFilter", "name"),
        "filterChain": record(
            {
                **names("name", "sni", "transportProtocol", "applicationProtocols"),
                "filter": _FILTER,
                "destinationPort": UNSIGNED,
            }
        ),
    }
)
_ROUTE: Final = record({"name": TEXT, "action": enum("ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE")})
_ROUTE_CONFIGURATION: Final = record(
    {
        "portNumber": UNSIGNED,
        **names("portName", "gateway", "name"),
        "vhost": record({**names("name", "domainName"), "route": _ROUTE}),
    }
)
_MATCH: Final = record(
    {
        "context": enum("ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT"),
        "proxy": record({"proxyVersion": TEXT, "metadata": LABELS}),
        "listener": _LISTENER,
        "routeConfiguration": _ROUTE_CONFIGURATION,
        "cluster": record({"portNumber": UNSIGNED, **names("service", "subset", "name")}),
        "waypoint": record({"portNumber": UNSIGNED, "route": _NAMED, "filter": _FILTER}),
    },
    one_of=(("listener", "routeConfiguration", "cluster", "waypoint"),),
)
_PATCH: Final = record(
    {
        "operation": enum(
            "INVALID",
            "MERGE",
            "ADD",
            "REMOVE",
            "INSERT_BEFORE",
            "INSERT_AFTER",
            "INSERT_FIRST",
            "REPLACE",
            "MERGE_AND_REPLACE_LIST",
        ),
        "value": anything(),
        "filterClass": enum("UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"),
    }
)
_APPLY_TO: Final = enum(
    "INVALID",
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "EXTENSION_CONFIG",
    "BOOTSTRAP",
    "LISTENER_FILTER",
)
ENVOY_FILTER: Final = Table(
    record(
        {
            "workloadSelector": WORKLOAD_SELECTOR,
            "targetRefs": list_of(TARGET_REF, at_most=16),
            "configPatches": list_of(record({"applyTo": _APPLY_TO, "match": _MATCH, "patch": _PATCH})),
            "priority": INTEGER,
        }
    ),
    STATUS,
)

PROXY_CONFIG: Final = Table(
    record(
        {
            "selector": MATCH_LABELS,
            "concurrency": integer(0),
            "environmentVariables": LABELS,
            "image": record({"imageType": TEXT}),
        }
    ),
    STATUS,
)

_WASM: Final = {
    "url": text(at_least=1),
    "sha256": text(pattern="([a-f0-9]{64})?", at_most=64, what="a SHA-256 of 64 hexadecimal digits"),
    "imagePullPolicy": enum("UNSPECIFIED_POLICY", "IfNotPresent", "Always"),
    "imagePullSecret": text(at_least=1, at_most=253),
    "verificationKey": TEXT,
    "pluginConfig": anything(),
    "pluginName": text(at_least=1, at_most=256),
    "failStrategy": enum("FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"),
    "vmConfig": record(
        {
            "env": list_of(
                record(
                    {
                        "name": text(at_least=1, at_most=256),
                        "valueFrom": enum("INLINE", "HOST"),
                        "value": text(at_most=2048),
                    },
                    required=("name",),
                ),
                keys=("name",),
                at_most=256,
            )
        }
    ),
    "type": enum("UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"),
}
_PLACE: Final = {
    **TARGETS,
    "phase": enum("UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"),
    "priority": INTEGER,
    "match": list_of(
        record(
            {
                "mode": enum("UNDEFINED", *TRAFFIC_MODE.values),
                "ports": list_of(record({"number": PORT}, required=("number",)), keys=("number",)),
            }
        ),
    ),
}

WASM_PLUGIN: Final = Table(record({**_PLACE, **_WASM}, required=("url",)), STATUS, (), (AGE,))

TRAFFIC_EXTENSION: Final = Table(
    record({**_PLACE, "wasm": record(_WASM, required=("url",)), "lua": record({"inlineCode": TEXT})}),
    STATUS,
    (),
    (AGE,),
)
