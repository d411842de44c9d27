"""Checks of AuthorizationPolicy. They run on the object as written, because null and absent differ for a user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from istiod.validate.common import Problem, choice, ip_block, port_number, selector
from meshcore.yamldoc import Path

ACTIONS: Final = ("ALLOW", "DENY", "AUDIT", "CUSTOM")
SERVICE_ACCOUNTS_MAX: Final = 16
SERVICE_ACCOUNT_CHARS_MAX: Final = 320

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
_TARGET_KINDS: Final = ("Service", "ServiceEntry", "Gateway", "GatewayClass")


def authorization_policy(obj: dict[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    yield from _targets(spec)
    yield from _action(spec)
    custom = spec.get("action") == "CUSTOM"
    deny = spec.get("action") == "DENY"
    bound = bool(spec.get("targetRef") or spec.get("targetRefs"))
    for index, rule in enumerate(spec.get("rules") or ()):
        path: Path = ("spec", "rules", index)
        if rule is None:
            yield Problem(path, "is empty; a rule that matches everything is written {}")
            continue
        yield from _rule(rule, path, custom=custom)
        if not bound:
            yield from _l7(rule, path, deny=deny)


def _targets(spec: dict[str, Any]) -> Iterator[Problem]:
    given = [field for field in ("selector", "targetRef", "targetRefs") if spec.get(field)]
    if len(given) > 1:
        yield Problem(("spec", given[1]), f"cannot stand beside {given[0]}: choose one of selector and targetRefs")
    yield from selector(spec, ("spec", "selector"))
    refs: list[tuple[Path, Any]] = [(("spec", "targetRef"), spec["targetRef"])] if spec.get("targetRef") else []
    refs += [(("spec", "targetRefs", index), ref) for index, ref in enumerate(spec.get("targetRefs") or ())]
    for path, ref in refs:
        ref = ref or {}
        if not ref.get("name"):
            yield Problem((*path, "name"), "missing")
        if ref.get("namespace"):
            yield Problem((*path, "namespace"), "must not be set: a policy targets its own namespace")
        if ref.get("kind") not in _TARGET_KINDS:
            yield Problem((*path, "kind"), f"{ref.get('kind')!r} is not one of {', '.join(_TARGET_KINDS)}")


def _action(spec: dict[str, Any]) -> Iterator[Problem]:
    action = spec.get("action") or "ALLOW"
    yield from choice(action, ACTIONS, ("spec", "action"))
    provider = (spec.get("provider") or {}).get("name")
    if action == "CUSTOM":
        if not provider:
            yield Problem(("spec", "provider", "name"), "missing: action CUSTOM needs a provider")
    elif spec.get("provider") is not None:
        yield Problem(("spec", "provider"), f"only action CUSTOM has a provider, this is {action}")
    if action in ("DENY", "CUSTOM", "AUDIT") and not spec.get("rules"):
        hint = "; to deny everything use ALLOW without rules, or DENY with one rule {}" if action == "DENY" else ""
        yield Problem(("spec", "rules"), f"missing: {action} without rules would do nothing{hint}")


def _rule(rule: dict[str, Any], path: Path, *, custom: bool) -> Iterator[Problem]:
    for part in ("from", "to", "when"):
        if part in rule and not rule[part]:
            yield Problem((*path, part), "is empty; leave it out to match everything")
    for part, inner, check in (("from", "source", _source), ("to", "operation", _operation)):
        for index, entry in enumerate(rule.get(part) or ()):
            where: Path = (*path, part, index)
            fields = (entry or {}).get(inner)
            if not fields:
                yield Problem((*where, inner), "is empty; it must name at least one field")
                continue
            yield from _lists(fields, (*where, inner))
            yield from check(fields, (*where, inner), custom=custom)
    for index, condition in enumerate(rule.get("when") or ()):
        where = (*path, "when", index)
        if condition is None:
            yield Problem(where, "is empty")
        else:
            yield from _condition(condition, where, custom=custom)


def _lists(fields: dict[str, Any], path: Path) -> Iterator[Problem]:
    for field, values in fields.items():
        if not values:
            yield Problem((*path, field), "is empty; leave it out, or name values")
        for index, value in enumerate(values or ()):
            if value == "":
                yield Problem((*path, field, index), "an empty value matches nothing")


def _source(source: dict[str, Any], path: Path, *, custom: bool) -> Iterator[Problem]:
    accounts = source.get("serviceAccounts") or source.get("notServiceAccounts")
    for field in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
        if accounts and source.get(field):
            yield Problem((*path, field), "cannot stand beside serviceAccounts")
        for index, value in enumerate(source.get(field) or ()):
            if field.lower().endswith("principals") and value.startswith("spiffe://"):
                where: Path = (*path, field, index)
                yield Problem(where, f"principals are written without spiffe://: {value.removeprefix('spiffe://')}")
    for field in ("serviceAccounts", "notServiceAccounts"):
        yield from _service_accounts(source.get(field) or (), (*path, field))
    for field in ("trustDomains", "notTrustDomains"):
        for index, value in enumerate(source.get(field) or ()):
            if "/" in value:
                yield Problem((*path, field, index), "a trust domain holds no slash")
    for field in ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"):
        for index, value in enumerate(source.get(field) or ()):
            yield from ip_block(value, (*path, field, index))
    for field in sorted(_IDENTITY_FIELDS & source.keys()) if custom else ():
        yield Problem((*path, field), "identities cannot be used with action CUSTOM")


def _service_accounts(values: Sequence[str], path: Path) -> Iterator[Problem]:
    if len(values) > SERVICE_ACCOUNTS_MAX:
        yield Problem(path, f"more than {SERVICE_ACCOUNTS_MAX} service accounts")
    for index, value in enumerate(values):
        where: Path = (*path, index)
        if len(value) > SERVICE_ACCOUNT_CHARS_MAX:
            yield Problem(where, f"longer than {SERVICE_ACCOUNT_CHARS_MAX} characters")
        if "*" in value:
            yield Problem(where, "wildcards are not supported here; use principals")
        if value.count("/") > 1 or value.startswith("/") or value.endswith("/"):
            yield Problem(where, f"{value!r} is neither NAME nor NAMESPACE/NAME")


def _operation(operation: dict[str, Any], path: Path, *, custom: bool) -> Iterator[Problem]:
    del custom
    for field in ("ports", "notPorts"):
        for index, value in enumerate(operation.get(field) or ()):
            yield from port_number(value, (*path, field, index))
    for field in ("paths", "notPaths"):
        for index, value in enumerate(operation.get(field) or ()):
            yield from _path_template(value, (*path, field, index))


def _path_template(value: str, path: Path) -> Iterator[Problem]:
    if "{" not in value and "}" not in value:
        return
    parts = value.split("/")
    for part in parts:
        if ("{" in part or "}" in part) and part not in ("{*}", "{**}"):
            yield Problem(path, f"{part!r}: a template has only the segments {{*}} and {{**}}")
        elif "*" in part and not part.startswith("{"):
            yield Problem(path, "a template cannot hold a bare *")
    if parts.count("{**}") > 1 or ("{**}" in parts and "{*}" in parts[parts.index("{**}") :]):
        yield Problem(path, "{**} may stand once, after every {*}")


def _condition(condition: dict[str, Any], path: Path, *, custom: bool) -> Iterator[Problem]:
    key = condition.get("key")
    if not key:
        yield Problem((*path, "key"), "missing")
        return
    if key not in L4_KEYS and key not in _L7_KEYS and not any(p.fullmatch(key) for p in _KEY_PATTERNS):
        near = difflib.get_close_matches(key, (*L4_KEYS, *_L7_KEYS), n=1)
        yield Problem((*path, "key"), f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not condition.get("values") and not condition.get("notValues"):
        yield Problem(path, "needs values or notValues")
    for field in ("values", "notValues"):
        for index, value in enumerate(condition.get(field) or ()):
            where: Path = (*path, field, index)
            if key in ("source.ip", "destination.ip", "remote.ip"):
                yield from ip_block(value, where)
            elif key == "destination.port":
                yield from port_number(value, where)
    if custom and (key.startswith(("source.namespace", "source.principal", "source.serviceAccount", "request.auth."))):
        yield Problem((*path, "key"), "identities cannot be used with action CUSTOM")


def l7_fields(rule: dict[str, Any], path: Path) -> list[Path]:
    """The fields of a rule that ztunnel cannot evaluate."""
    found: list[Path] = []
    for part, inner, names in (("from", "source", L7_SOURCE), ("to", "operation", L7_OPERATION)):
        for index, entry in enumerate(rule.get(part) or ()):
            fields = (entry or {}).get(inner) or {}
            found += [(*path, part, index, inner, name) for name in names if fields.get(name)]
    for index, condition in enumerate(rule.get("when") or ()):
        if condition and condition.get("key") not in L4_KEYS:
            found.append((*path, "when", index, "key"))
    return found


def _l7(rule: dict[str, Any], path: Path, *, deny: bool) -> Iterator[Problem]:
    for field in l7_fields(rule, path):
        effect = "it is left out there, or the rule has no effect" if deny else "the whole rule is left out there"
        yield Problem(field, f"ztunnel cannot evaluate this without a waypoint: {effect}", warning=True)
