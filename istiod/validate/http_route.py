"""Checks of one HTTP rule of a VirtualService."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import DEPRECATED, Problem
from istiod.validate.common import choice, each, needs_one, port_number, required, whole
from istiod.validate.field import Field
from istiod.validate.names import AUTHORITY, changed_header, header_name, header_value
from istiod.validate.routes import conditions, delegate, destination, weighted
from istiod.validate.texts import duration, regex, string_match

_CONFLICTS: Final = (
    ("route", "redirect"),
    ("fault", "redirect"),
    ("rewrite", "redirect"),
    ("directResponse", "redirect"),
    ("route", "directResponse"),
    ("fault", "directResponse"),
    ("rewrite", "directResponse"),
    ("mirror", "mirrors"),
    ("route", "delegate"),
    ("redirect", "delegate"),
    ("directResponse", "delegate"),
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
_REDIRECT_CODES: Final = (301, 302, 303, 307, 308)
_BODY_BYTES_MAX: Final = 1_048_576
_BODY_BYTES_ADVISED: Final = 100 * 1024
"""A body is part of the configuration that every proxy holds: upstream warns here and refuses above 1 MiB."""
_JWT_CLAIMS: Final = "@request.auth.claims"
GRPC_STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
RETRY_ON: Final = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)


def http_route(rule: Field, *, delegated: bool) -> Iterator[Problem]:
    """`delegated`: the VirtualService has no hosts, others delegate to it."""
    yield from _purpose(rule, delegated=delegated)
    yield from each(rule["match"], _match)
    yield from weighted(rule["route"])
    for route in rule["route"]:
        yield from _headers(route["headers"], Field(None))
    yield from _headers(rule["headers"], rule["rewrite"])
    for field, check in (
        ("rewrite", _rewrite),
        ("directResponse", _direct_response),
        ("fault", _fault),
        ("corsPolicy", _cors),
        ("retries", retries),
        ("delegate", delegate),
    ):
        if rule[field].given:
            yield from check(rule[field])
    if rule["redirect"].given:
        yield from _redirect(rule["redirect"], rule["match"])
    yield from duration(rule["timeout"], zero=True)
    yield from _mirrors(rule)


def _purpose(rule: Field, *, delegated: bool) -> Iterator[Problem]:
    for first, second in _CONFLICTS:
        one, other = (rule[name] for name in (first, second))
        # An empty list is not given; an empty redirect is, and is refused for being empty.
        if one.given and one.value != [] and other.given and other.value != []:
            yield other.error(f"cannot stand beside {first} in one rule")
    if delegated and rule["delegate"].given:
        yield rule["delegate"].error("a VirtualService that others delegate to cannot delegate on")
    if not rule["route"] and not rule.given_of("redirect", "directResponse", "delegate"):
        yield rule.error(f"needs one of route, redirect, directResponse{'' if delegated else ' and delegate'}")


def _match(match: Field) -> Iterator[Problem]:
    yield from conditions(match)
    for name in ("uri", "scheme", "method", "authority"):
        yield from string_match(match[name])
    for name in ("headers", "withoutHeaders", "queryParams"):
        for key, value in match[name].members():
            if not value.given:
                yield value.error("is null; {} asks whether it is there, exact, prefix and regex look at the value")
            if name != "queryParams" and not key.startswith(_JWT_CLAIMS):
                yield from header_name(value, key)
            elif not key:
                yield value.error("a query parameter needs a name")
            yield from string_match(value, presence=True)


def _headers(headers: Field, rewrite: Field) -> Iterator[Problem]:
    authorities = rewrite.filled_of("authority")
    for side in ("request", "response"):
        operations = headers[side]
        for operation in ("set", "add"):
            for name, value in operations[operation].members():
                yield from changed_header(value, name, authority=side == "request")
                yield from header_value(value)
                if side == "request" and name.lower() in AUTHORITY:
                    authorities.append(value)
        for entry in operations["remove"].texts():
            yield from changed_header(entry, entry.text, authority=False)
    for again in authorities[1:]:
        yield again.error(f"the host of the request is set twice, {authorities[0].name} sets it already")


def _rewrite(rewrite: Field) -> Iterator[Problem]:
    if not rewrite.filled_of("uri", "authority") and not rewrite["uriRegexRewrite"].given:
        yield rewrite.error("is empty; it needs uri, uriRegexRewrite or authority")
    by_regex = rewrite["uriRegexRewrite"]
    if by_regex.given:
        if rewrite["uri"]:
            yield by_regex.error("cannot stand beside uri: choose one of them")
        yield from required(by_regex["match"], "uriRegexRewrite needs both match and rewrite")
        yield from required(by_regex["rewrite"], "uriRegexRewrite needs both match and rewrite")
        yield from regex(by_regex["match"])


def _redirect(redirect: Field, matches: Field) -> Iterator[Problem]:
    if not redirect.filled_of("uri", "prefixRewrite", "authority", "scheme", "port", "derivePort"):
        yield redirect.error("is empty; it needs one of uri, prefixRewrite, authority, scheme and port")
    code = redirect["redirectCode"]
    if code and code.number is not None and code.number not in _REDIRECT_CODES:
        if 300 <= code.number <= 399:
            yield code.warn(f"{code} is no redirection proxies know; use one of {', '.join(map(str, _REDIRECT_CODES))}")
        else:
            yield code.error(f"{code} is not a redirection; use one of {', '.join(map(str, _REDIRECT_CODES))}")
    yield from choice(Field(redirect["scheme"].text or None, redirect["scheme"].path), ("http", "https"))
    yield from port_number(redirect["port"])
    prefix = redirect["prefixRewrite"]
    if not prefix:
        return
    if redirect["uri"]:
        yield prefix.error("cannot stand beside uri: choose one of them")
    if not matches or not all(match["uri"]["prefix"] for match in matches):
        yield prefix.error("replaces the prefix that was matched: every match of the rule needs uri.prefix")


def _direct_response(response: Field) -> Iterator[Problem]:
    yield from required(response["status"])
    if response["status"]:
        yield from whole(response["status"], least=200, most=599)
    body = response["body"]
    text = body["bytes"].text
    size = len(text) * 3 // 4 - text[-2:].count("=") if text else len(body["string"].text.encode(errors="replace"))
    if size > _BODY_BYTES_MAX:
        yield body.error(f"the body has {size} bytes, more than {_BODY_BYTES_MAX}")
    elif size > _BODY_BYTES_ADVISED:
        yield body.warn(f"the body has {size} bytes, and every proxy keeps a copy; serve it from a workload")


def _fault(fault: Field) -> Iterator[Problem]:
    delay, abort = fault["delay"], fault["abort"]
    if not fault.given_of("delay", "abort"):
        yield fault.error("is empty; it needs delay or abort")
    if delay.given:
        if delay["exponentialDelay"].given:
            yield delay["exponentialDelay"].error("is not supported; use fixedDelay")
        else:
            yield from required(delay["fixedDelay"])
        yield from duration(delay["fixedDelay"])
    if abort.given:
        yield from needs_one(abort, "httpStatus", "grpcStatus", "http2Error")
        yield from whole(abort["httpStatus"], least=200, most=599)
        yield from choice(abort["grpcStatus"], GRPC_STATUSES)
        if abort["http2Error"].given:
            yield abort["http2Error"].error("is not supported; use httpStatus or grpcStatus")


def _cors(cors: Field) -> Iterator[Problem]:
    for origin in cors["allowOrigins"]:
        if not origin.filled_of("exact", "prefix", "regex"):
            yield origin.error("is empty; it needs exact, prefix or regex")
        yield from string_match(origin)
    for method in cors["allowMethods"].texts():
        yield from choice(method, (*_METHODS, "*"))
    for name in ("allowHeaders", "exposeHeaders"):
        for header in cors[name].texts():
            yield from header_name(header, header.text)
    yield from duration(cors["maxAge"], whole_seconds=True)


def retries(field: Field) -> Iterator[Problem]:
    """A retry policy; 0 attempts mean none, and then nothing else may be said."""
    attempts = field["attempts"]
    yield from whole(attempts)
    if not attempts:
        for other in field.filled_of("perTryTimeout", "retryOn", "retryRemoteLocalities", "backoff"):
            yield other.error("has no effect: attempts is 0, which disables retries")
    yield from duration(field["perTryTimeout"])
    yield from duration(field["backoff"])
    retry_on = field["retryOn"]
    for token in retry_on.text.split(",") if retry_on else ():
        word = token.strip()
        status = word.isascii() and word.isdigit()
        if word not in RETRY_ON and not (status and 100 <= int(word[:4]) <= 599):
            yield from choice(Field(word, retry_on.path), (*RETRY_ON, "an HTTP status"))


def _mirrors(rule: Field) -> Iterator[Problem]:
    old = rule["mirrorPercent"]
    if old.given:
        yield old.warn("is deprecated; use mirrorPercentage", code=DEPRECATED)
    if rule["mirror"].given:
        yield from destination(rule["mirror"])
    for mirror in rule["mirrors"]:
        yield from destination(mirror["destination"])
