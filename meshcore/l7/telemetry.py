"""Telemetry: what is counted, logged and traced, and where that goes."""

from __future__ import annotations

import enum

from meshcore.l7.match import Wire
from meshcore.l7.route import Backend


class Metric(enum.IntEnum):
    """Istio's standard metrics."""

    REQUEST_COUNT = 0
    REQUEST_DURATION = 1
    REQUEST_SIZE = 2
    RESPONSE_SIZE = 3
    TCP_OPENED_CONNECTIONS = 4
    TCP_CLOSED_CONNECTIONS = 5
    TCP_SENT_BYTES = 6
    TCP_RECEIVED_BYTES = 7
    GRPC_REQUEST_MESSAGES = 8
    GRPC_RESPONSE_MESSAGES = 9


class MetricRule(Wire, frozen=True):
    """What differs from a metric's standard form. `tags` are (name, CEL expression), to be set; `removed` go."""

    metric: Metric
    disabled: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()


class SinkKind(enum.IntEnum):
    """PROMETHEUS is scraped, FILE written, the others are sent to `backend`."""

    PROMETHEUS = 0
    FILE = 1
    OTLP_GRPC = 2
    OTLP_HTTP = 3
    ZIPKIN = 4
    ENVOY_ALS = 5
    ENVOY_TCP_ALS = 6
    DATADOG = 7
    SKYWALKING = 8


class Sink(Wire, frozen=True):
    """Where telemetry goes; nowhere if `backend` has a status. `path`: the file, or the URL's.

    Log lines follow `text`; with `json` they are objects of `fields`, or of the standard fields if there are none.
    """

    name: str
    kind: SinkKind
    backend: Backend | None = None
    path: str = ""
    text: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    timeout_ms: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    max_tag_length: int = 256
    json: bool = False


class AccessLog(Wire, frozen=True):
    """`filter` is a CEL expression; empty is every request."""

    sink: Sink
    filter: str = ""


class TagSource(enum.IntEnum):
    LITERAL = 0
    ENVIRONMENT = 1
    HEADER = 2
    FORMATTER = 3


class SpanTag(Wire, frozen=True):
    """`value` is the text, or the name to look up with a default for when nothing is there."""

    name: str
    source: TagSource
    value: str
    default: str = ""


class Tracing(Wire, frozen=True):
    """`sampling` in parts per million. `sink` None: spans are not reported, the context is still passed on."""

    sink: Sink | None = None
    sampling: int = 10_000
    tags: tuple[SpanTag, ...] = ()
    use_request_id: bool = True
    istio_tags: bool = True
    propagate: bool = True


class Telemetry(Wire, frozen=True):
    """All levels merged. Without `prometheus` no metrics are counted."""

    prometheus: bool = True
    metrics: tuple[MetricRule, ...] = ()
    interval_ms: int = 5_000
    access_logs: tuple[AccessLog, ...] = ()
    tracing: Tracing | None = None
