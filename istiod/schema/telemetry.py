"""Telemetry. Source: Istio API telemetry.v1alpha1."""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import AGE, DURATION, FLAG, TEXT, Table, enum, list_of, map_of, names, number, record, text
from istiod.schema.shared import PROVIDER, STATUS, TARGETS, TRAFFIC_MODE

_PROVIDERS: Final = list_of(PROVIDER)
_MODE: Final = record({"mode": TRAFFIC_MODE})
_FILLED: Final = text(at_least=1)
_FROM_NAME: Final = record({"name": _FILLED, "defaultValue": TEXT}, required=("name",))
_TAG: Final = record(
    {
        "literal": record({"value": _FILLED}, required=("value",)),
        "environment": _FROM_NAME,
        "header": _FROM_NAME,
        "formatter": record({"value": _FILLED}, required=("value",)),
    },
    one_of=(("literal", "environment", "header", "formatter"),),
)
_TRACING: Final = record(
    {
        "match": _MODE,
        "providers": _PROVIDERS,
        "randomSamplingPercentage": number(0, 100),
        "customTags": map_of(_TAG),
        **dict.fromkeys(("disableSpanReporting", "useRequestIdForTraceSampling", "enableIstioTags"), FLAG),
        "disableContextPropagation": FLAG,
    }
)
_METRIC: Final = enum(
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
)
_OVERRIDE: Final = record(
    {
        "match": record(
            {"metric": _METRIC, "customMetric": _FILLED, "mode": TRAFFIC_MODE}, one_of=(("metric", "customMetric"),)
        ),
        "disabled": FLAG,
        "tagOverrides": map_of(record({"operation": enum("UPSERT", "REMOVE"), "value": TEXT})),
    }
)
_METRICS: Final = record({"providers": _PROVIDERS, "overrides": list_of(_OVERRIDE), "reportingInterval": DURATION})
_ACCESS_LOGGING: Final = record(
    {"match": _MODE, "providers": _PROVIDERS, "disabled": FLAG, "filter": record(names("expression"))}
)
TELEMETRY: Final = Table(
    record(
        {
            **TARGETS,
            "tracing": list_of(_TRACING),
            "metrics": list_of(_METRICS),
            "accessLogging": list_of(_ACCESS_LOGGING),
        }
    ),
    STATUS,
    ("telemetry",),
    (AGE,),
)
