"""Istio's Gateway, ServiceEntry, WorkloadEntry, WorkloadGroup and Sidecar. Source: Istio API networking.v1alpha3."""

from __future__ import annotations

from typing import Final

from istiod.schema.destination_rule import CONNECTION_POOL
from istiod.schema.fields import (
    AGE,
    FLAG,
    LABELS,
    TEXT,
    TEXTS,
    UNSIGNED,
    Column,
    Table,
    enum,
    integer,
    list_of,
    names,
    record,
    text,
)
from istiod.schema.shared import (
    DESTINATION,
    EXPORT_TO,
    SERVICE_PORT,
    STATUS,
    STATUS_FIELDS,
    WORKLOAD,
    WORKLOAD_SELECTOR,
)

_TLS_VERSION: Final = enum("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3")
_FILES: Final = names("serverCertificate", "privateKey", "caCertificates")
_SERVER_TLS: Final = record(
    {
        "mode": enum("PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"),
        **_FILES,
        **names("caCrl", "credentialName", "caCertCredentialName"),
        "credentialNames": list_of(TEXT, at_most=2),
        "tlsCertificates": list_of(record(_FILES), at_most=2),
        **dict.fromkeys(("subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash", "cipherSuites"), TEXTS),
        "minProtocolVersion": _TLS_VERSION,
        "maxProtocolVersion": _TLS_VERSION,
        "httpsRedirect": FLAG,
        "insecureSkipVerify": FLAG,
    }
)
_SERVER: Final = record(
    {
        "port": record(SERVICE_PORT.fields, required=("number", "protocol", "name")),
        **names("bind", "defaultEndpoint", "name"),
        "hosts": TEXTS,
        "tls": _SERVER_TLS,
    },
    required=("port", "hosts"),
)
GATEWAY: Final = Table(record({"servers": list_of(_SERVER), "selector": LABELS}), STATUS, ("gw",))

_ENTRY_PORT: Final = record(
    {
        "number": UNSIGNED,
        "protocol": text(at_most=256),
        "name": text(at_least=1, at_most=256),
        "targetPort": UNSIGNED,
    },
    required=("number", "name"),
)
SERVICE_ENTRY: Final = Table(
    record(
        {
            "hosts": list_of(TEXT, at_least=1, at_most=256),
            "addresses": list_of(text(at_most=64), at_most=256),
            "ports": list_of(_ENTRY_PORT, keys=("name",), at_most=256),
            "location": enum("MESH_EXTERNAL", "MESH_INTERNAL"),
            "resolution": enum("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"),
            "endpoints": list_of(WORKLOAD, at_most=4096),
            "workloadSelector": WORKLOAD_SELECTOR,
            "exportTo": EXPORT_TO,
            "subjectAltNames": TEXTS,
        },
        required=("hosts",),
    ),
    record({**STATUS_FIELDS, "addresses": list_of(record(names("value", "host")))}),
    ("se",),
    (
        Column("Hosts", ".spec.hosts"),
        Column("Location", ".spec.location"),
        Column("Resolution", ".spec.resolution"),
        AGE,
    ),
)
WORKLOAD_ENTRY: Final = Table(WORKLOAD, STATUS, ("we",), (AGE, Column("Address", ".spec.address")))

_SECONDS: Final = integer(0)
_PROBE: Final = record(
    {
        **dict.fromkeys(("initialDelaySeconds", "timeoutSeconds", "periodSeconds"), _SECONDS),
        **dict.fromkeys(("successThreshold", "failureThreshold"), _SECONDS),
        "httpGet": record(
            {
                **names("path", "host", "scheme"),
                "port": UNSIGNED,
                "httpHeaders": list_of(record(names("name", "value"))),
            },
            required=("port",),
        ),
        "tcpSocket": record({"host": TEXT, "port": UNSIGNED}, required=("port",)),
        "exec": record({"command": TEXTS}),
        "grpc": record({"port": UNSIGNED, "service": TEXT}),
    },
    one_of=(("httpGet", "tcpSocket", "exec", "grpc"),),
)
WORKLOAD_GROUP: Final = Table(
    record(
        {
            "metadata": record({"labels": LABELS, "annotations": LABELS}),
            "template": WORKLOAD,
            "probe": _PROBE,
        },
        required=("template",),
    ),
    STATUS,
    ("wg",),
    (AGE,),
)

_CAPTURE: Final = enum("DEFAULT", "IPTABLES", "NONE")
SIDECAR: Final = Table(
    record(
        {
            "workloadSelector": WORKLOAD_SELECTOR,
            "ingress": list_of(
                record(
                    {
                        "port": SERVICE_PORT,
                        **names("bind", "defaultEndpoint"),
                        "captureMode": _CAPTURE,
                        "tls": _SERVER_TLS,
                        "connectionPool": CONNECTION_POOL,
                    },
                    required=("port",),
                ),
            ),
            "egress": list_of(
                record(
                    {"port": SERVICE_PORT, "bind": TEXT, "captureMode": _CAPTURE, "hosts": TEXTS}, required=("hosts",)
                ),
            ),
            "inboundConnectionPool": CONNECTION_POOL,
            "outboundTrafficPolicy": record(
                {"mode": enum("REGISTRY_ONLY", "ALLOW_ANY"), "egressProxy": DESTINATION},
            ),
        }
    ),
    STATUS,
)
