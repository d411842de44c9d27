"""VirtualService. Source: Istio API networking.v1alpha3, virtual_service.proto."""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    AGE,
    DURATION,
    FLAG,
    INTEGER,
    LABELS,
    TEXT,
    TEXTS,
    UNSIGNED,
    Column,
    Table,
    enum,
    integer,
    list_of,
    map_of,
    names,
    number,
    record,
)
from istiod.schema.shared import DESTINATION, EXPORT_TO, STATUS, STRING_MATCH

_PERCENT: Final = record({"value": number(0, 100)})
_OPERATIONS: Final = record({"set": LABELS, "add": LABELS, "remove": TEXTS})
_HEADERS: Final = record({"request": _OPERATIONS, "response": _OPERATIONS})
_MATCHES: Final = map_of(STRING_MATCH)

_HTTP_MATCH: Final = record(
    {
        **names("name", "statPrefix", "sourceNamespace"),
        **dict.fromkeys(("uri", "scheme", "method", "authority"), STRING_MATCH),
        **dict.fromkeys(("headers", "withoutHeaders", "queryParams"), _MATCHES),
        "port": UNSIGNED,
        "sourceLabels": LABELS,
        "gateways": TEXTS,
        "ignoreUriCase": FLAG,
    }
)
_HTTP_DESTINATION: Final = record(
    {"destination": DESTINATION, "weight": INTEGER, "headers": _HEADERS}, required=("destination",)
)
_REDIRECT: Final = record(
    {
        **names("uri", "authority", "prefixRewrite", "scheme"),
        "port": UNSIGNED,
        "derivePort": enum("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"),
        "redirectCode": UNSIGNED,
    },
    one_of=(("port", "derivePort"),),
)
_DIRECT_RESPONSE: Final = record(
    {"status": UNSIGNED, "body": record(names("string", "bytes"), one_of=(("string", "bytes"),))},
    required=("status",),
)
_REWRITE: Final = record({**names("uri", "authority"), "uriRegexRewrite": record(names("match", "rewrite"))})
_RETRIES: Final = record(
    {
        "attempts": INTEGER,
        "perTryTimeout": DURATION,
        "retryOn": TEXT,
        "retryRemoteLocalities": FLAG,
        "retryIgnorePreviousHosts": FLAG,
        "backoff": DURATION,
    }
)
_DELAY: Final = record(
    {
        "percent": integer(0, 100),
        "fixedDelay": DURATION,
        "exponentialDelay": DURATION,
        "percentage": _PERCENT,
    },
    one_of=(("fixedDelay", "exponentialDelay"),),
)
_ABORT: Final = record(
    {"httpStatus": INTEGER, "grpcStatus": TEXT, "http2Error": TEXT, "percentage": _PERCENT},
    one_of=(("httpStatus", "grpcStatus", "http2Error"),),
)
_CORS: Final = record(
    {
        **dict.fromkeys(("allowOrigin", "allowMethods", "allowHeaders", "exposeHeaders"), TEXTS),
        "allowOrigins": list_of(STRING_MATCH),
        "maxAge": DURATION,
        "allowCredentials": FLAG,
        "unmatchedPreflights": enum("UNSPECIFIED", "FORWARD", "IGNORE"),
    }
)
_HTTP_ROUTE: Final = record(
    {
        "name": TEXT,
        "match": list_of(_HTTP_MATCH),
        "route": list_of(_HTTP_DESTINATION),
        "redirect": _REDIRECT,
        "directResponse": _DIRECT_RESPONSE,
        "delegate": record(names("name", "namespace")),
        "rewrite": _REWRITE,
        "timeout": DURATION,
        "retries": _RETRIES,
        "fault": record({"delay": _DELAY, "abort": _ABORT}),
        "mirror": DESTINATION,
        "mirrors": list_of(
            record({"destination": DESTINATION, "percentage": _PERCENT}, required=("destination",)),
        ),
        "mirrorPercent": UNSIGNED,
        "mirror_percent": UNSIGNED,
        "mirrorPercentage": _PERCENT,
        "corsPolicy": _CORS,
        "headers": _HEADERS,
    }
)

_L4_MATCH: Final = {
    "destinationSubnets": TEXTS,
    "port": UNSIGNED,
    "sourceLabels": LABELS,
    "gateways": TEXTS,
    "sourceNamespace": TEXT,
}
_L4_ROUTE: Final = list_of(record({"destination": DESTINATION, "weight": INTEGER}, required=("destination",)))
_TLS_ROUTE: Final = record(
    {"match": list_of(record({"sniHosts": TEXTS, **_L4_MATCH}, required=("sniHosts",))), "route": _L4_ROUTE},
    required=("match",),
)
_TCP_ROUTE: Final = record({"match": list_of(record({**_L4_MATCH, "sourceSubnet": TEXT})), "route": _L4_ROUTE})

VIRTUAL_SERVICE: Final = Table(
    record(
        {
            "hosts": TEXTS,
            "gateways": TEXTS,
            "http": list_of(_HTTP_ROUTE),
            "tls": list_of(_TLS_ROUTE),
            "tcp": list_of(_TCP_ROUTE),
            "exportTo": EXPORT_TO,
        }
    ),
    STATUS,
    ("vs",),
    (Column("Gateways", ".spec.gateways"), Column("Hosts", ".spec.hosts"), AGE),
)
