"""MeshConfig's extensionProviders: external authorizers, and where telemetry goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from istiod.objects.mesh_l7 import BodyCheck, ExtensionProvider, FileLog, LogFormat, LogService, TraceProvider
from istiod.translate.graph import View
from istiod.translate.l7.authorization import text
from istiod.translate.l7.catalog import full_hostname, service_info
from istiod.translate.l7.mesh import mesh_l7, provider
from istiod.translate.l7.routes import Client, backend, backend_of
from istiod.translate.l7.units import milliseconds
from meshcore.l7 import Authorizer, AuthorizerKind, Backend, Sink, SinkKind, TextMatch

PROMETHEUS: Final = "prometheus"
ENVOY_LOG: Final = "envoy"
"""The built-in provider of access logs: MeshConfig.accessLogFile, else the standard output."""
_TIMEOUT_MS: Final = 600_000
_DENIED: Final = 403
_STATUS_MIN: Final = 200
_STATUS_MAX: Final = 599
_JSON_LOG: Final = "JSON"


def authorizer(view: View, name: str, client: Client) -> Authorizer:
    """The external authorizer of CUSTOM policies; a name that means nothing, or no service, denies (`failOpen` is for
    one that does not answer).
    """
    found = provider(view, name)
    http = found.envoy_ext_authz_http if found is not None else None
    grpc = found.envoy_ext_authz_grpc if found is not None else None
    wanted = http or grpc
    to = _service(view, wanted.service, wanted.port, client) if wanted is not None else None
    if to is None or to.status:
        return Authorizer(name)
    if http is not None:
        allowed = http.include_request_headers_in_check or http.include_headers_in_check
        return Authorizer(
            name,
            AuthorizerKind.HTTP,
            to,
            timeout_ms=milliseconds(http.timeout) or _TIMEOUT_MS,
            fail_open=http.fail_open,
            status_on_error=_status(http.status_on_error),
            path_prefix=http.path_prefix,
            check_headers=_patterns(allowed),
            add_headers=tuple((key.lower(), value) for key, value in http.include_additional_headers_in_check.items()),
            max_body=_body(http.include_request_body_in_check).max_request_bytes,
            partial_body=_body(http.include_request_body_in_check).allow_partial_message,
            body_as_bytes=_body(http.include_request_body_in_check).pack_as_bytes,
            upstream_headers=_patterns(http.headers_to_upstream_on_allow),
            denied_headers=_patterns(http.headers_to_downstream_on_deny),
            allowed_headers=_patterns(http.headers_to_downstream_on_allow),
            clear_route=http.clear_route_cache,
        )
    if grpc is not None:
        return Authorizer(
            name,
            AuthorizerKind.GRPC,
            to,
            timeout_ms=milliseconds(grpc.timeout) or _TIMEOUT_MS,
            fail_open=grpc.fail_open,
            status_on_error=_status(grpc.status_on_error),
            max_body=_body(grpc.include_request_body_in_check).max_request_bytes,
            partial_body=_body(grpc.include_request_body_in_check).allow_partial_message,
            body_as_bytes=_body(grpc.include_request_body_in_check).pack_as_bytes,
            clear_route=grpc.clear_route_cache,
        )
    return Authorizer(name)


def sink(view: View, name: str, client: Client) -> Sink | None:
    """Where a provider of telemetry sends to; None if there is no such provider."""
    found = provider(view, name)
    if found is None:
        return _built_in(view, name)
    if found.prometheus is not None:
        return Sink(name, SinkKind.PROMETHEUS)
    if found.envoy_file_access_log is not None:
        return _file(name, found.envoy_file_access_log)
    logs: tuple[tuple[LogService | None, SinkKind], ...] = (
        (found.envoy_http_als, SinkKind.ENVOY_ALS),
        (found.envoy_tcp_als, SinkKind.ENVOY_TCP_ALS),
        (found.envoy_otel_als, SinkKind.OTLP_GRPC),
    )
    for log, kind in logs:
        if log is not None:
            to = _service(view, log.service, log.port, client)
            return Sink(name, kind, to, text=log.log_format.text, fields=tuple(log.log_format.labels.items()))
    return _tracer(view, found, client)


def _tracer(view: View, found: ExtensionProvider, client: Client) -> Sink | None:
    http = found.opentelemetry.http if found.opentelemetry is not None else None
    kinds: tuple[tuple[TraceProvider | None, SinkKind], ...] = (
        (found.zipkin, SinkKind.ZIPKIN),
        (found.opentelemetry, SinkKind.OTLP_HTTP if http is not None else SinkKind.OTLP_GRPC),
        (found.datadog, SinkKind.DATADOG),
        (found.skywalking, SinkKind.SKYWALKING),
    )
    for tracer, kind in kinds:
        if tracer is None:
            continue
        return Sink(
            found.name,
            kind,
            _service(view, tracer.service, tracer.port, client),
            path=http.path if http is not None else tracer.path,
            timeout_ms=milliseconds(http.timeout if http is not None else tracer.timeout),
            max_tag_length=tracer.max_tag_length,
        )
    return None


def _built_in(view: View, name: str) -> Sink | None:
    if name == PROMETHEUS:
        return Sink(name, SinkKind.PROMETHEUS)
    if name != ENVOY_LOG:
        return None
    mesh = view.ask(mesh_l7)
    text = mesh.access_log_format
    json = mesh.access_log_encoding == _JSON_LOG
    return Sink(name, SinkKind.FILE, path=mesh.access_log_file or "/dev/stdout", text=text, json=json)


def _file(name: str, log: FileLog) -> Sink:
    form: LogFormat = log.log_format
    return Sink(
        name,
        SinkKind.FILE,
        path=log.path,
        text=form.text,
        fields=tuple(form.labels.items()),
        json=bool(form.labels),
    )


def _service(view: View, service: str, port: int, client: Client) -> Backend:
    """Providers are named `host` or `namespace/host`; with a namespace the service is that one and no other."""
    namespace, _, host = service.rpartition("/")
    if not namespace:
        return backend(view, host, "", port, client.namespace, client, port)
    return backend_of(view.ask(service_info, namespace, full_hostname(view, host, namespace)), "", port, port)


def _patterns(names: Iterable[str]) -> tuple[TextMatch, ...]:
    return tuple(text(name.lower()) for name in names)


def _status(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and _STATUS_MIN <= int(text[:4]) <= _STATUS_MAX else _DENIED


def _body(check: BodyCheck | None) -> BodyCheck:
    return check or BodyCheck()
