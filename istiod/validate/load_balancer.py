"""Checks of load balancing: hashing, slow start, localities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import DEPRECATED, Problem
from istiod.validate.common import required, unique, whole
from istiod.validate.field import Field
from istiod.validate.names import header_name
from istiod.validate.texts import duration

_HASH_KEYS: Final = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
MAGLEV_TABLE_BELOW: Final = 5_000_011
"""Envoy's bound on the size of a Maglev table."""
_TOPOLOGY: Final = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")


def load_balancer(balancer: Field, *, ejecting: bool) -> Iterator[Problem]:
    """`ejecting`: the policy has outlier detection, without which nothing ever fails over."""
    if balancer["localityLbSetting"].given and balancer["zoneAwareLbSetting"].given:
        yield balancer["zoneAwareLbSetting"].error("cannot stand beside localityLbSetting: choose one of them")
    if balancer["consistentHash"].given:
        yield from _consistent_hash(balancer["consistentHash"])
    warmup = balancer["warmup"]
    if warmup.given:
        yield from required(warmup["duration"])
        yield from duration(warmup["duration"])
        aggression = warmup["aggression"].number
        if aggression is not None and aggression <= 0:
            yield warmup["aggression"].error(f"{aggression} is not above 0")
    yield from duration(balancer["warmupDurationSecs"])
    yield from _localities(balancer["localityLbSetting"], ejecting=ejecting)
    zones = balancer["zoneAwareLbSetting"]
    yield from _failover(zones, ejecting=ejecting)
    yield from whole(zones["minClusterSize"])


def _consistent_hash(hashing: Field) -> Iterator[Problem]:
    if not hashing.filled_of(*_HASH_KEYS) and not hashing["httpCookie"].given:
        yield hashing.warn(f"hashes nothing, so every host is as likely; it needs one of {', '.join(_HASH_KEYS)}")
    if hashing["httpHeaderName"]:
        yield from header_name(hashing["httpHeaderName"], hashing["httpHeaderName"].text)
    cookie = hashing["httpCookie"]
    if cookie.given:
        yield from required(cookie["name"])
        yield from duration(cookie["ttl"], zero=True)
        yield from unique((attribute["name"] for attribute in cookie["attributes"]), "the attribute")
    size = hashing["minimumRingSize"]
    if size:
        yield size.warn("is deprecated; use ringHash.minimumRingSize", code=DEPRECATED)
        for algorithm in hashing.given_of("ringHash", "maglev"):
            yield size.error(f"cannot stand beside {algorithm.name}: choose one of them")
    table = hashing["maglev"]["tableSize"]
    number = table.number
    if number is not None and not (2 <= number < MAGLEV_TABLE_BELOW and _is_prime(int(number))):
        yield table.error(f"{number} is not a prime number below {MAGLEV_TABLE_BELOW}, such as 65537")


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _localities(setting: Field, *, ejecting: bool) -> Iterator[Problem]:
    distribute = setting["distribute"]
    if distribute and setting["failover"]:
        yield setting["failover"].error("cannot stand beside distribute: choose one of them")
    for entry in distribute:
        yield from required(entry["from"])
        total = 0.0
        for _, weight in entry["to"].members():
            yield from whole(weight, least=1, most=100)
            total += weight.number or 0
        if total != 100:
            yield entry["to"].error(f"the weights add up to {total:g}, and must to 100")
    yield from _failover(setting, ejecting=ejecting)


def _failover(setting: Field, *, ejecting: bool) -> Iterator[Problem]:
    failover, priority = setting["failover"], setting["failoverPriority"]
    for entry in failover:
        source, target = entry["from"], entry["to"]
        for region in (source, target):
            yield from required(region)
            if "/" in region.text or "*" in region.text:
                yield region.error(f"{region} is not a region alone; failover goes from region to region")
        if source.text and source.text == target.text:
            yield target.error(f"from and to are the same region {target}")
    if failover:
        for label in priority.texts():
            if label.text.partition("=")[0] in _TOPOLOGY:
                yield label.error("the topology is what failover is about: leave this label out, or failover")
    for field in setting.filled_of("failover", "failoverPriority"):
        if not ejecting:
            yield field.warn("has no effect without outlierDetection beside it: no host is ever found unhealthy")
