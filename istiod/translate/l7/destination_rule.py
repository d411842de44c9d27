"""Which DestinationRules a client follows for a service, and what they come to for one subset and port."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from istiod.objects import DestinationRule, Meta
from istiod.objects.destination_rule import RuleSubset, TrafficPolicy
from istiod.translate.common import selects
from istiod.translate.graph import View
from istiod.translate.l7.catalog import spellings
from istiod.translate.l7.indexes import DESTINATIONS_BY_HOST
from istiod.translate.l7.mesh import exported, mesh_l7
from istiod.translate.l7.routes import Client

_SECTIONS: Final = (
    "load_balancer",
    "connection_pool",
    "outlier_detection",
    "tls",
    "tunnel",
    "proxy_protocol",
    "retry_budget",
)
NOTHING: Final = TrafficPolicy()


class Rules(msgspec.Struct, frozen=True):
    """All DestinationRules for one service, as one."""

    policy: TrafficPolicy = NOTHING
    subsets: tuple[RuleSubset, ...] = ()


def age(meta: Meta) -> tuple[str, str, str]:
    """The order of creation, by name where that is the same."""
    return (meta.creation_timestamp, meta.name, meta.namespace)


def rules_for(view: View, client: Client, namespace: str, hostname: str) -> Rules:
    """Looked for with the client, then with the service, then in the root namespace; the first namespace that has any
    for the host decides, and within it the most specific host. What the root namespace says for everybody comes last
    also for a client in it, so that it does not hide what is said where the service is.
    """
    root = view.settings.root_namespace
    first = (client.namespace, client.namespace == root)
    for place, private in dict.fromkeys((first, (namespace, False), (root, False))):
        for hosts in spellings(view, hostname, place):
            written = [rule for host in hosts for rule in view.find(DESTINATIONS_BY_HOST, (place, host))]
            if private:
                written = [rule for rule in written if _private(view, rule)]
            found = _usable(view, written, client)
            if found:
                return _merged(found)
    return Rules()


def _private(view: View, rule: DestinationRule) -> bool:
    """Whether only clients of its own namespace may see a rule."""
    names = rule.spec.export_to or view.ask(mesh_l7).default_destination_rule_export_to
    return bool(names) and set(names) <= {".", rule.metadata.namespace}


def merge(base: TrafficPolicy, over: TrafficPolicy | None) -> TrafficPolicy:
    """A section of `over` replaces that of `base` as a whole; settings of ports are left out."""
    changed = {field: value for field in _SECTIONS if (value := getattr(over, field, None)) is not None}
    return replace(base, port_level_settings=(), **changed)


def at_port(base: TrafficPolicy, source: TrafficPolicy | None, port: int) -> TrafficPolicy:
    """`base` with what `source` says for a port. A port inherits nothing: what its settings leave out is a default."""
    for one in source.port_level_settings if source is not None else ():
        if one.port.number == port:
            return replace(
                base,
                load_balancer=one.load_balancer,
                connection_pool=one.connection_pool,
                outlier_detection=one.outlier_detection,
                tls=one.tls,
            )
    return base


def _usable(view: View, rules: list[DestinationRule], client: Client) -> list[DestinationRule]:
    """Those the client may see; rules with a selector that means it replace those without. The oldest first."""
    default = view.ask(mesh_l7).default_destination_rule_export_to
    labels = dict(client.labels)
    general: list[DestinationRule] = []
    chosen: list[DestinationRule] = []
    for rule in sorted(rules, key=lambda rule: age(rule.metadata)):
        own = rule.metadata.namespace == client.namespace
        selector = rule.spec.workload_selector
        if selector is not None and selector.match_labels:
            if own and selects(selector.match_labels, labels):
                chosen.append(rule)
        elif own or exported(rule.spec.export_to, default, rule.metadata.namespace, client.namespace):
            general.append(rule)
    return chosen or general


def _merged(rules: list[DestinationRule]) -> Rules:
    """Of the policies the oldest counts, of each subset too."""
    policy = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy is not None), NOTHING)
    subsets: dict[str, RuleSubset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    return Rules(policy, tuple(subsets.values()))
