"""AuthorizationPolicy as waypoints and gateways evaluate it, with everything that only a request has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from istiod.objects import AuthorizationPolicy, AuthorizationRule, Operation, RuleWhen, Source
from istiod.translate.common import MeshConfig, ports, principals
from istiod.translate.l7.virtual_service import subnets
from meshcore.l7 import (
    Attribute,
    Authorization,
    Clause,
    Condition,
    PolicyAction,
    Rule,
    TextKind,
    TextMatch,
)

DRY_RUN: Final = "istio.io/dry-run"
_HEADER: Final = re.compile(r"request\.headers\[([^\[\]]+)\]")
_CLAIM: Final = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_FILTER: Final = re.compile(r"experimental\.envoy\.filters\.([^\[\]]+)\[(.+)\]")
_TEXT_KEYS: Final = {
    "source.namespace": Attribute.SOURCE_NAMESPACE,
    "source.trustDomain": Attribute.SOURCE_TRUST_DOMAIN,
    "connection.sni": Attribute.SNI,
    "request.auth.principal": Attribute.REQUEST_PRINCIPAL,
    "request.auth.audiences": Attribute.AUDIENCE,
    "request.auth.presenter": Attribute.PRESENTER,
}
_IP_KEYS: Final = {
    "source.ip": Attribute.SOURCE_IP,
    "remote.ip": Attribute.REMOTE_IP,
    "destination.ip": Attribute.DESTINATION_IP,
}


def authorization(policy: AuthorizationPolicy, mesh: MeshConfig) -> Authorization:
    """One policy; what cannot be read as an address or port is left out."""
    meta, spec = policy.metadata, policy.spec
    action = PolicyAction[spec.action] if spec.action in PolicyAction.__members__ else PolicyAction.DENY
    translate = _Translation(meta.namespace, (mesh.trust_domain, *mesh.trust_domain_aliases))
    rules = tuple(translate.rule(rule) for rule in spec.rules)
    streams = tuple(_without_requests(rules, action))
    return Authorization(
        name=f"{meta.namespace}/{meta.name}",
        action=action,
        rules=rules,
        stream_rules=streams if streams != rules else None,
        authorizer=spec.provider.name if spec.provider is not None and action is PolicyAction.CUSTOM else "",
        dry_run=meta.annotations.get(DRY_RUN) == "true",
    )


def _without_requests(rules: tuple[Rule, ...], action: PolicyAction) -> Iterator[Rule]:
    """What holds for a connection that is no HTTP: an ALLOW rule about requests is left out, another loses those
    conditions and so covers more.
    """
    for rule in rules:
        if not any(one.attribute.http for clause in rule.clauses for part in clause.alternatives for one in part):
            yield rule
        elif action is not PolicyAction.ALLOW:
            kept = (
                tuple(tuple(c for c in part if not c.attribute.http) for part in x.alternatives) for x in rule.clauses
            )
            yield Rule(tuple(Clause(alternatives) for alternatives in kept if all(alternatives)))


class _Translation:
    """The rules of one policy: `namespace` completes short service accounts, `domains` are all names of the mesh's
    trust domain.
    """

    def __init__(self, namespace: str, domains: tuple[str, ...]) -> None:
        self._namespace = namespace
        self._domains = tuple(dict.fromkeys(domains))

    def rule(self, rule: AuthorizationRule) -> Rule:
        clauses: list[Clause] = []
        if rule.from_:
            clauses.append(Clause(tuple(tuple(self._source(entry.source)) for entry in rule.from_)))
        if rule.to:
            clauses.append(Clause(tuple(tuple(_operation(entry.operation)) for entry in rule.to)))
        clauses += (Clause((tuple(self._when(condition)),)) for condition in rule.when)
        return Rule(tuple(clauses))

    def _source(self, source: Source) -> Iterator[Condition]:
        yield from _pair(Attribute.SOURCE_PRINCIPAL, source.principals, source.not_principals, self._principals)
        yield from _pair(Attribute.SOURCE_NAMESPACE, source.namespaces, source.not_namespaces)
        yield from _pair(
            Attribute.SOURCE_SERVICE_ACCOUNT, source.service_accounts, source.not_service_accounts, self._accounts
        )
        yield from _pair(Attribute.SOURCE_TRUST_DOMAIN, source.trust_domains, source.not_trust_domains)
        yield from _blocks(Attribute.SOURCE_IP, source.ip_blocks, source.not_ip_blocks)
        yield from _blocks(Attribute.REMOTE_IP, source.remote_ip_blocks, source.not_remote_ip_blocks)
        yield from _pair(Attribute.REQUEST_PRINCIPAL, source.request_principals, source.not_request_principals)

    def _when(self, condition: RuleWhen) -> Iterator[Condition]:
        """A key that means nothing gives a condition that never holds."""
        key, yes, no = condition.key, condition.values, condition.not_values
        if key == "source.principal":
            yield from _pair(Attribute.SOURCE_PRINCIPAL, yes, no, self._principals)
        elif key == "source.serviceAccount":
            yield from _pair(Attribute.SOURCE_SERVICE_ACCOUNT, yes, no, self._accounts)
        elif key == "destination.port":
            yield from _ports(yes, no)
        elif key in _IP_KEYS:
            yield from _blocks(_IP_KEYS[key], yes, no)
        elif key in _TEXT_KEYS:
            yield from _pair(_TEXT_KEYS[key], yes, no)
        elif (found := _HEADER.fullmatch(key)) is not None:
            yield from _pair(Attribute.HEADER, yes, no, path=(found[1].lower(),))
        elif (found := _CLAIM.fullmatch(key)) is not None:
            yield from _pair(Attribute.CLAIM, yes, no, path=tuple(found[1][1:-1].split("][")))
        elif (found := _FILTER.fullmatch(key)) is not None:
            yield from _pair(Attribute.METADATA, yes, no, path=(found[1], found[2]))
        else:
            yield NEVER

    def _principals(self, values: Iterable[str]) -> Iterator[TextMatch]:
        return (text(name) for value in values for name in principals(value, self._domains))

    def _accounts(self, values: Iterable[str]) -> Iterator[TextMatch]:
        for value in values:
            yield TextMatch(TextKind.EXACT, value if "/" in value else f"{self._namespace}/{value}")


NEVER: Final = Condition(Attribute.SOURCE_PRINCIPAL)
"""No values: nothing matches."""


def text(pattern: str, *, ignore_case: bool = False) -> TextMatch:
    """`*` any value, `*x` a suffix, `x*` a prefix, else the value itself."""
    if pattern == "*":
        return TextMatch(TextKind.PRESENT)
    if pattern.startswith("*"):
        return TextMatch(TextKind.SUFFIX, pattern[1:], ignore_case)
    if pattern.endswith("*"):
        return TextMatch(TextKind.PREFIX, pattern[:-1], ignore_case)
    return TextMatch(TextKind.EXACT, pattern, ignore_case)


def _texts(values: Iterable[str]) -> Iterator[TextMatch]:
    return (text(value) for value in values)


def _hosts(values: Iterable[str]) -> Iterator[TextMatch]:
    return (text(value, ignore_case=True) for value in values)


def _paths(values: Iterable[str]) -> Iterator[TextMatch]:
    return (TextMatch(TextKind.TEMPLATE, value) if "{" in value else text(value) for value in values)


def _operation(operation: Operation) -> Iterator[Condition]:
    yield from _pair(Attribute.HOST, operation.hosts, operation.not_hosts, _hosts)
    yield from _pair(Attribute.METHOD, operation.methods, operation.not_methods)
    yield from _pair(Attribute.PATH, operation.paths, operation.not_paths, _paths)
    yield from _ports(operation.ports, operation.not_ports)


def _pair(
    attribute: Attribute,
    yes: tuple[str, ...],
    no: tuple[str, ...],
    translate: Callable[[Iterable[str]], Iterable[TextMatch]] = _texts,
    path: tuple[str, ...] = (),
) -> Iterator[Condition]:
    if yes:
        yield Condition(attribute, path, texts=tuple(translate(yes)))
    if no:
        yield Condition(attribute, path, negated=True, texts=tuple(translate(no)))


def _blocks(attribute: Attribute, yes: tuple[str, ...], no: tuple[str, ...]) -> Iterator[Condition]:
    if yes:
        yield Condition(attribute, ips=tuple(subnets(yes)))
    if no:
        yield Condition(attribute, negated=True, ips=tuple(subnets(no)))


def _ports(yes: tuple[str, ...], no: tuple[str, ...]) -> Iterator[Condition]:
    if yes:
        yield Condition(Attribute.DESTINATION_PORT, ports=ports(yes))
    if no:
        yield Condition(Attribute.DESTINATION_PORT, negated=True, ports=ports(no))
