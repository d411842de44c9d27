"""An incremental translation equals a full one, whatever the order of changes, and does less."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istiod import objects
from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import FAMILIES, INDEXES, Translator
from istiod.translate.statuses import OUTPUT
from meshcore.manifests import CLUSTER_SCOPED, Key
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE

MESH = MeshConfig(dry_run_policies=True, allow_waypoints=True)
NAMESPACES = ("a", "b", "istio-system")
NAMES = ("x", "y")
HOSTS = ("db.example", "*.wild.example", "x.a.svc.cluster.local")

labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("1", "2")), max_size=2)
some = st.sampled_from
modes = some(("UNSET", "STRICT", "PERMISSIVE"))
waypoint_labels = st.fixed_dictionaries(
    {},
    optional={
        "istio.io/use-waypoint": some(("x", "y", "none")),
        "istio.io/use-waypoint-namespace": some(NAMESPACES),
        "istio.io/use-waypoint-canary": some(NAMES),
        "istio.io/ingress-use-waypoint": some(("true", "false")),
    },
)
weights = st.fixed_dictionaries(
    {},
    optional={
        "istio.io/use-waypoint-canary-weight": some(("10", "x")),
        "networking.istio.io/traffic-distribution": some(("PreferClose", "PreferSameNode")),
    },
)


def of(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {key: st.just(v) if not isinstance(v, st.SearchStrategy) else v for key, v in fields.items()}
    )


refs = some(
    (
        {"kind": "Service", "group": "", "name": "x"},
        {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "x"},
        {"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint"},
        {"kind": "ServiceEntry", "group": "networking.istio.io", "name": "y"},
    )
)
merged = st.builds(lambda one, two: {**one, **two}, labels, waypoint_labels)
ports = st.just([{"port": 80, "name": "http", "targetPort": "web"}, {"port": 90, "name": "tcp", "targetPort": 9090}])

KINDS: dict[str, tuple[Any, Any, Any]] = {
    # kind: spec, status, labels
    "Namespace": (None, None, merged),
    "Node": (None, None, of(**{"topology.kubernetes.io/region": some(("r1", "r2"))})),
    "Pod": (
        of(
            nodeName=some(NAMES),
            serviceAccountName=some(NAMES),
            containers=st.just([{"ports": [{"containerPort": 8080, "name": "web"}]}]),
        ),
        of(podIPs=some(([], [{"ip": "10.0.0.1"}], [{"ip": "10.0.0.2"}])), phase=some(("Running", "Failed"))),
        st.builds(
            lambda one, two: {**one, **two},
            merged,
            st.fixed_dictionaries({}, optional={"gateway.networking.k8s.io/gateway-name": some(NAMES)}),
        ),
    ),
    "Service": (
        of(
            selector=labels, ports=ports, clusterIP=some(("None", "10.1.0.1")), type=some(("ClusterIP", "ExternalName"))
        ),
        None,
        merged,
    ),
    "EndpointSlice": (
        None,
        None,
        of(**{"kubernetes.io/service-name": some(NAMES)}),
    ),
    "ServiceEntry": (
        st.builds(
            lambda base, extra: {**base, **extra},
            of(
                hosts=st.lists(some(HOSTS), min_size=1, max_size=2, unique=True),
                resolution=some(("NONE", "STATIC", "DNS")),
                ports=st.just([{"number": 80, "name": "http", "protocol": "HTTP"}]),
            ),
            some(
                (
                    {},
                    {"workloadSelector": {"labels": {"app": "1"}}},
                    {"endpoints": [{"address": "1.1.1.1", "labels": {"app": "1"}}, {"address": "db"}]},
                )
            ),
        ),
        some(({}, {"addresses": [{"value": "240.240.0.1", "host": "db.example"}]})),
        merged,
    ),
    "WorkloadEntry": (
        of(
            address=some(("2.2.2.2", "vm.example")),
            labels=labels,
            ports=some(({}, {"http": 81})),
            serviceAccount=some(NAMES),
        ),
        None,
        merged,
    ),
    "AuthorizationPolicy": (
        st.builds(
            lambda base, selector: {**base, **selector},
            of(action=some(("ALLOW", "DENY", "AUDIT")), targetRefs=st.lists(refs, max_size=1)),
            some(({}, {"selector": {"matchLabels": {"app": "1"}}}, {"selector": {"matchLabels": {}}})),
        ),
        None,
        st.just({}),
    ),
    "PeerAuthentication": (
        st.one_of(
            of(mtls=of(mode=modes)),
            of(
                mtls=of(mode=modes),
                selector=of(matchLabels=of(app=some(("1", "2")))),
                portLevelMtls=some(({}, {"80": {"mode": "STRICT"}}, {"81": {"mode": "DISABLE"}})),
            ),
        ),
        None,
        st.just({}),
    ),
    "Gateway": (
        of(
            gatewayClassName=some(("istio-waypoint", "istio", "istio-remote")),
            listeners=some(
                (
                    [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
                    [
                        {
                            "name": "mesh",
                            "port": 15008,
                            "protocol": "HBONE",
                            "allowedRoutes": {"namespaces": {"from": "All"}},
                        }
                    ],
                )
            ),
        ),
        of(addresses=some(([], [{"value": "10.9.9.9"}], [{"type": "Hostname", "value": "x.a.svc.cluster.local"}]))),
        st.fixed_dictionaries({}, optional={"istio.io/waypoint-for": some(("service", "workload", "all", "none"))}),
    ),
    "ConfigMap": (None, None, st.just({})),
    "VirtualService": (
        of(
            hosts=st.lists(
                some(("db.example", "x", "y.b.svc.cluster.local", "*.wild.example")), min_size=1, max_size=2
            ),
            http=some(
                (
                    [{"route": [{"destination": {"host": "x", "subset": "v1"}}]}],
                    [{"match": [{"uri": {"prefix": "/a"}}], "redirect": {"uri": "/b"}}],
                )
            ),
            exportTo=some(([], ["."], ["a"])),
            gateways=some(([], ["x"], ["mesh", "b/y"])),
        ),
        None,
        st.just({}),
    ),
    "DestinationRule": (
        of(
            host=some(("x", "db.example", "*.svc.cluster.local")),
            subsets=some(([], [{"name": "v1", "labels": {"tier": "1"}}])),
            trafficPolicy=some(({}, {"loadBalancer": {"simple": "RANDOM"}}, {"tls": {"mode": "SIMPLE"}})),
        ),
        None,
        st.just({}),
    ),
    "HTTPRoute": (
        of(
            parentRefs=some(
                (
                    [{"name": "x"}],
                    [{"name": "y", "namespace": "b"}],
                    [{"kind": "Service", "group": "", "name": "x"}],
                )
            ),
            rules=some(
                (
                    [{"backendRefs": [{"name": "x", "port": 80}]}],
                    [{"backendRefs": [{"name": "y", "namespace": "b", "port": 90, "weight": 3}]}],
                )
            ),
        ),
        None,
        st.just({}),
    ),
    "ReferenceGrant": (
        of(
            **{"from": st.just([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"}])},
            to=st.just([{"group": "", "kind": "Service"}]),
        ),
        None,
        st.just({}),
    ),
    "RequestAuthentication": (
        of(targetRefs=st.lists(refs, max_size=2), jwtRules=some(([], [{"issuer": "i", "jwks": "{}"}]))),
        None,
        st.just({}),
    ),
    "Telemetry": (
        of(targetRefs=st.lists(refs, max_size=1), tracing=some(([], [{"randomSamplingPercentage": 5.0}]))),
        None,
        st.just({}),
    ),
}


@st.composite
def changes(draw: st.DrawFn) -> tuple[Key, Any]:
    kind = draw(some(sorted(KINDS)))
    spec, status, marks = KINDS[kind]
    namespace = "" if kind in CLUSTER_SCOPED else draw(some(NAMESPACES))
    name = draw(some(NAMESPACES if kind == "Namespace" else NAMES))
    if kind == "ConfigMap":
        namespace, name = "istio-system", "istio"
    key = (kind, namespace, name)
    if draw(st.integers(0, 3)) == 0:
        return key, None
    meta: dict[str, Any] = {"name": name, "labels": draw(marks), "annotations": draw(weights)}
    meta["creationTimestamp"] = draw(some(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")))
    if namespace:
        meta["namespace"] = namespace
    value: dict[str, Any] = {"metadata": meta}
    if spec is not None:
        value["spec"] = draw(spec)
    if status is not None:
        value["status"] = draw(status)
    if kind == "ConfigMap":
        value["data"] = {"mesh": draw(some(("{}", "serviceEntryVisibility: {defaultVisibility: NAMESPACE}", "{")))}
    if kind == "EndpointSlice":
        pod = {"kind": "Pod", "name": draw(some(NAMES))}
        endpoints = [{"addresses": ["3.3.3.3"]}, {"addresses": ["10.0.0.1"], "targetRef": pod}]
        value |= {"endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}
    return key, objects.convert(value, objects.KINDS[kind])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.lists(changes(), min_size=1, max_size=6), min_size=1, max_size=12))
def test_any_sequence_of_changes_gives_what_a_fresh_translation_gives(batches: list[list[tuple[Key, Any]]]) -> None:
    store = Store(INDEXES)
    translator = Translator(store, MESH)
    mirror: dict[str, dict[str, Any]] = {family.output: {} for family in FAMILIES}
    for batch in batches:
        put = [store.put(key, value) for key, value in batch]
        for diff in translator.apply(change for change in put if change is not None):
            for name, value in diff.changed.items():
                if value is None:
                    del mirror[diff.output][name]
                else:
                    assert mirror[diff.output].get(name) != value  # only differences are told
                    mirror[diff.output][name] = value
        fresh = Translator(store, MESH)
        for output, held in mirror.items():
            assert translator.resources(output) == fresh.resources(output) == held
    assert translator.graph.failures == 0


def test_the_counters_show_that_one_pod_costs_one_pod() -> None:
    store = Store(INDEXES)
    for number in range(100):
        put(store, pod(number))
    put(store, {"kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {"selector": {"app": "1"}}})
    translator = Translator(store, MeshConfig())
    computed = translator.graph.computed
    assert computed["pod_addresses"] == 100
    computed.clear()
    diffs = translator.apply([put(store, pod(7, ip="10.1.0.7"))])
    assert [(diff.output, len(diff.changed)) for diff in diffs] == [(ADDRESS_TYPE, 1)]
    assert dict(computed) == {"pod_addresses": 1}
    computed.clear()
    selector = {"selector": {"matchLabels": {"number": "3"}}, "action": "DENY", "rules": [{}]}
    policy = {"kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "a"}, "spec": selector}
    diffs = translator.apply([put(store, policy)])
    assert {diff.output: len(diff.changed) for diff in diffs} == {ADDRESS_TYPE: 1, AUTHORIZATION_TYPE: 1, OUTPUT: 1}
    assert dict(computed) == {"pod_addresses": 1, "ztunnel_policy": 1, "policy_status": 1}
    computed.clear()
    namespace = {"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": "red"}}}
    assert translator.apply([put(store, namespace)]) == []  # nothing of it concerns a pod
    assert dict(computed) == {"namespace_defaults": 1}


def pod(number: int, ip: str = "") -> dict[str, Any]:
    meta = {"name": f"p{number}", "namespace": "a", "labels": {"app": "1", "number": str(number)}}
    return {"kind": "Pod", "metadata": meta, "status": {"podIP": ip or f"10.0.0.{number}"}}


def put(store: Store, value: dict[str, Any]) -> Any:
    meta = value["metadata"]
    change = store.put(
        (value["kind"], meta.get("namespace", ""), meta["name"]), objects.convert(value, objects.KINDS[value["kind"]])
    )
    assert change is not None
    return change
