"""Filters of HTTPRoute and GRPCRoute in terms of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from istiod.objects.routes import Cors, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, RouteFilter
from istiod.translate.gateway_api.backends import resolve
from istiod.translate.gateway_api.references import Referrer
from istiod.translate.graph import View
from istiod.translate.statuses import Verdict
from meshcore import l7

_HOST: Final = "host"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_FIELDS: Final = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "RequestMirror": "request_mirror",
    "CORS": "cors",
}
GRPC_FILTERS: Final = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror"})
HTTP_FILTERS: Final = frozenset(_FIELDS)
BACKEND_FILTERS: Final = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier"})


class Filters(msgspec.Struct):
    """What the filters of one rule come to. `invalid` says why the rule must not be served, `unresolved` what is wrong
    with a mirror.
    """

    request: l7.HeaderOps | None = None
    response: l7.HeaderOps | None = None
    redirect: l7.Redirect | None = None
    path: l7.PathRewrite | None = None
    authority: str = ""
    mirrors: tuple[l7.Mirror, ...] = ()
    cors: l7.Cors | None = None
    invalid: Verdict | None = None
    unresolved: Verdict | None = None


def translate(
    view: View, referrer: Referrer, filters: Sequence[RouteFilter], known: Iterable[str], prefix: str | None
) -> Filters:
    """`prefix` is the path prefix that the match of the rule covers, None if it covers something else."""
    found = Filters()
    for one in filters:
        fault = _fault(one, known)
        modifier = one.request_redirect or one.url_rewrite
        path = modifier.path if modifier is not None else None
        if not fault and path is not None and path.type == "ReplacePrefixMatch" and prefix is None:
            fault = f"the filter {one.type} replaces a prefix, but the rule does not match by PathPrefix"
        if fault:
            found.invalid = Verdict(ok=False, reason="InvalidFilter", message=fault)
            continue
        _apply(view, referrer, one, prefix or "/", found)
    return found


def header_ops(modifier: HeaderModifier) -> l7.HeaderOps:
    """All but what concerns the host: that is the authority (`_host`), which is set and nothing else."""
    return l7.HeaderOps(
        tuple((one.name.lower(), one.value) for one in modifier.set if one.name.lower() != _HOST),
        tuple((one.name.lower(), one.value) for one in modifier.add if one.name.lower() != _HOST),
        tuple(name.lower() for name in modifier.remove if name.lower() != _HOST),
    )


def _host(modifier: HeaderModifier) -> str:
    return next((one.value for one in modifier.set if one.name.lower() == _HOST), "")


def _fault(one: RouteFilter, known: Iterable[str]) -> str:
    if one.type not in known:
        return f"the filter {one.type} is not supported here; supported are {', '.join(sorted(known))}"
    field = _FIELDS[one.type]
    if getattr(one, field) is None:
        return f"the filter {one.type} lacks its settings"
    return ""


def _apply(view: View, referrer: Referrer, one: RouteFilter, prefix: str, found: Filters) -> None:
    """`one` has been found to be without fault."""
    if one.type == "RequestHeaderModifier" and one.request_header_modifier is not None:
        found.request = _merged(found.request, header_ops(one.request_header_modifier))
        found.authority = found.authority or _host(one.request_header_modifier)
    elif one.type == "ResponseHeaderModifier" and one.response_header_modifier is not None:
        found.response = _merged(found.response, header_ops(one.response_header_modifier))
    elif one.type == "RequestRedirect" and one.request_redirect is not None:
        found.redirect = _redirect(one.request_redirect, prefix)
    elif one.type == "URLRewrite" and one.url_rewrite is not None:
        found.authority = one.url_rewrite.hostname or found.authority
        found.path = _path(one.url_rewrite.path, prefix)
    elif one.type == "CORS" and one.cors is not None:
        found.cors = _cors(one.cors)
    elif one.request_mirror is not None:
        backend, fault = resolve(view, referrer, one.request_mirror.backend_ref)
        if fault is None:
            found.mirrors = (*found.mirrors, l7.Mirror(backend, _share(one.request_mirror)))
        else:
            found.unresolved = found.unresolved or fault


def _merged(before: l7.HeaderOps | None, more: l7.HeaderOps) -> l7.HeaderOps:
    if before is None:
        return more
    return l7.HeaderOps((*before.set, *more.set), (*before.add, *more.add), (*before.remove, *more.remove))


def _redirect(wanted: RequestRedirect, prefix: str) -> l7.Redirect:
    """Without a port it is the default one of a scheme that is set; otherwise that of the listener (`at_port`)."""
    port = wanted.port or _DEFAULT_PORTS.get(wanted.scheme, 0)
    return l7.Redirect(wanted.status_code, wanted.scheme, wanted.hostname, port, _path(wanted.path, prefix))


def at_port(rule: l7.HttpRule, port: int) -> l7.HttpRule:
    """The rule as it is at a listener: a redirect that says neither scheme nor port stays at the listener's port."""
    action = rule.action
    if not isinstance(action, l7.Redirect) or action.scheme or action.port:
        return rule
    return msgspec.structs.replace(rule, action=msgspec.structs.replace(action, port=port))


def _path(wanted: PathModifier | None, prefix: str) -> l7.PathRewrite | None:
    """`/a` to `/b` turns `/a/c` into `/b/c`; with `/` on either side the slashes are made to meet as well."""
    if wanted is None:
        return None
    if wanted.type == "ReplaceFullPath":
        return l7.PathRewrite(l7.RewriteKind.FULL, wanted.replace_full_path or "/")
    value = wanted.replace_prefix_match.rstrip("/")
    prefix = prefix.rstrip("/")
    if prefix and value:
        return l7.PathRewrite(l7.RewriteKind.PREFIX, value)
    value = value.replace("\\", "\\\\")
    return l7.PathRewrite(l7.RewriteKind.REGEX, f"{value}/", f"^{re.escape(prefix)}/*")


def _share(mirror: RequestMirror) -> int:
    """Parts per million."""
    if mirror.fraction is not None:
        numerator, denominator = mirror.fraction.numerator, max(mirror.fraction.denominator, 1)
    else:
        numerator, denominator = (100 if mirror.percent is None else mirror.percent), 100
    return min(max(numerator * l7.PPM // denominator, 0), l7.PPM)


def _cors(wanted: Cors) -> l7.Cors:
    return l7.Cors(
        origins=tuple(map(_origin, wanted.allow_origins)),
        methods=wanted.allow_methods,
        headers=wanted.allow_headers,
        expose=wanted.expose_headers,
        max_age_s=wanted.max_age,
        credentials=wanted.allow_credentials,
        forward_unmatched=False,
    )


def _origin(text: str) -> l7.TextMatch:
    if text == "*":
        return l7.TextMatch(l7.TextKind.PRESENT)
    if "*" in text:
        return l7.TextMatch(l7.TextKind.REGEX, re.escape(text).replace(r"\*", ".*"))
    return l7.TextMatch(l7.TextKind.EXACT, text)
