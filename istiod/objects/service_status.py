"""The status of a Service: the addresses that a load balancer gave it."""

from __future__ import annotations

from istiod.objects.base import ConditionedStatus, Object


class Ingress(Object, frozen=True):
    """One address of a load balancer: an IP address or a hostname."""

    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Object, frozen=True):
    ingress: tuple[Ingress, ...] = ()


class ServiceStatus(ConditionedStatus, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
