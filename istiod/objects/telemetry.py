"""Telemetry of telemetry.istio.io. A field is None where "not set" keeps what an outer level says."""

from __future__ import annotations

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object, Selector, TargetRef


class ProviderRef(Object, frozen=True):
    name: str = ""


class ModeMatch(Object, frozen=True):
    mode: str = "CLIENT_AND_SERVER"


class MetricSelector(Object, frozen=True):
    metric: str = ""
    custom_metric: str = ""
    mode: str = "CLIENT_AND_SERVER"


class TagOverride(Object, frozen=True):
    operation: str = "UPSERT"
    value: str = ""


class MetricsOverrides(Object, frozen=True):
    match: MetricSelector = MetricSelector()
    disabled: bool | None = None
    tag_overrides: dict[str, TagOverride] = msgspec.field(default_factory=dict)


class Metrics(Object, frozen=True):
    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverrides, ...] = ()
    reporting_interval: str = ""


class LogFilter(Object, frozen=True):
    expression: str = ""


class AccessLogging(Object, frozen=True):
    match: ModeMatch = ModeMatch()
    providers: tuple[ProviderRef, ...] = ()
    disabled: bool | None = None
    filter: LogFilter | None = None


class LiteralTag(Object, frozen=True):
    value: str = ""


class NamedTag(Object, frozen=True):
    name: str = ""
    default_value: str = ""


class CustomTag(Object, frozen=True):
    literal: LiteralTag | None = None
    environment: NamedTag | None = None
    header: NamedTag | None = None
    formatter: LiteralTag | None = None


class TracingSettings(Object, frozen=True):
    match: ModeMatch = ModeMatch()
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: float | None = None
    disable_span_reporting: bool | None = None
    custom_tags: dict[str, CustomTag] = msgspec.field(default_factory=dict)
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None
    disable_context_propagation: bool | None = None


class TelemetrySpec(Object, frozen=True):
    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
    tracing: tuple[TracingSettings, ...] = ()


class Telemetry(Object, frozen=True):
    metadata: Meta
    spec: TelemetrySpec = TelemetrySpec()
    status: ConditionedStatus = ConditionedStatus()
