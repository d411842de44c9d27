"""DestinationRule. Source: Istio API networking.v1alpha3, destination_rule.proto."""

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
    Number,
    Table,
    enum,
    list_of,
    map_of,
    names,
    number,
    record,
)
from istiod.schema.shared import EXPORT_TO, MATCH_LABELS, STATUS

_COOKIE: Final = record(
    {**names("name", "path"), "ttl": DURATION, "attributes": list_of(record(names("name", "value")))},
    required=("name",),
)
_SIZE: Final = Number(0)
_CONSISTENT_HASH: Final = record(
    {
        **names("httpHeaderName", "httpQueryParameterName"),
        "httpCookie": _COOKIE,
        "useSourceIp": FLAG,
        "ringHash": record({"minimumRingSize": _SIZE}),
        "maglev": record({"tableSize": _SIZE}),
        "minimumRingSize": _SIZE,
    },
    one_of=(
        ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"),
        ("ringHash", "maglev"),
    ),
)
_FAILOVER: Final = list_of(record(names("from", "to")))
_LOCALITY: Final = record(
    {
        "enabled": FLAG,
        "distribute": list_of(record({"from": TEXT, "to": map_of(UNSIGNED)})),
        "failover": _FAILOVER,
        "failoverPriority": TEXTS,
    }
)
_ZONE_AWARE: Final = record(
    {"enabled": FLAG, "failover": _FAILOVER, "failoverPriority": TEXTS, "minClusterSize": UNSIGNED}
)
_LOAD_BALANCER: Final = record(
    {
        "simple": enum("UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"),
        "consistentHash": _CONSISTENT_HASH,
        "localityLbSetting": _LOCALITY,
        "zoneAwareLbSetting": _ZONE_AWARE,
        "warmupDurationSecs": DURATION,
        "warmup": record(
            {"duration": DURATION, "minimumPercent": number(0, 100), "aggression": number(0)},
            required=("duration",),
        ),
    },
    one_of=(("simple", "consistentHash"),),
)
_TCP_POOL: Final = record(
    {
        "maxConnections": INTEGER,
        "connectTimeout": DURATION,
        "tcpKeepalive": record({"probes": UNSIGNED, "time": DURATION, "interval": DURATION}),
        "maxConnectionDuration": DURATION,
        "idleTimeout": DURATION,
    }
)
_HTTP_POOL: Final = record(
    {
        "http1MaxPendingRequests": INTEGER,
        "http2MaxRequests": INTEGER,
        "maxRequestsPerConnection": INTEGER,
        "maxRetries": INTEGER,
        "idleTimeout": DURATION,
        "h2UpgradePolicy": enum("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"),
        "useClientProtocol": FLAG,
        "maxConcurrentStreams": INTEGER,
        "http2KeepAlive": record({"interval": DURATION, "timeout": DURATION}),
    }
)
CONNECTION_POOL: Final = record({"tcp": _TCP_POOL, "http": _HTTP_POOL})
_OUTLIER_DETECTION: Final = record(
    {
        "consecutiveErrors": INTEGER,
        "splitExternalLocalOriginErrors": FLAG,
        "consecutiveLocalOriginFailures": UNSIGNED,
        "consecutiveGatewayErrors": UNSIGNED,
        "consecutive5xxErrors": UNSIGNED,
        "interval": DURATION,
        "baseEjectionTime": DURATION,
        "maxEjectionPercent": INTEGER,
        "minHealthPercent": INTEGER,
        "outlierDetectionHttpErrorCodes": list_of(UNSIGNED),
    }
)
_TLS: Final = record(
    {
        "mode": enum("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"),
        **names("clientCertificate", "privateKey", "caCertificates", "caCrl", "credentialName", "sni"),
        "subjectAltNames": TEXTS,
        "insecureSkipVerify": FLAG,
    }
)
_PORT_POLICY: Final = {
    "loadBalancer": _LOAD_BALANCER,
    "connectionPool": CONNECTION_POOL,
    "outlierDetection": _OUTLIER_DETECTION,
    "tls": _TLS,
}
_TRAFFIC_POLICY: Final = record(
    {
        **_PORT_POLICY,
        "portLevelSettings": list_of(record({"port": record({"number": UNSIGNED}), **_PORT_POLICY}), at_most=4096),
        "tunnel": record(
            {**names("protocol", "targetHost"), "targetPort": UNSIGNED}, required=("targetHost", "targetPort")
        ),
        "proxyProtocol": record({"version": enum("V1", "V2")}),
        "retryBudget": record(
            {"percent": number(0, 100), "minRetryConcurrency": UNSIGNED, "budgetInterval": DURATION},
        ),
    }
)

DESTINATION_RULE: Final = Table(
    record(
        {
            "host": TEXT,
            "trafficPolicy": _TRAFFIC_POLICY,
            "subsets": list_of(
                record({"name": TEXT, "labels": LABELS, "trafficPolicy": _TRAFFIC_POLICY}, required=("name",)),
            ),
            "exportTo": EXPORT_TO,
            "workloadSelector": MATCH_LABELS,
        },
        required=("host",),
    ),
    STATUS,
    ("dr",),
    (Column("Host", ".spec.host"), AGE),
)
