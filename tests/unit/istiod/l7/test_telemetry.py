"""Telemetry: levels, and what each area comes to at a waypoint."""

from __future__ import annotations

import pytest

from meshcore import l7
from meshcore.l7 import AccessLog, Metric, MetricRule, Sink, SinkKind, SpanTag, TagSource
from tests.unit.istiod.l7.support import RATINGS, REVIEWS, Mesh, mesh_config, obj

TO_SERVICE = "targetRefs: [{kind: Service, name: reviews}]"
TO_WAYPOINT = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]"
TO_CLASS = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]"
STDOUT = Sink("envoy", SinkKind.FILE, path="/dev/stdout")
ALL = tuple(Metric)


def telemetry(spec: str, name: str = "t", *, namespace: str = "default", created: int = 0) -> str:
    return obj("Telemetry", name, spec, namespace=namespace, created=created)


def observed(*documents: str) -> l7.Telemetry:
    return Mesh(*documents).service().telemetry


def test_by_default_there_are_metrics_and_nothing_else() -> None:
    assert observed() == l7.Telemetry()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("{match: {metric: REQUEST_COUNT}, disabled: true}", (MetricRule(Metric.REQUEST_COUNT, True),)),
        ("{disabled: true}", tuple(MetricRule(one, True) for one in ALL)),
        ("{match: {metric: ALL_METRICS, mode: CLIENT}, disabled: true}", ()),
        ("{match: {mode: SERVER, metric: REQUEST_SIZE}, disabled: true}", (MetricRule(Metric.REQUEST_SIZE, True),)),
        ("{match: {customMetric: mine}, disabled: true}", ()),
        (
            "{match: {metric: REQUEST_COUNT}, tagOverrides: {a: {value: b}, c: {operation: REMOVE}}}",
            (MetricRule(Metric.REQUEST_COUNT, tags=(("a", "b"),), removed=("c",)),),
        ),
        (
            "{match: {metric: REQUEST_COUNT}, disabled: true}, {match: {metric: REQUEST_COUNT}, disabled: false}",
            (),
        ),
    ],
)
def test_metrics(overrides: str, expected: tuple[MetricRule, ...]) -> None:
    assert observed(telemetry(f"metrics: [{{overrides: [{overrides}]}}]")).metrics == expected


def test_metric_providers_and_interval() -> None:
    assert not observed(telemetry("metrics: [{providers: [{name: gone}]}]")).prometheus
    assert not observed(mesh_config("defaultProviders: {metrics: []}")).prometheus
    mesh = mesh_config("extensionProviders: [{name: mine, prometheus: {}}]")
    found = observed(telemetry("metrics: [{providers: [{name: mine}], reportingInterval: 10s}]"), mesh)
    assert (found.prometheus, found.interval_ms) == (True, 10_000)


def override(value: str) -> str:
    tags = f"{{{value}: {{value: x}}, who: {{value: {value}}}}}"
    return f"metrics: [{{overrides: [{{match: {{metric: REQUEST_COUNT}}, tagOverrides: {tags}}}]}}]"


def test_inner_levels_override_outer_ones() -> None:
    levels = [
        telemetry(override("root"), namespace="istio-system"),
        telemetry(override("younger"), "u", namespace="istio-system", created=1),  # one a namespace: the oldest
        telemetry(override("proxy")),
        telemetry(f"{override('class')}\n{TO_CLASS}", "c", namespace="istio-system"),
        telemetry(f"{override('gateway')}\n{TO_WAYPOINT}", "g"),
        telemetry(f"{override('service')}\n{TO_SERVICE}", "s"),
        telemetry(f"{override('pods')}\nselector: {{matchLabels: {{app: a}}}}", "p"),
        telemetry(override("elsewhere"), namespace="other"),
    ]
    mesh = Mesh(*reversed(levels))
    (service,) = mesh.service().telemetry.metrics
    outer = dict.fromkeys(("root", "proxy", "class", "gateway"), "x")
    assert dict(service.tags) == {**outer, "who": "service", "service": "x"}
    (waypoint,) = mesh.waypoint().telemetry.metrics
    assert dict(waypoint.tags) == {**outer, "who": "gateway"}


LOGS = """
extensionProviders:
  - name: text
    envoyFileAccessLog: {path: /tmp/log, logFormat: {text: '%PROTOCOL%'}}
  - name: fields
    envoyFileAccessLog: {logFormat: {labels: {a: b}}}
  - name: otel
    envoyOtelAls: {service: ratings.default.svc.cluster.local, port: 8080}
"""


