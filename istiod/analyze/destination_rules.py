"""DestinationRules and ServiceEntries: hosts that exist, subsets that select, certificates that are checked."""

from __future__ import annotations

from collections.abc import Iterator

from istiod.analyze.hosts import Host, Hosts, overlap
from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from istiod.objects import DestinationRule, ServiceEntry
from istiod.objects.destination_rule import ClientTls, RuleSubset, TrafficPolicy
from meshcore.manifests import Key
from meshcore.yamldoc import Path


def hosts(world: World) -> Iterator[Message]:
    """Hosts without a service, and subsets without a pod."""
    known = Hosts(world)
    for (namespace, name), rule in world.store.of(DestinationRule).items():
        key: Key = ("DestinationRule", namespace, name)
        host = rule.spec.host
        if not host:
            continue
        found = known.find(host, namespace)
        if not found and not host.startswith("*") and not known.unsure():
            yield message("IST0174", key, ("spec", "host"), host=host)
        for index, subset in enumerate(rule.spec.subsets):
            if found and subset.labels and _selects_nothing(world, found, subset):
                labels = ", ".join(f"{label}={value}" for label, value in sorted(subset.labels.items()))
                path: Path = ("spec", "subsets", index, "labels")
                yield message("IST0173", key, path, name=subset.name, labels=labels, host=host)


def _selects_nothing(world: World, found: list[Host], subset: RuleSubset) -> bool:
    """Only where all services go by selectors, so that it is known what stands behind them."""
    if not world.knows_workloads or not all(one.selector and one.sure for one in found):
        return False
    return not any(world.selected(one.key[1], {**one.selector, **subset.labels}) for one in found)


def certificates(world: World) -> Iterator[Message]:
    """TLS to a service whose certificate is not held against a certain authority."""
    for (namespace, name), rule in world.store.of(DestinationRule).items():
        key: Key = ("DestinationRule", namespace, name)
        yield from _policy(key, rule.spec.host, rule.spec.traffic_policy, ("spec", "trafficPolicy"))
        for index, subset in enumerate(rule.spec.subsets):
            path: Path = ("spec", "subsets", index, "trafficPolicy")
            yield from _policy(key, rule.spec.host, subset.traffic_policy, path)


def _policy(key: Key, host: str, policy: TrafficPolicy | None, path: Path) -> Iterator[Message]:
    if policy is None:
        return
    if _unchecked(policy.tls):
        yield message("IST0128", key, (*path, "tls"), mode=policy.tls.mode if policy.tls else "", host=host)
    for index, port in enumerate(policy.port_level_settings):
        if _unchecked(port.tls):
            place = (*path, "portLevelSettings", index, "tls")
            mode = port.tls.mode if port.tls else ""
            yield message("IST0129", key, place, mode=mode, host=host, port=port.port.number)


def _unchecked(tls: ClientTls | None) -> bool:
    if tls is None or tls.mode not in ("SIMPLE", "MUTUAL"):
        return False
    return not (tls.ca_certificates or tls.credential_name or tls.insecure_skip_verify)


def entry_ports(world: World) -> Iterator[Message]:
    """One port of one host with two protocols, in ServiceEntries that the same clients see."""
    seen: dict[tuple[str, int], list[tuple[ServiceEntry, str, Path]]] = {}
    for entry in world.store.of(ServiceEntry).values():
        for index, port in enumerate(entry.spec.ports):
            for host in entry.spec.hosts:
                place: Path = ("spec", "ports", index)
                seen.setdefault((host.lower(), port.number), []).append((entry, port.protocol.upper(), place))
    for (host, number), uses in seen.items():
        for entry, protocol, path in uses:
            for other, theirs, _ in uses:
                if protocol != theirs and entry is not other and _both_seen(entry, other):
                    meta = other.metadata
                    yield message(
                        "IST0177",
                        ("ServiceEntry", entry.metadata.namespace, entry.metadata.name),
                        path,
                        port=number,
                        host=host,
                        protocol=protocol,
                        theirs=theirs,
                        other=f"ServiceEntry {meta.namespace}/{meta.name}",
                    )
                    break


def _both_seen(mine: ServiceEntry, theirs: ServiceEntry) -> bool:
    return overlap(mine.spec.export_to, theirs.spec.export_to, mine.metadata.namespace, theirs.metadata.namespace)
