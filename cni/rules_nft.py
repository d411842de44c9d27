"""Redirection by nftables: the backend for pods.

Tables are of family inet, so that one set of rules serves IPv4 and IPv6. Every rule has a counter and a comment
`PURPOSE DIGEST`, where the digest is taken over the rule as it was asked for. What stands in the kernel is
compared through these comments and not through nft's own rendering, which differs between its versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cni import nft
from cni.redirect import (
    DNS_PORT,
    HBONE_PORT,
    INBOUND_PORT,
    MARK_MASK,
    OUTBOUND_PORT,
    PROXY_MARK,
    REPLY_MARK,
    PodRules,
)

NAT: Final = "istio-ambient-nat"
MANGLE: Final = "istio-ambient-mangle"
RAW: Final = "istio-ambient-raw"
TABLES: Final = (NAT, MANGLE, RAW)

PREROUTING: Final = "istio-prerouting"
OUTPUT: Final = "istio-output"

# table -> (type, priority) of its base chains at the hooks prerouting and output
_BASE: Final = {
    NAT: (("nat", -100), ("nat", -100)),
    MANGLE: (("filter", -150), ("route", -150)),
    RAW: (("filter", -300), ("filter", -300)),
}
_KEEP_OTHERS: Final = 0xFFFF_FFFF ^ MARK_MASK  # bits of a connection mark that are not ours
_DNS_ZONE: Final = 1

Expression = list[dict[str, Any]]
Plan = dict[str, dict[str, list[tuple[str, Expression]]]]
"""table -> chain -> rules in order, each a purpose and its expression."""


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _redirect(port: int) -> dict[str, Any]:
    return {"redirect": {"port": port}}


def _mark(value: int, op: str = "==") -> dict[str, Any]:
    return match({"&": [meta("mark"), MARK_MASK]}, value, op)


TCP: Final = match(meta("l4proto"), "tcp")
UDP: Final = match(meta("l4proto"), "udp")
ACCEPT: Final = {"accept": None}
NOT_PROXY: Final = _mark(PROXY_MARK, "!=")


def plan(wanted: PodRules) -> Plan:
    """The rules of a pod: effects and order of Istio's in-pod rules."""
    tables: Plan = {
        NAT: {PREROUTING: list(_nat_prerouting(wanted)), OUTPUT: list(_nat_output(wanted))},
        MANGLE: _mangle(),
    }
    if wanted.dns_capture:
        tables[RAW] = _raw()
    return tables


def _families(wanted: PodRules) -> Iterator[tuple[str, str, str]]:
    """(protocol, loopback address, probe address) of each family that is captured."""
    yield "ip", "127.0.0.1", wanted.probe_v4
    if wanted.ipv6:
        yield "ip6", "::1", wanted.probe_v6


def _nat_prerouting(wanted: PodRules) -> Iterator[tuple[str, Expression]]:
    for interface in wanted.virtual_interfaces:
        yield f"outbound of {interface}", [match(meta("iifname"), interface), TCP, _redirect(OUTBOUND_PORT)]
    if wanted.bypass_inbound:
        return
    for protocol, _, probe in _families(wanted):
        yield "probe", [match(payload(protocol, "saddr"), probe), TCP, ACCEPT]
    for protocol, loopback, _ in _families(wanted):
        yield (
            "inbound",
            [
                match(payload(protocol, "daddr"), loopback, "!="),
                match(payload("tcp", "dport"), HBONE_PORT, "!="),
                NOT_PROXY,
                _redirect(INBOUND_PORT),
            ],
        )


def _nat_output(wanted: PodRules) -> Iterator[tuple[str, Expression]]:
    families = list(_families(wanted))
    for protocol, _, probe in families:
        yield "probe reply", [match(payload(protocol, "daddr"), probe), TCP, ACCEPT]
    if wanted.dns_capture:
        yield (
            "dns udp",
            [*_not_loopback_device(wanted), match(payload("udp", "dport"), 53), NOT_PROXY, _redirect(DNS_PORT)],
        )
        for protocol, loopback, _ in families:
            elsewhere = match(payload(protocol, "daddr"), loopback, "!=")
            yield "dns tcp", [elsewhere, match(payload("tcp", "dport"), 53), NOT_PROXY, _redirect(DNS_PORT)]
    yield "reply to proxy", [TCP, _mark(REPLY_MARK), ACCEPT]
    for protocol, loopback, _ in families:
        elsewhere = match(payload(protocol, "daddr"), loopback, "!=")
        yield "own address", [elsewhere, match(meta("oifname"), "lo"), ACCEPT]
    for protocol, loopback, _ in families:
        elsewhere = match(payload(protocol, "daddr"), loopback, "!=")
        yield "outbound", [elsewhere, TCP, NOT_PROXY, _redirect(OUTBOUND_PORT)]


def _not_loopback_device(wanted: PodRules) -> Expression:
    rule = [match(meta("oifname"), "lo", "!=")]
    return rule if wanted.ipv6 else [match(meta("nfproto"), "ipv4"), *rule]


def _mangle() -> dict[str, list[tuple[str, Expression]]]:
    connmark = {"ct": {"key": "mark"}}
    remember = {"mangle": {"key": connmark, "value": {"|": [{"&": [connmark, _KEEP_OTHERS]}, REPLY_MARK]}}}
    restore = {"mangle": {"key": meta("mark"), "value": connmark}}
    return {
        PREROUTING: [("remember proxy", [_mark(PROXY_MARK), remember])],
        OUTPUT: [("mark reply", [match({"&": [connmark, MARK_MASK]}, REPLY_MARK), restore])],
    }