@pytest.mark.parametrize(
    ("logging", "expected"),
    [
        ("{providers: [{name: envoy}]}", (AccessLog(STDOUT),)),
        ("{providers: [{name: envoy}], match: {mode: CLIENT}}", ()),
        ("{providers: [{name: envoy}], disabled: true}", ()),
        ("{providers: [{name: nobody}]}", ()),
        ("{providers: [{name: text}]}", (AccessLog(Sink("text", SinkKind.FILE, path="/tmp/log", text="%PROTOCOL%")),)),
        (
            "{providers: [{name: fields}]}",
            (AccessLog(Sink("fields", SinkKind.FILE, path="/dev/stdout", fields=(("a", "b"),), json=True)),),
        ),
        (
            "{providers: [{name: otel}], filter: {expression: response.code >= 400}}",
            (AccessLog(Sink("otel", SinkKind.OTLP_GRPC, l7.Backend(RATINGS, 8080)), "response.code >= 400"),),
        ),
    ],
)
def test_access_logs(logging: str, expected: tuple[AccessLog, ...]) -> None:
    assert observed(telemetry(f"accessLogging: [{logging}]"), mesh_config(LOGS)).access_logs == expected


def test_the_destination_of_a_log_is_sent_as_well() -> None:
    service = Mesh(telemetry("accessLogging: [{providers: [{name: otel}]}]"), mesh_config(LOGS)).service()
    assert [one.service for one in service.destinations] == [RATINGS, REVIEWS]


def test_the_mesh_logs_and_one_namespace_does_not() -> None:
    mesh = mesh_config("{accessLogFile: /dev/stdout, accessLogEncoding: JSON}")
    assert observed(mesh).access_logs == (AccessLog(Sink("envoy", SinkKind.FILE, path="/dev/stdout", json=True)),)
    assert observed(mesh, telemetry("accessLogging: [{disabled: true}]")).access_logs == ()
    chosen = mesh_config(f"defaultProviders: {{accessLogging: [text]}}\naccessLogFile: /dev/stdout{LOGS}")
    assert [one.sink.name for one in observed(chosen).access_logs] == ["text"]
    elsewhere = observed(
        mesh_config(f"accessLogFile: /dev/stdout{LOGS}"), telemetry("accessLogging: [{providers: [{name: fields}]}]")
    )
    assert [one.sink.name for one in elsewhere.access_logs] == ["fields"]
    filtered = observed(mesh, telemetry("accessLogging: [{filter: {expression: x}}]")).access_logs
    assert [one.filter for one in filtered] == ["x"]


TRACERS = """
extensionProviders:
  - {name: z, zipkin: {service: ratings.default.svc.cluster.local, port: 8080, maxTagLength: 9}}
  - {name: o, opentelemetry: {service: gone.example, port: 4317}}
  - {name: h, opentelemetry: {service: gone.example, port: 4318, http: {path: /v1, timeout: 1s}}}
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("z", Sink("z", SinkKind.ZIPKIN, l7.Backend(RATINGS, 8080), max_tag_length=9)),
        ("o", Sink("o", SinkKind.OTLP_GRPC, l7.Backend(status=503))),
        ("h", Sink("h", SinkKind.OTLP_HTTP, l7.Backend(status=503), path="/v1", timeout_ms=1000)),
        ("gone", None),
    ],
)
def test_tracers(name: str, expected: Sink | None) -> None:
    found = observed(telemetry(f"tracing: [{{providers: [{{name: {name}}}]}}]"), mesh_config(TRACERS))
    assert found.tracing == l7.Tracing(expected)


def test_tracing_merges_field_by_field() -> None:
    mesh = mesh_config(f"{TRACERS}defaultProviders: {{tracing: [z]}}")
    assert observed(mesh).tracing == l7.Tracing(Sink("z", SinkKind.ZIPKIN, l7.Backend(RATINGS, 8080), max_tag_length=9))
    outer = telemetry(
        "tracing: [{randomSamplingPercentage: 12.5, enableIstioTags: false, customTags: {a: {literal: {value: b}}}}]",
        namespace="istio-system",
    )
    inner = telemetry("tracing: [{disableSpanReporting: true, randomSamplingPercentage: 0}]")
    found = observed(mesh, outer, inner).tracing
    assert found == l7.Tracing(None, 0, (SpanTag("a", TagSource.LITERAL, "b"),), istio_tags=False)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("literal: {value: v}", SpanTag("t", TagSource.LITERAL, "v")),
        ("environment: {name: E, defaultValue: d}", SpanTag("t", TagSource.ENVIRONMENT, "E", "d")),
        ("header: {name: X-H, defaultValue: d}", SpanTag("t", TagSource.HEADER, "x-h", "d")),
        ("formatter: {value: '%PROTOCOL%'}", SpanTag("t", TagSource.FORMATTER, "%PROTOCOL%")),
    ],
)
def test_span_tags(tag: str, expected: SpanTag) -> None:
    found = observed(telemetry(f"tracing: [{{customTags: {{t: {{{tag}}}}}}}]")).tracing
    assert found is not None
    assert found.tags == (expected,)
