"""Telemetry of all levels to one: inner levels override outer ones, field by field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from istiod.objects import Telemetry
from istiod.objects.telemetry import (
    AccessLogging,
    CustomTag,
    Metrics,
    MetricSelector,
    MetricsOverrides,
    TracingSettings,
)
from istiod.translate.graph import View
from istiod.translate.l7.catalog import ServiceInfo
from istiod.translate.l7.mesh import mesh_l7
from istiod.translate.l7.providers import ENVOY_LOG, PROMETHEUS, sink
from istiod.translate.l7.routes import Client
from istiod.translate.l7.targets import telemetry_levels
from istiod.translate.l7.units import milliseconds, percent_share
from meshcore import l7
from meshcore.l7 import Metric, SinkKind, TagSource

ALL_METRICS: Final = "ALL_METRICS"
_INTERVAL_MS: Final = 5_000
_SAMPLING: Final = 10_000
"""1 %: PILOT_TRACE_SAMPLING."""


class _Override(NamedTuple):
    disabled: bool
    tags: dict[str, str]
    removed: tuple[str, ...]


def telemetry(view: View, client: Client, gateway: str, service: ServiceInfo | None = None) -> l7.Telemetry:
    """What a proxy counts, logs and traces; `gateway` and `service` as in `targets.telemetry_levels`."""
    levels = telemetry_levels(view, client, gateway, service)
    modes = frozenset(("CLIENT_AND_SERVER", "SERVER" if client.waypoint else "CLIENT"))
    defaults = view.ask(mesh_l7).default_providers
    metrics = [one for level in levels for one in level.spec.metrics]
    default = defaults.metrics if defaults.metrics is not None else (PROMETHEUS,)
    kinds = (sink(view, name, client) for name in _metric_providers(metrics, default))
    return l7.Telemetry(
        prometheus=any(one is not None and one.kind is SinkKind.PROMETHEUS for one in kinds),
        metrics=_metric_rules(metrics, modes),
        interval_ms=next(
            (ms for one in reversed(metrics) if (ms := milliseconds(one.reporting_interval))), _INTERVAL_MS
        ),
        access_logs=_access_logs(view, client, levels, modes),
        tracing=_tracing(view, client, levels, modes),
    )


def _metric_providers(metrics: list[Metrics], default: tuple[str, ...]) -> tuple[str, ...]:
    """The innermost level that names providers decides."""
    named = (tuple(one.name for one in entry.providers) for entry in reversed(metrics))
    return next((names for names in named if names), default)


def _metric_rules(metrics: list[Metrics], modes: frozenset[str]) -> tuple[l7.MetricRule, ...]:
    found: dict[Metric, _Override] = {}
    for entry in metrics:
        for override in entry.overrides:
            if override.match.mode in modes:
                for metric in _metrics(override.match):
                    found[metric] = _overridden(found.get(metric), override)
    rules = (
        l7.MetricRule(metric, one.disabled, tuple(sorted(one.tags.items())), one.removed)
        for metric, one in sorted(found.items())
    )
    return tuple(rule for rule in rules if rule != l7.MetricRule(rule.metric))


def _metrics(match: MetricSelector) -> Iterable[Metric]:
    """Metrics that are not Istio's own are none of ours."""
    name = match.metric
    if match.custom_metric or (name and name != ALL_METRICS):
        return (Metric[name],) if name in Metric.__members__ else ()
    return Metric


def _overridden(before: _Override | None, override: MetricsOverrides) -> _Override:
    disabled, tags, removed = before or _Override(False, {}, ())
    tags, gone = dict(tags), dict.fromkeys(removed)
    for name, change in override.tag_overrides.items():
        tags.pop(name, None)
        gone.pop(name, None)
        if change.operation == "REMOVE":
            gone[name] = None
        else:
            tags[name] = change.value
    return _Override(disabled if override.disabled is None else override.disabled, tags, tuple(gone))


def _access_logs(
    view: View, client: Client, levels: tuple[Telemetry, ...], modes: frozenset[str]
) -> tuple[l7.AccessLog, ...]:
    """Per provider, the innermost level that speaks of it counts. One without providers means those already chosen."""
    mesh = view.ask(mesh_l7)
    default = mesh.default_providers.access_logging or ((ENVOY_LOG,) if mesh.access_log_file else ())
    chosen: dict[str, str] = dict.fromkeys(default, "")
    for level in levels:
        entries = [entry for entry in level.spec.access_logging if entry.match.mode in modes]
        if any(entry.providers and not entry.disabled for entry in entries):
            chosen = {}
        for entry in entries:
            names = tuple(one.name for one in entry.providers) or tuple(chosen) or default
            _log(chosen, names, entry)
    sinks = ((sink(view, name, client), expression) for name, expression in chosen.items())
    return tuple(l7.AccessLog(to, expression) for to, expression in sinks if to is not None)


def _log(chosen: dict[str, str], names: tuple[str, ...], entry: AccessLogging) -> None:
    for name in names:
        if entry.disabled:
            chosen.pop(name, None)
        else:
            chosen[name] = entry.filter.expression if entry.filter is not None else chosen.get(name, "")


def _tracing(view: View, client: Client, levels: tuple[Telemetry, ...], modes: frozenset[str]) -> l7.Tracing | None:
    """None if nobody asked for traces."""
    merged = TracingSettings()
    asked = False
    for level in levels:
        for entry in level.spec.tracing:
            if entry.match.mode in modes:
                asked = True
                merged = _innermost(merged, entry)
    names = tuple(one.name for one in merged.providers) or view.ask(mesh_l7).default_providers.tracing
    if not asked and not names:
        return None
    to = sink(view, names[0], client) if names and not merged.disable_span_reporting else None
    percent = merged.random_sampling_percentage
    return l7.Tracing(
        sink=to,
        sampling=_SAMPLING if percent is None else percent_share(percent),
        tags=tuple(tag for name, one in sorted(merged.custom_tags.items()) if (tag := _tag(name, one)) is not None),
        use_request_id=merged.use_request_id_for_trace_sampling is not False,
        istio_tags=merged.enable_istio_tags is not False,
        propagate=not merged.disable_context_propagation,
    )


def _innermost(outer: TracingSettings, inner: TracingSettings) -> TracingSettings:
    def over(field: str) -> bool | None:
        value: bool | None = getattr(inner, field)
        kept: bool | None = getattr(outer, field)
        return kept if value is None else value

    sampling = inner.random_sampling_percentage
    return TracingSettings(
        providers=inner.providers or outer.providers,
        random_sampling_percentage=outer.random_sampling_percentage if sampling is None else sampling,
        disable_span_reporting=over("disable_span_reporting"),
        custom_tags=inner.custom_tags or outer.custom_tags,
        use_request_id_for_trace_sampling=over("use_request_id_for_trace_sampling"),
        enable_istio_tags=over("enable_istio_tags"),
        disable_context_propagation=over("disable_context_propagation"),
    )


def _tag(name: str, tag: CustomTag) -> l7.SpanTag | None:
    if tag.literal is not None:
        return l7.SpanTag(name, TagSource.LITERAL, tag.literal.value)
    if tag.formatter is not None:
        return l7.SpanTag(name, TagSource.FORMATTER, tag.formatter.value)
    if tag.environment is not None:
        return l7.SpanTag(name, TagSource.ENVIRONMENT, tag.environment.name, tag.environment.default_value)
    if tag.header is not None:
        return l7.SpanTag(name, TagSource.HEADER, tag.header.name.lower(), tag.header.default_value)
    return None
