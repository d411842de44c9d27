"""Hypothesis strategies over `meshcore.model`: every field, with the values that travel."""

from __future__ import annotations

from hypothesis import strategies as st

from meshcore import model

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(0, 2**32 - 1)
IP = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


def many(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


HOSTNAMES = st.builds(model.NamespacedHostname, namespace=TEXT, hostname=TEXT)
NETWORK_ADDRESSES = st.builds(model.NetworkAddress, network=TEXT, address=IP, length=st.none() | st.integers(0, 128))
GATEWAYS = st.builds(model.GatewayAddress, hostname=HOSTNAMES, hbone_mtls_port=NUMBER) | st.builds(
    model.GatewayAddress, address=NETWORK_ADDRESSES, hbone_mtls_port=NUMBER
)
PORTS = st.builds(model.Port, service_port=NUMBER, target_port=NUMBER, app_protocol=st.sampled_from(model.AppProtocol))
WORKLOADS = st.builds(
    model.Workload,
    uid=TEXT,
    name=TEXT,
    namespace=TEXT,
    addresses=many(IP),
    network=TEXT,
    tunnel_protocol=st.sampled_from(model.TunnelProtocol),
    trust_domain=TEXT,
    service_account=TEXT,
    node=TEXT,
    canonical_name=TEXT,
    canonical_revision=TEXT,
    workload_name=TEXT,
    workload_type=st.sampled_from(model.WorkloadType),
    status=st.sampled_from(model.WorkloadStatus),
    cluster_id=TEXT,
    services=st.dictionaries(TEXT, many(PORTS), max_size=3),
    authorization_policies=many(TEXT),
    waypoint=st.none() | GATEWAYS,
    network_gateway=st.none() | GATEWAYS,
    native_tunnel=st.booleans(),
    application_tunnel=st.none()
    | st.builds(model.ApplicationTunnel, protocol=st.sampled_from(model.TunnelTarget), port=NUMBER),
    locality=st.none() | st.builds(model.Locality, region=TEXT, zone=TEXT, subzone=TEXT),
    network_mode=st.sampled_from(model.NetworkMode),
    hostname=TEXT,
    capacity=NUMBER,
)
SERVICES = st.builds(
    model.Service,
    name=TEXT,
    namespace=TEXT,
    hostname=TEXT,
    addresses=many(NETWORK_ADDRESSES),
    ports=many(PORTS),
    subject_alt_names=many(TEXT),
    waypoint=st.none() | GATEWAYS,
    load_balancing=st.none()
    | st.builds(
        model.LoadBalancing,
        routing_preference=many(st.sampled_from(model.LbScope)),
        mode=st.sampled_from(model.LbMode),
        health_policy=st.sampled_from(model.HealthPolicy),
    ),
    ip_families=st.sampled_from(model.IPFamilies),
    canonical=st.booleans(),
    ingress_use_waypoint=st.booleans(),
    weighted_waypoints=many(st.builds(model.WeightedWaypoint, destination=GATEWAYS, weight=NUMBER)),
    visibility=st.sampled_from(model.Visibility),
)
STRINGS = st.one_of(
    st.builds(model.StringMatch, exact=TEXT),
    st.builds(model.StringMatch, prefix=TEXT),
    st.builds(model.StringMatch, suffix=TEXT),
    st.just(model.StringMatch(presence=True)),
)
CIDRS = st.builds(model.IpMatch, address=IP, length=st.integers(0, 128))
ACCOUNTS = st.builds(model.ServiceAccountMatch, namespace=TEXT, service_account=TEXT)
MATCHES = st.builds(
    model.Match,
    namespaces=many(STRINGS),
    not_namespaces=many(STRINGS),
    principals=many(STRINGS),
    not_principals=many(STRINGS),
    source_ips=many(CIDRS),
    not_source_ips=many(CIDRS),
    destination_ips=many(CIDRS),
    not_destination_ips=many(CIDRS),
    destination_ports=many(NUMBER),
    not_destination_ports=many(NUMBER),
    service_accounts=many(ACCOUNTS),
    not_service_accounts=many(ACCOUNTS),
)
POLICIES = st.builds(
    model.Authorization,
    name=TEXT,
    namespace=TEXT,
    scope=st.sampled_from(model.PolicyScope),
    action=st.sampled_from(model.PolicyAction),
    rules=many(st.builds(model.Rule, clauses=many(st.builds(model.Clause, matches=many(MATCHES))))),
    dry_run=st.booleans(),
)
