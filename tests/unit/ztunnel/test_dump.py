"""The shapes of `config_dump` that istioctl reads."""

from __future__ import annotations

import json

from meshcore.model import (
    ApplicationTunnel,
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    Match,
    NetworkMode,
    PolicyAction,
    ServiceAccountMatch,
    StringMatch,
    TunnelTarget,
    Visibility,
    WorkloadStatus,
    WorkloadType,
)
from tests.support.world import World, by_host, by_ip, cidr, weighted
from ztunnel import dump


def test_a_bare_workload_shows_only_what_it_has() -> None:
    world = World()
    world.pod("a", ip="10.0.0.1", canonical_name="", workload_name="", service_account="default")
    [found] = dump.cluster(world.state)["workloads"]
    assert found == {
        "workloadIps": ["10.0.0.1"],
        "protocol": "HBONE",
        "networkMode": "Standard",
        "uid": "Kubernetes//Pod/default/a",
        "name": "a",
        "namespace": "default",
        "workloadType": "pod",
        "status": "Healthy",
        "clusterId": "Kubernetes",
        "capacity": 1,
    }


def test_a_full_workload_shows_everything() -> None:
    world = World()
    world.pod(
        "a",
        ip=["10.0.0.1", "fd00::1"],
        hbone=False,
        services={"web.example": {80: 80}},
        network="east",
        trust_domain="td",
        service_account="sa",
        workload_type=WorkloadType.DEPLOYMENT,
        canonical_revision="v1",
        hostname="h.example",
        node="n1",
        native_tunnel=True,
        application_tunnel=ApplicationTunnel(TunnelTarget.PROXY, 15088),
        authorization_policies=("default/p",),
        status=WorkloadStatus.UNHEALTHY,
        locality=Locality("r", "z"),
        network_mode=NetworkMode.HOST_NETWORK,
        waypoint=by_host("wp.example"),
        network_gateway=by_ip("10.9.0.1", "east", 15009),
        capacity=0,
    )
    [found] = dump.cluster(world.state)["workloads"]
    assert found == {
        "workloadIps": ["10.0.0.1", "fd00::1"],
        "waypoint": {"destination": "default/wp.example", "hboneMtlsPort": 15008},
        "networkGateway": {"destination": "east/10.9.0.1", "hboneMtlsPort": 15009},
        "protocol": "TCP",
        "networkMode": "HostNetwork",
        "uid": "Kubernetes//Pod/default/a",
        "name": "a",
        "namespace": "default",
        "trustDomain": "td",
        "serviceAccount": "sa",
        "network": "east",
        "workloadName": "a",
        "workloadType": "deployment",
        "canonicalName": "a",
        "canonicalRevision": "v1",
        "hostname": "h.example",
        "node": "n1",
        "nativeTunnel": True,
        "applicationTunnel": {"protocol": "PROXY", "port": 15088},
        "authorizationPolicies": ["default/p"],
        "status": "Unhealthy",
        "clusterId": "Kubernetes",
        "locality": {"region": "r", "zone": "z", "subzone": ""},
        "services": ["default/web.example"],
        "capacity": 0,
    }


def test_a_service_shows_its_endpoints() -> None:
    world = World()
    world.pod("b", ip="10.0.0.2", services={"web.example": {80: 8080}}, status=WorkloadStatus.UNHEALTHY)
    world.pod("a", ip="10.0.0.1", services={"web.example": {80: 9090}, "late.example": {1: 2}})
    world.service(
        "web.example",
        vips=["10.1.0.1", "east|10.1.0.2", "10.2.0.0/16"],
        subject_alt_names=("spiffe://a",),
        waypoint=by_ip("10.9.0.1"),
        weighted_waypoints=weighted(red=2),
        lb=LoadBalancing((LbScope.NETWORK, LbScope.ZONE), LbMode.FAILOVER, HealthPolicy.ALLOW_ALL),
        ip_families=IPFamilies.DUAL,
        visibility=Visibility.NAMESPACE,
    )
    found = dump.cluster(world.state)
    assert found["services"] == [
        {
            "name": "web",
            "namespace": "default",
            "hostname": "web.example",
            "vips": ["/10.1.0.1", "east/10.1.0.2"],
            "cidrVips": [{"network": "", "cidr": "10.2.0.0/16"}],
            "ports": {"80": 8080},
            "endpoints": {
                "Kubernetes//Pod/default/a": {
                    "workloadUid": "Kubernetes//Pod/default/a",
                    "port": {"80": 9090},
                    "status": "Healthy",
                },
                "Kubernetes//Pod/default/b": {
                    "workloadUid": "Kubernetes//Pod/default/b",
                    "port": {"80": 8080},
                    "status": "Unhealthy",
                },
            },
            "subjectAltNames": ["spiffe://a"],
            "waypoint": {"destination": "/10.9.0.1", "hboneMtlsPort": 15008},
            "weightedWaypoints": [{"destination": "default/red.example", "weight": 2}],
            "loadBalancer": {
                "routingPreferences": ["Network", "Zone"],
                "mode": "Failover",
                "healthPolicy": "AllowAll",
            },
            "ipFamilies": "Dual",
            "canonical": False,
            "visibility": "Namespace",
        }
    ]
    assert found["stagedServices"] == {
        "default/late.example": {
            "Kubernetes//Pod/default/a": {
                "workloadUid": "Kubernetes//Pod/default/a",
                "port": {"1": 2},
                "status": "Healthy",
            }
        }
    }


def test_a_bare_service_keeps_its_required_keys() -> None:
    world = World()
    world.service("web.example")
    [found] = dump.cluster(world.state)["services"]
    assert set(found) == {
        "name",
        "namespace",
        "hostname",
        "vips",
        "ports",
        "endpoints",
        "subjectAltNames",
        "canonical",
        "visibility",
    }


def test_a_policy_shows_its_rules() -> None:
    world = World()
    world.policy(
        "p",
        Match(
            namespaces=(StringMatch(exact="a"), StringMatch(prefix="b"), StringMatch(suffix="c")),
            not_principals=(StringMatch(presence=True),),
            source_ips=(cidr("10.0.0.0/8"),),
            not_destination_ips=(cidr("fd00::/8"),),
            destination_ports=(80,),
            not_service_accounts=(ServiceAccountMatch("ns", "sa"),),
        ),
        action=PolicyAction.DENY,
        dry_run=True,
    )
    assert dump.cluster(world.state)["policies"] == [
        {
            "name": "p",
            "namespace": "default",
            "scope": "Namespace",
            "action": "Deny",
            "rules": [
                [
                    [
                        {
                            "namespaces": [{"Exact": "a"}, {"Prefix": "b"}, {"Suffix": "c"}],
                            "notPrincipals": [{"Presence": []}],
                            "sourceIps": ["10.0.0.0/8"],
                            "notDestinationIps": ["fd00::/8"],
                            "destinationPorts": [80],
                            "notServiceAccounts": [{"namespace": "ns", "serviceAccount": "sa"}],
                        }
                    ]
                ]
            ],
            "dryRun": True,
        }
    ]


def test_everything_is_sorted_and_is_json() -> None:
    world = World()
    for name in ("b", "a"):
        world.pod(name)
        world.service(f"{name}.example")
        world.policy(name)
    found = dump.cluster(world.state)
    for kind in ("workloads", "services", "policies"):
        assert [one["name"] for one in found[kind]] == ["a", "b"]
    assert json.loads(json.dumps(found)) == found