def _raw() -> dict[str, list[tuple[str, Expression]]]:
    """ztunnel's own DNS queries get a conntrack zone, or they would be answered as the application's."""
    zone = {"mangle": {"key": {"ct": {"key": "zone"}}, "value": _DNS_ZONE}}
    return {
        PREROUTING: [("dns zone", [match(payload("udp", "sport"), 53), NOT_PROXY, zone])],
        OUTPUT: [("dns zone", [match(payload("udp", "dport"), 53), _mark(PROXY_MARK), zone])],
    }


def digest(purpose: str, expression: Expression) -> str:
    """The comment of a rule; equal for equal rules only."""
    text = msgspec.json.encode(expression, order="deterministic")
    return f"{purpose} {hashlib.sha256(text).hexdigest()[:12]}"


def rule(table: str, chain: str, purpose: str, expression: Expression) -> dict[str, Any]:
    """A command that appends one rule; its counter stands before the last statement, which decides."""
    counted = [*expression[:-1], {"counter": {"packets": 0, "bytes": 0}}, expression[-1]]
    body = {"family": "inet", "table": table, "chain": chain, "expr": counted, "comment": digest(purpose, expression)}
    return {"add": {"rule": body}}


def transaction(wanted: PodRules) -> list[dict[str, Any]]:
    """Commands that replace whatever our tables hold."""
    commands = drop(TABLES)
    for table, chains in plan(wanted).items():
        commands.append({"add": {"table": {"family": "inet", "name": table}}})
        commands += [{"add": {"chain": {"family": "inet", "table": table, "name": name}}} for name in chains]
        commands += [{"add": {"chain": chain}} for chain in _base_chains(table)]
        for hook, chain in (("prerouting", PREROUTING), ("output", OUTPUT)):
            jump = {"family": "inet", "table": table, "chain": hook, "expr": [{"jump": {"target": chain}}]}
            commands.append({"add": {"rule": jump}})
        for chain, rules in chains.items():
            commands += [rule(table, chain, purpose, expression) for purpose, expression in rules]
    return commands


def drop(tables: tuple[str, ...]) -> list[dict[str, Any]]:
    """Commands that remove tables, present or not: one that was just added can always be deleted."""
    names = [{"family": "inet", "name": name} for name in tables]
    return [{verb: {"table": name}} for name in names for verb in ("add", "delete")]


def _base_chains(table: str) -> Iterator[dict[str, Any]]:
    for hook, (kind, priority) in zip(("prerouting", "output"), _BASE[table], strict=True):
        yield {
            "family": "inet",
            "table": table,
            "name": hook,
            "type": kind,
            "hook": hook,
            "prio": priority,
            "policy": "accept",
        }


def outline(wanted: PodRules) -> dict[str, Any]:
    """What a listing must show: per table its chains, and per chain what its rules are."""
    result: dict[str, Any] = {}
    for table, chains in plan(wanted).items():
        shape: dict[str, Any] = {
            base["name"]: (base["type"], base["hook"], base["prio"], "accept", [f"jump {name}"])
            for base, name in zip(_base_chains(table), (PREROUTING, OUTPUT), strict=True)
        }
        for chain, rules in chains.items():
            shape[chain] = (None, None, None, None, [digest(*one) for one in rules])
        result[table] = shape
    return result


def observed(listing: list[dict[str, Any]]) -> dict[str, Any]:
    """The same outline, of one listed table. Rules that are not ours show as what they are not."""
    shape: dict[str, Any] = {}
    for item in listing:
        if chain := item.get("chain"):
            attributes = [chain.get(key) for key in ("type", "hook", "prio", "policy")]
            shape[chain["name"]] = (*attributes, [])
        elif found := item.get("rule"):
            shape[found["chain"]][4].append(_identify(found))
        elif "set" in item or "map" in item:
            shape["(a set)"] = None
    return shape


def _identify(found: dict[str, Any]) -> str:
    match found.get("expr"):
        case [{"jump": {"target": str(target)}}]:
            return f"jump {target}"
    return str(found.get("comment", "(no comment)"))


class NftBackend:
    """`cni.redirect.Backend` by nftables."""

    name = "nftables"

    def apply(self, netns: int, wanted: PodRules) -> bool:
        shapes = {name: observed(listing) for name, listing in nft.tables(netns).items() if name in TABLES}
        if shapes == outline(wanted):
            return False
        nft.commit(netns, transaction(wanted))
        return True

    def remove(self, netns: int) -> bool:
        present = tuple(name for name in nft.tables(netns) if name in TABLES)
        if present:
            nft.commit(netns, drop(present))
        return bool(present)

    def show(self, netns: int) -> list[dict[str, Any]]:
        rows = []
        present = nft.tables(netns)
        for name in TABLES:
            for item in present.get(name, ()):
                found = item.get("rule")
                if not found or "comment" not in found:
                    continue
                (counter,) = [part["counter"] for part in found["expr"] if "counter" in part] or [{}]
                purpose = found["comment"].rpartition(" ")[0]
                rows.append({"table": name, "chain": found["chain"], "rule": purpose, **counter})
        return rows
