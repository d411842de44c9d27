"""Checks of AuthorizationPolicy. They run on the object as written, because null and absent differ for a user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import attachment, choice, ip_block, port_number, required, selector
from istiod.validate.field import Field

ACTIONS: Final = ("ALLOW", "DENY", "AUDIT", "CUSTOM")
SERVICE_ACCOUNTS_MAX: Final = 16
SERVICE_ACCOUNT_CHARS_MAX: Final = 320

_SEGMENT: Final = re.compile(r"(?:[-A-Za-z0-9._~!$&'()+,;:@=]|%[0-9a-fA-F]{2})*")
"""The pchar of RFC 3986, without the *."""
L4_KEYS: Final = ("source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port")
"""Condition keys ztunnel can evaluate; every other key needs a waypoint."""
_L7_KEYS: Final = (
    "remote.ip",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "connection.sni",
)
_KEY_PATTERNS: Final = (
    re.compile(r"request\.headers\[[^\[\]]+\]"),
    re.compile(r"request\.auth\.claims(\[[^\[\]]+\])+"),
    re.compile(r"experimental\.envoy\.filters\..+"),
)
_IDENTITY_KEYS: Final = ("source.namespace", "source.principal", "source.serviceAccount", "request.auth.")
L7_SOURCE: Final = ("requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks")
L7_OPERATION: Final = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
_IDENTITY_FIELDS: Final = frozenset(
    (
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "trustDomains",
        "notTrustDomains",
    )
)


def authorization_policy(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from attachment(spec)
    yield from selector(spec)
    yield from _action(spec)
    custom = spec["action"].text == "CUSTOM"
    deny = spec["action"].text == "DENY"
    bound = bool(spec.filled_of("targetRef", "targetRefs"))
    for rule in spec["rules"]:
        if not rule.given:
            yield rule.error("is empty; a rule that matches everything is written {}")
            continue
        yield from _rule(rule, custom=custom)
        if not bound:
            yield from _l7(rule, deny=deny)


def _action(spec: Field) -> Iterator[Problem]:
    action = spec["action"].text or "ALLOW"
    yield from choice(Field(action, spec["action"].path), ACTIONS)
    if action == "CUSTOM":
        yield from required(spec["provider"]["name"], "action CUSTOM needs a provider")
    elif spec["provider"].given:
        yield spec["provider"].error(f"only action CUSTOM has a provider, this is {action[:80]}")
    if action in ("DENY", "CUSTOM") and not spec["rules"]:
        hint = "; to deny everything use ALLOW without rules, or DENY with one rule {}" if action == "DENY" else ""
        yield spec["rules"].error(f"missing: {action} without rules would do nothing{hint}")
    elif action == "AUDIT" and not spec["rules"]:
        yield spec["rules"].warn("missing: AUDIT without rules does nothing")


def _rule(rule: Field, *, custom: bool) -> Iterator[Problem]:
    for part in ("from", "to", "when"):
        if rule.has(part) and not rule[part]:
            yield rule[part].error("is empty; leave it out to match everything")
    for part, inner, check in (("from", "source", _source), ("to", "operation", _operation)):
        for entry in rule[part]:
            fields = entry[inner]
            if not fields:
                yield fields.error("is empty; it must name at least one field")
                continue
            yield from _lists(fields)
            yield from check(fields, custom=custom)
    for condition in rule["when"]:
        if condition.given:
            yield from _condition(condition, custom=custom)


def _lists(fields: Field) -> Iterator[Problem]:
    for _, values in fields.members():
        if not values:
            yield values.error("is empty; leave it out, or name values")
        for value in values:
            if value.value == "":
                yield value.error("an empty value matches nothing")


def _source(source: Field, *, custom: bool) -> Iterator[Problem]:
    accounts = source.filled_of("serviceAccounts", "notServiceAccounts")
    for name in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
        if accounts and source[name]:
            yield source[name].error("cannot stand beside serviceAccounts")
        for value in source[name].texts():
            if name.lower().endswith("principals") and value.text.startswith("spiffe://"):
                plain = value.text.removeprefix("spiffe://")
                yield value.error(f"principals are written without spiffe://: {plain}")
    for name in ("serviceAccounts", "notServiceAccounts"):
        yield from _service_accounts(source[name])
    for name in ("trustDomains", "notTrustDomains"):
        for value in source[name].texts():
            if "/" in value.text:
                yield value.error("a trust domain holds no slash")
    for name in ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"):
        for value in source[name].texts():
            yield from ip_block(value)
    for name in sorted(_IDENTITY_FIELDS) if custom else ():
        if source.has(name):
            yield source[name].error("identities cannot be used with action CUSTOM")


def _service_accounts(values: Field) -> Iterator[Problem]:
    if len(values) > SERVICE_ACCOUNTS_MAX:
        yield values.error(f"more than {SERVICE_ACCOUNTS_MAX} service accounts")
    for value in values.texts():
        text = value.text
        if len(text) > SERVICE_ACCOUNT_CHARS_MAX:
            yield value.error(f"longer than {SERVICE_ACCOUNT_CHARS_MAX} characters")
        if "*" in text:
            yield value.error("wildcards are not supported here; use principals")
        if text.count("/") > 1 or text.startswith("/") or text.endswith("/"):
            yield value.error(f"{value} is neither NAME nor NAMESPACE/NAME")


def _operation(operation: Field, *, custom: bool) -> Iterator[Problem]:
    del custom
    for name in ("ports", "notPorts"):
        for value in operation[name]:
            yield from port_number(value)
    for name in ("paths", "notPaths"):
        for value in operation[name].texts():
            yield from _path_template(value)


def _path_template(value: Field) -> Iterator[Problem]:
    if "{" not in value.text and "}" not in value.text:
        return
    parts = value.text.split("/")
    for part in parts:
        if ("{" in part or "}" in part) and part not in ("{*}", "{**}"):
            yield value.error(f"{part!r}: a template has only the segments {{*}} and {{**}}")
        elif "*" in part and not part.startswith("{"):
            yield value.error("a template cannot hold a bare *")
        elif not part.startswith("{") and not _SEGMENT.fullmatch(part):
            yield value.error(f"{part!r} holds characters that a segment of a path cannot; encode them as %XX")
    if parts.count("{**}") > 1 or ("{**}" in parts and "{*}" in parts[parts.index("{**}") :]):
        yield value.error("{**} may stand once, after every {*}")


def _condition(condition: Field, *, custom: bool) -> Iterator[Problem]:
    key = condition["key"].text
    if not key:
        yield from required(condition["key"])
        return
    if key not in L4_KEYS and key not in _L7_KEYS and not any(p.fullmatch(key) for p in _KEY_PATTERNS):
        near = difflib.get_close_matches(key[:100], (*L4_KEYS, *_L7_KEYS), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        yield condition["key"].error(f"unknown key {condition['key']}{hint}")
    if not condition.filled_of("values", "notValues"):
        yield condition.error("needs values or notValues")
    for name in ("values", "notValues"):
        for value in condition[name].texts():
            if key in ("source.ip", "destination.ip", "remote.ip"):
                yield from ip_block(value)
            elif key == "destination.port":
                yield from port_number(value)
    if custom and key.startswith(_IDENTITY_KEYS):
        yield condition["key"].error("identities cannot be used with action CUSTOM")


def _l7_fields(rule: Field) -> Iterator[Field]:
    """The fields of a rule that ztunnel cannot evaluate."""
    for part, inner, names in (("from", "source", L7_SOURCE), ("to", "operation", L7_OPERATION)):
        for entry in rule[part]:
            yield from entry[inner].filled_of(*names)
    for condition in rule["when"]:
        if condition and condition["key"].text not in L4_KEYS:
            yield condition["key"]


def _l7(rule: Field, *, deny: bool) -> Iterator[Problem]:
    for field in _l7_fields(rule):
        effect = "it is left out there, or the rule has no effect" if deny else "the whole rule is left out there"
        yield field.warn(f"ztunnel cannot evaluate this without a waypoint: {effect}")
