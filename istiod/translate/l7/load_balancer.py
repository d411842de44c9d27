"""The load balancing of a destination."""

from __future__ import annotations

from typing import Final

from istiod.objects.destination_rule import ConsistentHash, LoadBalancerSettings, LocalityLb
from istiod.objects.mesh_l7 import MeshL7File
from istiod.translate.l7.units import milliseconds
from meshcore import l7
from meshcore.l7 import PPM, LbAlgorithm

RING_SIZE: Final = 1024
MAGLEV_SIZE: Final = 65_537
"""Envoy's default table; a prime."""
AGGRESSION_MAX: Final = 1000.0
"""Beyond it a curve is a step, whatever the number."""
_SIMPLE: Final = {
    "ROUND_ROBIN": LbAlgorithm.ROUND_ROBIN,
    "RANDOM": LbAlgorithm.RANDOM,
    "PASSTHROUGH": LbAlgorithm.PASSTHROUGH,
}
_WARMING: Final = (LbAlgorithm.LEAST_REQUEST, LbAlgorithm.ROUND_ROBIN)


def load_balancer(settings: LoadBalancerSettings | None, mesh: MeshL7File, *, failover: bool) -> l7.LoadBalancer:
    """`failover`: unhealthy hosts are noticed, so that traffic can move to the next locality."""
    settings = settings or LoadBalancerSettings()
    algorithm = _SIMPLE.get(settings.simple, LbAlgorithm.LEAST_REQUEST)
    key, size = None, 0
    if settings.consistent_hash is not None and (key := _key(settings.consistent_hash)) is not None:
        algorithm, size = _table(settings.consistent_hash)
    return l7.LoadBalancer(
        algorithm=algorithm,
        hash_key=key,
        table_size=size,
        locality=_locality(settings, mesh, failover=failover),
        warmup=_warmup(settings) if algorithm in _WARMING else None,
    )


def _key(wanted: ConsistentHash) -> l7.HashKey | None:
    if wanted.http_header_name:
        return l7.HashKey(l7.HashSource.HEADER, wanted.http_header_name.lower())
    if wanted.http_cookie is not None:
        cookie = wanted.http_cookie
        ttl = -1 if cookie.ttl is None else milliseconds(cookie.ttl)
        attributes = tuple((one.name, one.value) for one in cookie.attributes)
        return l7.HashKey(l7.HashSource.COOKIE, cookie.name, cookie.path, ttl, attributes)
    if wanted.use_source_ip:
        return l7.HashKey(l7.HashSource.SOURCE_IP)
    if wanted.http_query_parameter_name:
        return l7.HashKey(l7.HashSource.QUERY, wanted.http_query_parameter_name)
    return None


def _table(wanted: ConsistentHash) -> tuple[LbAlgorithm, int]:
    if wanted.maglev is not None:
        return LbAlgorithm.MAGLEV, wanted.maglev.table_size or MAGLEV_SIZE
    ring = wanted.ring_hash.minimum_ring_size if wanted.ring_hash is not None else 0
    return LbAlgorithm.RING_HASH, ring or wanted.minimum_ring_size or RING_SIZE


def _locality(settings: LoadBalancerSettings, mesh: MeshL7File, *, failover: bool) -> l7.LocalityPolicy | None:
    """A destination's setting replaces the mesh's. Priorities mean nothing while no host can become unhealthy."""
    zones = settings.zone_aware_lb_setting
    if zones is not None and zones.enabled is not False:
        return _priorities(zones, zone_aware=True)
    wanted = settings.locality_lb_setting or mesh.locality_lb_setting or LocalityLb()
    if wanted.enabled is False:
        return None
    if wanted.distribute:
        shares = (l7.LocalityShare(one.from_, tuple(one.to.items())) for one in wanted.distribute)
        return l7.LocalityPolicy(distribute=tuple(shares))
    return _priorities(wanted, zone_aware=False) if failover else None


def _priorities(wanted: LocalityLb, *, zone_aware: bool) -> l7.LocalityPolicy:
    return l7.LocalityPolicy(
        failover=tuple((one.from_, one.to) for one in wanted.failover),
        priorities=wanted.failover_priority,
        zone_aware=zone_aware,
        min_hosts=wanted.min_cluster_size,
    )


def _warmup(settings: LoadBalancerSettings) -> l7.Warmup | None:
    warmup = settings.warmup
    duration = milliseconds(warmup.duration if warmup is not None else settings.warmup_duration_secs)
    if not duration:
        return None
    if warmup is None:
        return l7.Warmup(duration)
    percent = 10.0 if warmup.minimum_percent is None else warmup.minimum_percent
    aggression = 1.0 if warmup.aggression is None else warmup.aggression
    return l7.Warmup(
        duration, round(min(max(percent, 0.0), 100.0)), round(min(max(aggression, 0.0), AGGRESSION_MAX) * PPM)
    )
