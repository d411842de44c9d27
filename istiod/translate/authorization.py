"""AuthorizationPolicy to the L4 policies of ztunnel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from istiod import objects
from istiod.translate.common import MeshConfig, ports, principals, selects
from istiod.translate.graph import View
from istiod.translate.indexes import POLICIES_BY_LABEL, POLICIES_WITH_EMPTY_SELECTOR
from istiod.translate.meshconfig import mesh_config
from istiod.validate.authorization import L4_KEYS
from meshcore.model import (
    Authorization,
    Clause,
    IpMatch,
    Match,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)

DRY_RUN: Final = "istio.io/dry-run"


def ztunnel_policy(view: View, namespace: str, name: str) -> Mapping[str, Authorization]:
    """The resource of an AuthorizationPolicy; none if it is not sent to ztunnel."""
    policy = view.get(objects.AuthorizationPolicy, namespace, name)
    translated = translate(policy, view.ask(mesh_config)) if policy is not None else None
    return {f"{namespace}/{name}": translated} if translated is not None else {}


def selecting_policies(view: View, namespace: str, labels: Mapping[str, str]) -> list[str]:
    """The keys of the policies with a selector that hold for a workload, those of the root namespace first."""
    settings = view.settings
    found: list[str] = []
    for place in dict.fromkeys((settings.root_namespace, namespace)):
        chosen = view.find(POLICIES_WITH_EMPTY_SELECTOR, (place,))
        for label in labels.items():
            chosen += view.find(POLICIES_BY_LABEL, (place, *label))
        found += sorted(
            f"{place}/{policy.metadata.name}"
            for policy in chosen
            if policy.spec.selector is not None
            and selects(policy.spec.selector.match_labels, labels)
            and sent_to_ztunnel(policy, settings)
        )
    return found


def sent_to_ztunnel(policy: objects.AuthorizationPolicy, mesh: MeshConfig) -> bool:
    """Policies with targets are a waypoint's; CUSTOM and AUDIT have no L4 form, dry runs only on demand."""
    spec = policy.spec
    if spec.target_ref is not None or spec.target_refs or spec.action not in ("ALLOW", "DENY"):
        return False
    return mesh.dry_run_policies or not dry_run(policy)


def dry_run(policy: objects.AuthorizationPolicy) -> bool:
    return policy.metadata.annotations.get(DRY_RUN) == "true"


def translate(policy: objects.AuthorizationPolicy, mesh: MeshConfig) -> Authorization | None:
    """The policy as ztunnel evaluates it; None if it is not sent there."""
    if not sent_to_ztunnel(policy, mesh):
        return None
    meta, spec = policy.metadata, policy.spec
    if spec.selector is not None:
        scope = PolicyScope.WORKLOAD_SELECTOR
    else:
        scope = PolicyScope.GLOBAL if meta.namespace == mesh.root_namespace else PolicyScope.NAMESPACE
    deny = spec.action == "DENY"
    domains = mesh.trust_domains
    rules = tuple(_rule(rule, meta.namespace, domains) for rule in spec.rules if deny or not any(l7_fields(rule)))
    action = PolicyAction.DENY if deny else PolicyAction.ALLOW
    return Authorization(meta.name, meta.namespace, scope, action, rules, dry_run(policy))


def l7_fields(rule: objects.AuthorizationRule) -> Iterable[str]:
    """The fields of a rule that only a waypoint evaluates, by their names in the API."""
    for entry in rule.from_:
        source = entry.source
        yield from _given(
            requestPrincipals=source.request_principals,
            notRequestPrincipals=source.not_request_principals,
            remoteIpBlocks=source.remote_ip_blocks,
            notRemoteIpBlocks=source.not_remote_ip_blocks,
        )
    for target in rule.to:
        operation = target.operation
        yield from _given(
            hosts=operation.hosts,
            notHosts=operation.not_hosts,
            methods=operation.methods,
            notMethods=operation.not_methods,
            paths=operation.paths,
            notPaths=operation.not_paths,
        )
    for when in rule.when:
        if when.key not in L4_KEYS:
            yield when.key


def _given(**fields: tuple[str, ...]) -> Iterable[str]:
    return (name for name, values in fields.items() if values)


def _rule(rule: objects.AuthorizationRule, namespace: str, domains: Sequence[str]) -> Rule:
    """L7 fields are left out; a match they leave empty never matches, which is what `Match` means."""
    clauses: list[Clause] = []
    if rule.from_:
        clauses.append(Clause(tuple(_source(entry.source, namespace, domains) for entry in rule.from_)))
    if rule.to:
        clauses.append(Clause(tuple(_operation(entry.operation) for entry in rule.to)))
    clauses += (Clause((_condition(condition, domains),)) for condition in rule.when)
    return Rule(tuple(clauses))


def _source(source: objects.Source, namespace: str, domains: Sequence[str]) -> Match:
    return Match(
        namespaces=_strings(source.namespaces),
        not_namespaces=_strings(source.not_namespaces),
        principals=_principals(source.principals, domains),
        not_principals=_principals(source.not_principals, domains),
        source_ips=_blocks(source.ip_blocks),
        not_source_ips=_blocks(source.not_ip_blocks),
        service_accounts=_accounts(source.service_accounts, namespace),
        not_service_accounts=_accounts(source.not_service_accounts, namespace),
    )


def _operation(operation: objects.Operation) -> Match:
    return Match(destination_ports=ports(operation.ports), not_destination_ports=ports(operation.not_ports))


def _condition(condition: objects.RuleWhen, domains: Sequence[str]) -> Match:
    yes, no = condition.values, condition.not_values
    match condition.key:
        case "source.ip":
            return Match(source_ips=_blocks(yes), not_source_ips=_blocks(no))
        case "source.namespace":
            return Match(namespaces=_strings(yes), not_namespaces=_strings(no))
        case "source.principal":
            return Match(principals=_principals(yes, domains), not_principals=_principals(no, domains))
        case "destination.ip":
            return Match(destination_ips=_blocks(yes), not_destination_ips=_blocks(no))
        case "destination.port":
            return Match(destination_ports=ports(yes), not_destination_ports=ports(no))
        case _:
            return Match()


def string_match(pattern: str) -> StringMatch:
    """`*` any value, `*x` a suffix, `x*` a prefix, else the value itself."""
    if pattern == "*":
        return StringMatch(presence=True)
    if pattern.startswith("*"):
        return StringMatch(suffix=pattern[1:])
    if pattern.endswith("*"):
        return StringMatch(prefix=pattern[:-1])
    return StringMatch(exact=pattern)


def _strings(patterns: Iterable[str]) -> tuple[StringMatch, ...]:
    return tuple(string_match(pattern) for pattern in patterns)


def _principals(patterns: Iterable[str], domains: Sequence[str]) -> tuple[StringMatch, ...]:
    return _strings(name for pattern in patterns for name in principals(pattern, domains))


def _blocks(blocks: Iterable[str]) -> tuple[IpMatch, ...]:
    found = []
    for text in blocks:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        found.append(IpMatch(network.network_address.packed, network.prefixlen))
    return tuple(found)


def _accounts(names: Iterable[str], namespace: str) -> tuple[ServiceAccountMatch, ...]:
    pairs = (name.split("/", 1) if "/" in name else (namespace, name) for name in names)
    return tuple(ServiceAccountMatch(ns, account) for ns, account in pairs)
