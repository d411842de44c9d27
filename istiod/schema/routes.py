"""The routes of the Gateway API, fields of its experimental channel included, so that they are known by name.

Source: Gateway API v1, httproute_types.go, grpcroute_types.go, tcproute_types.go and tlsroute_types.go.
"""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    AGE,
    FLAG,
    INTEGER,
    PORT,
    TEXT,
    Column,
    Field,
    Record,
    Table,
    enum,
    integer,
    list_of,
    one_number_of,
    record,
    text,
)
from istiod.schema.gateway_api import (
    ALL_OR_NONE,
    BACKEND_REF,
    DURATION,
    HEADER_NAME,
    HOSTNAME,
    LOCAL_REF,
    PARENT_REF,
    PRECISE_HOSTNAME,
    ROUTE_STATUS,
    SECTION,
    WEIGHTED,
)

_MATCH_TYPE: Final = enum("Exact", "RegularExpression", default="Exact")
_HEADER_MATCH: Final = record(
    {"type": _MATCH_TYPE, "name": HEADER_NAME, "value": text(at_least=1, at_most=4096)}, required=("name", "value")
)
_HEADER_MATCHES: Final = list_of(_HEADER_MATCH, keys=("name",), at_most=16)
_QUERY_MATCH: Final = record(
    {"type": _MATCH_TYPE, "name": HEADER_NAME, "value": text(at_least=1, at_most=1024)}, required=("name", "value")
)
_HEADER: Final = record(
    {"name": HEADER_NAME, "value": text(at_least=1, at_most=4096)},
    required=("name", "value"),
)
_HEADERS: Final = list_of(_HEADER, keys=("name",), at_most=16)
_HEADER_MODIFIER: Final = record(
    {"set": _HEADERS, "add": _HEADERS, "remove": list_of(TEXT, unique=True, at_most=16)},
)
_FRACTION: Final = record(
    {"numerator": integer(0), "denominator": integer(1, default=100)},
    required=("numerator",),
)
_MIRROR: Final = record(
    {"backendRef": BACKEND_REF, "percent": integer(0, 100), "fraction": _FRACTION},
    required=("backendRef",),
    one_of=(("percent", "fraction"),),
)
_PATH_MODIFIER: Final = record(
    {
        "type": enum("ReplaceFullPath", "ReplacePrefixMatch"),
        "replaceFullPath": text(at_most=1024),
        "replacePrefixMatch": text(at_most=1024),
    },
    required=("type",),
)
_REDIRECT: Final = record(
    {
        "scheme": enum("http", "https"),
        "hostname": PRECISE_HOSTNAME,
        "path": _PATH_MODIFIER,
        "port": PORT,
        "statusCode": one_number_of(301, 302, 303, 307, 308, default=302),
    }
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_HEADER_NAMES: Final = list_of(HEADER_NAME, unique=True, at_most=64)
_CORS: Final = record(
    {
        "allowOrigins": list_of(text(at_least=1, at_most=253), unique=True, at_most=64),
        "allowCredentials": FLAG,
        "allowMethods": list_of(enum(*_METHODS, "*"), unique=True, at_most=9),
        "allowHeaders": _HEADER_NAMES,
        "exposeHeaders": _HEADER_NAMES,
        "maxAge": integer(1, default=5),
    }
)
EXTERNAL_AUTH: Final = record(
    {
        "protocol": enum("HTTP", "GRPC"),
        "backendRef": BACKEND_REF,
        "grpc": record({"allowedHeaders": _HEADER_NAMES}),
        "http": record({"path": TEXT, "allowedHeaders": _HEADER_NAMES, "allowedResponseHeaders": _HEADER_NAMES}),
        "forwardBody": record({"maxSize": integer(0, 65535)}),
    },
    required=("protocol", "backendRef"),
)


def _filters(fields: dict[str, Field], *types: str) -> Field:
    common = {
        "requestHeaderModifier": _HEADER_MODIFIER,
        "responseHeaderModifier": _HEADER_MODIFIER,
        "requestMirror": _MIRROR,
        "extensionRef": LOCAL_REF,
    }
    kinds = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", *types, "ExtensionRef")
    return list_of(record({"type": enum(*kinds), **common, **fields}, required=("type",)), at_most=16)


_HTTP_FILTERS: Final = _filters(
    {
        "requestRedirect": _REDIRECT,
        "urlRewrite": record({"hostname": PRECISE_HOSTNAME, "path": _PATH_MODIFIER}),
        "cors": _CORS,
        "externalAuth": EXTERNAL_AUTH,
    },
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExternalAuth",
)
_GRPC_FILTERS: Final = _filters({})

_SESSION: Final = record(
    {
        "sessionName": text(at_most=128),
        "absoluteTimeout": DURATION,
        "idleTimeout": DURATION,
        "type": enum("Cookie", "Header", default="Cookie"),
        "cookieConfig": record({"lifetimeType": enum("Permanent", "Session", default="Session")}),
        "cookie": record({"name": TEXT, "path": TEXT, "lifetimeType": enum("Permanent", "Session")}),
        "header": record({"name": HEADER_NAME}, required=("name",)),
    }
)


def _backends(filters: Field | None = None, *, at_least: int = 0) -> Field:
    fields = {**WEIGHTED, **({"filters": filters} if filters else {})}
    return list_of(record(fields, required=("name",)), at_least=at_least, at_most=16)


_HTTP_MATCH: Final = record(
    {
        "path": record(
            {
                "type": enum("Exact", "PathPrefix", "RegularExpression", default="PathPrefix"),
                "value": text(at_most=1024, default="/"),
            }
        ),
        "headers": _HEADER_MATCHES,
        "queryParams": list_of(_QUERY_MATCH, keys=("name",), at_most=16),
        "method": enum(*_METHODS),
    }
)
_HTTP_RULE: Final = record(
    {
        "name": SECTION,
        "matches": list_of(_HTTP_MATCH, at_most=64),
        "filters": _HTTP_FILTERS,
        "backendRefs": _backends(_HTTP_FILTERS),
        "timeouts": record({"request": DURATION, "backendRequest": DURATION}),
        "retry": record({"codes": list_of(integer(400, 599)), "attempts": INTEGER, "backoff": DURATION}),
        "sessionPersistence": _SESSION,
    }
)
_GRPC_MATCH: Final = record(
    {
        "method": record({"type": _MATCH_TYPE, "service": text(at_most=1024), "method": text(at_most=1024)}),
        "headers": _HEADER_MATCHES,
    }
)
_GRPC_RULE: Final = record(
    {
        "name": SECTION,
        "matches": list_of(_GRPC_MATCH, at_most=64),
        "filters": _GRPC_FILTERS,
        "backendRefs": _backends(_GRPC_FILTERS),
        "sessionPersistence": _SESSION,
    }
)
_L4_RULE: Final = record({"name": SECTION, "backendRefs": _backends(at_least=1)}, required=("backendRefs",))

_HOSTNAMES: Final = Column("Hostnames", ".spec.hostnames")


def _route(
    rule: Record, *, hosts: bool = True, required: tuple[str, ...] = (), columns: tuple[Column, ...] = (AGE,)
) -> Table:
    fields: dict[str, Field] = {
        "parentRefs": list_of(PARENT_REF, at_most=32),
        "useDefaultGateways": ALL_OR_NONE,
        "rules": list_of(rule, at_least=1, at_most=16),
    }
    if hosts:
        fields["hostnames"] = list_of(HOSTNAME, at_least=1 if "hostnames" in required else 0, at_most=16)
    return Table(record(fields, required=required), ROUTE_STATUS, columns=columns)


HTTP_ROUTE: Final = _route(_HTTP_RULE, columns=(_HOSTNAMES, AGE))
GRPC_ROUTE: Final = _route(_GRPC_RULE, columns=(_HOSTNAMES, AGE))
TLS_ROUTE: Final = _route(_L4_RULE, required=("hostnames", "rules"))
TCP_ROUTE: Final = _route(_L4_RULE, hosts=False, required=("rules",))
