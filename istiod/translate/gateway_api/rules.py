"""The rules of one route in terms of the model, with their rank among those of other routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from istiod.objects import GRPCRoute, HTTPRoute, TLSRoute
from istiod.objects.routes import (
    BackendRef,
    GRPCMatch,
    GRPCMethodMatch,
    GRPCRule,
    HTTPMatch,
    HTTPPathMatch,
    HTTPRetry,
    HTTPRule,
    HTTPTimeouts,
    Route,
    RouteFilter,
    ValueMatch,
)
from istiod.translate.gateway_api.backends import INVALID_STATUS, weighted
from istiod.translate.gateway_api.filters import (
    BACKEND_FILTERS,
    GRPC_FILTERS,
    HTTP_FILTERS,
    Filters,
    translate,
)
from istiod.translate.gateway_api.indexes import ROUTES
from istiod.translate.gateway_api.listeners import ACCEPTED
from istiod.translate.gateway_api.references import RESOLVED, Referrer
from istiod.translate.graph import View
from istiod.translate.l7.mesh import mesh_l7
from istiod.translate.l7.retry import DEFAULT as RETRY_DEFAULT
from istiod.translate.l7.retry import outbound_retry
from istiod.translate.l7.units import milliseconds
from istiod.translate.statuses import Verdict
from istiod.validate.field import Field
from istiod.validate.texts import regex
from meshcore import l7

Rank: TypeAlias = tuple[int, int, int, int, int, str, str, str, int, int]
"""Sorts before: exact path, prefix, regex; longer path; with a method; more headers; more query parameters; then the
oldest route, its namespace and name, the number of the rule and of the match.
"""

BACKOFF_FACTOR: Final = 10
"""The longest wait, in base intervals."""
_DURATION: Final = re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}")
"""GEP-2257: no fractions."""
_SEGMENT: Final = "[^/]+"


class RankedRule(msgspec.Struct, frozen=True):
    rank: Rank
    rule: l7.HttpRule


class RankedStream(msgspec.Struct, frozen=True):
    """`rank` is the age of the route and the number of the rule."""

    rank: tuple[str, str, str, int]
    rule: l7.StreamRule


class RouteRules(msgspec.Struct, frozen=True):
    """A route by itself. What cannot be served is answered with 500, never passed over to another rule."""

    http: tuple[RankedRule, ...] = ()
    streams: tuple[RankedStream, ...] = ()
    accepted: Verdict = ACCEPTED
    resolved: Verdict = RESOLVED


def route_rules(view: View, kind: str, namespace: str, name: str) -> RouteRules:
    """The rules of a route, wherever it is attached."""
    route: Route | None = view.get(ROUTES[kind].type, namespace, name)
    if route is None:
        return RouteRules()
    return _Translation(view, kind, route).result()


class _Translation:
    """One route on its way into the model; collects the first fault of each sort."""

    def __init__(self, view: View, kind: str, route: Route) -> None:
        meta = route.metadata
        self.view = view
        self.route = route
        self.referrer = Referrer(kind, meta.namespace)
        self.origin = f"{kind}/{meta.namespace}/{meta.name}"
        self.age = (meta.creation_timestamp, meta.namespace, meta.name)
        self.default_retry = outbound_retry(None, view.ask(mesh_l7).default_http_retry_policy)
        self.accepted: Verdict | None = None
        self.resolved: Verdict | None = None

    def result(self) -> RouteRules:
        http: list[RankedRule] = []
        streams: list[RankedStream] = []
        route = self.route
        if isinstance(route, HTTPRoute):
            for number, rule in enumerate(route.spec.rules):
                http += self._http(number, rule)
        elif isinstance(route, GRPCRoute):
            for number, grpc in enumerate(route.spec.rules):
                http += self._grpc(number, grpc)
        else:
            names = route.spec.hostnames if isinstance(route, TLSRoute) else ()
            for number, stream in enumerate(route.spec.rules):
                backends = self._backends(stream.backend_refs)
                translated = l7.StreamRule(self._name(number, stream.name), backends, names, origin=self.origin)
                streams.append(RankedStream((*self.age, number), translated))
        return RouteRules(
            tuple(sorted(http, key=lambda one: one.rank)),
            tuple(streams),
            self.accepted or ACCEPTED,
            self.resolved or RESOLVED,
        )

    def _http(self, number: int, rule: HTTPRule) -> Iterator[RankedRule]:
        backends = self._backends(rule.backend_refs)
        fault = _durations_fault(rule)
        retry = self.default_retry if rule.retry is None else _retry(rule.retry, rule.timeouts)
        timeout = milliseconds(rule.timeouts.request)
        if rule.retry is None and rule.timeouts.backend_request:
            timeout = milliseconds(rule.timeouts.backend_request)
        for place, match in enumerate(rule.matches or (HTTPMatch(),)):
            prefix = match.path.value if match.path.type == "PathPrefix" else None
            filters = self._filters(rule.filters, HTTP_FILTERS, prefix)
            invalid = fault or _match_fault(match.path.type, match.path.value, (*match.headers, *match.query_params))
            translated = l7.HttpMatch(
                path=_path(match.path),
                method=l7.TextMatch(l7.TextKind.EXACT, match.method) if match.method else None,
                headers=_named(match.headers, lower=True),
                query=_named(match.query_params, lower=False),
            )
            rank = (*_path_rank(match.path), not match.method, -len(match.headers), -len(match.query_params))
            yield RankedRule(
                (*rank, *self.age, number, place),
                self._rule(number, rule.name, translated, backends, filters, invalid, timeout=timeout, retry=retry),
            )

    def _grpc(self, number: int, rule: GRPCRule) -> Iterator[RankedRule]:
        backends = self._backends(rule.backend_refs)
        filters = self._filters(rule.filters, GRPC_FILTERS, None)
        for place, match in enumerate(rule.matches or (GRPCMatch(),)):
            path = _grpc_path(match.method)
            pattern = path.value if path is not None and path.kind is l7.TextKind.REGEX else ""
            invalid = _match_fault("RegularExpression" if pattern else "", pattern, match.headers)
            translated = l7.HttpMatch(path=path, headers=_named(match.headers, lower=True))
            yield RankedRule(
                (*_grpc_rank(path), 1, -len(match.headers), 0, *self.age, number, place),
                self._rule(number, rule.name, translated, backends, filters, invalid, retry=self.default_retry),
            )

    def _rule(
        self,
        number: int,
        name: str,
        match: l7.HttpMatch,
        backends: tuple[l7.Backend, ...],
        filters: Filters,
        invalid: str,
        *,
        timeout: int = 0,
        retry: l7.Retry | None = None,
    ) -> l7.HttpRule:
        title = self._name(number, name)
        condition = match if match != l7.HttpMatch() else None
        if invalid:
            self.accepted = self.accepted or Verdict(ok=False, reason="UnsupportedValue", message=f"{title}: {invalid}")
        if invalid or filters.invalid is not None:
            return l7.HttpRule(title, l7.DirectResponse(INVALID_STATUS), condition, origin=self.origin)
        forward = l7.Forward(backends, filters.path, filters.authority)
        return l7.HttpRule(
            name=title,
            action=filters.redirect if filters.redirect is not None else forward,
            match=condition,
            origin=self.origin,
            request_headers=filters.request,
            response_headers=filters.response,
            timeout_ms=timeout,
            retry=retry if filters.redirect is None else None,
            mirrors=filters.mirrors,
            cors=filters.cors,
        )

    def _filters(self, filters: Sequence[RouteFilter], known: Iterable[str], prefix: str | None) -> Filters:
        found = translate(self.view, self.referrer, filters, known, prefix)
        self.accepted = self.accepted or found.invalid
        self.resolved = self.resolved or found.unresolved
        return found

    def _backends(self, refs: Sequence[BackendRef]) -> tuple[l7.Backend, ...]:
        """Those that have a share. If none has, the rule has no backends and is answered with 500."""
        found = []
        for ref, (backend, fault) in weighted(self.view, self.referrer, refs):
            self.resolved = self.resolved or fault
            filters = self._filters(ref.filters, BACKEND_FILTERS, None)
            if filters.invalid is not None:
                backend = l7.Backend(weight=ref.weight, status=INVALID_STATUS)
            elif filters.request is not None or filters.response is not None:
                backend = msgspec.structs.replace(
                    backend,
                    request_headers=filters.request,
                    response_headers=filters.response,
                    authority=filters.authority,
                )
            if backend.weight > 0:
                found.append(backend)
        return tuple(found)

    def _name(self, number: int, name: str) -> str:
        meta = self.route.metadata
        return name or f"{meta.namespace}.{meta.name}.{number}"


def _path(path: HTTPPathMatch) -> l7.TextMatch | None:
    """The prefix `/` is every path."""
    match path.type:
        case "Exact":
            return l7.TextMatch(l7.TextKind.EXACT, path.value)
        case "RegularExpression":
            return l7.TextMatch(l7.TextKind.REGEX, path.value)
    prefix = path.value.rstrip("/")
    return l7.TextMatch(l7.TextKind.SEGMENT_PREFIX, prefix) if prefix else None


def _path_rank(path: HTTPPathMatch) -> tuple[int, int]:
    return ({"Exact": 0, "RegularExpression": 2}.get(path.type, 1), -len(path.value))


def _grpc_path(method: GRPCMethodMatch | None) -> l7.TextMatch | None:
    """The path of a gRPC call is `/service/method`."""
    if method is None or not (method.service or method.method):
        return None
    if method.type == "RegularExpression":
        service, name = (f"(?:{part})" if part else _SEGMENT for part in (method.service, method.method))
        return l7.TextMatch(l7.TextKind.REGEX, f"/{service}/{name}")
    if not method.service:
        return l7.TextMatch(l7.TextKind.REGEX, f"/{_SEGMENT}/{re.escape(method.method)}")
    if not method.method:
        return l7.TextMatch(l7.TextKind.PREFIX, f"/{method.service}/")
    return l7.TextMatch(l7.TextKind.EXACT, f"/{method.service}/{method.method}")


def _grpc_rank(path: l7.TextMatch | None) -> tuple[int, int]:
    if path is None:
        return (1, -1)
    return ({l7.TextKind.EXACT: 0, l7.TextKind.REGEX: 2}.get(path.kind, 1), -len(path.value))


def _named(matches: Sequence[ValueMatch], *, lower: bool) -> tuple[l7.NamedMatch, ...]:
    """Of several matches of one name the first counts. Header names have no case, those of parameters do."""
    found: dict[str, l7.NamedMatch] = {}
    for one in matches:
        name = one.name.lower() if lower else one.name
        kind = l7.TextKind.REGEX if one.type == "RegularExpression" else l7.TextKind.EXACT
        found.setdefault(name, l7.NamedMatch(name, l7.TextMatch(kind, one.value)))
    return tuple(found.values())


def _retry(retry: HTTPRetry, timeouts: HTTPTimeouts) -> l7.Retry | None:
    """Istio's causes and the statuses named; and whoever asks for retries means connections that break as well."""
    attempts = RETRY_DEFAULT.attempts if retry.attempts is None else retry.attempts
    if attempts <= 0:
        return None
    base = milliseconds(retry.backoff) or RETRY_DEFAULT.backoff_base_ms
    return l7.Retry(
        attempts,
        RETRY_DEFAULT.on | l7.RetryOn.RESET,
        statuses=tuple(sorted(set(retry.codes))),
        try_timeout_ms=milliseconds(timeouts.backend_request),
        backoff_base_ms=base,
        backoff_max_ms=base * BACKOFF_FACTOR,
    )


def _match_fault(kind: str, value: str, named: Iterable[ValueMatch]) -> str:
    patterns = [value] if kind == "RegularExpression" else []
    patterns += [one.value for one in named if one.type == "RegularExpression"]
    return next((f"{pattern!r}: {fault.message}" for pattern in patterns for fault in regex(Field(pattern))), "")


def _durations_fault(rule: HTTPRule) -> str:
    texts = (rule.timeouts.request, rule.timeouts.backend_request, rule.retry.backoff if rule.retry else "")
    wrong = next((text for text in texts if text and not _DURATION.fullmatch(text)), "")
    return f"{wrong!r} is not a duration such as 10s, 100ms or 1h30m" if wrong else ""
