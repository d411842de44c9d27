"""A small universe of objects that refer to each other, and any changes of it, for property tests of translations."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

from istiod import objects
from istiod.translate.common import MeshConfig
from meshcore.manifests import CLUSTER_SCOPED, Key
from tests.unit.istiod.gateway_api.support import key_pair

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
route_parents = st.lists(
    some(
        (
            {"name": "x"},
            {"name": "y", "namespace": "b"},
            {"name": "x", "namespace": "a", "sectionName": "web"},
            {"name": "x", "namespace": "a", "port": 443},
            {"kind": "ListenerSet", "name": "x", "namespace": "a"},
            {"kind": "Service", "group": "", "name": "x"},
            {"kind": "Service", "group": "", "name": "x", "port": 90},
            {"kind": "ServiceEntry", "group": "networking.istio.io", "name": "y"},
        )
    ),
    min_size=1,
    max_size=2,
)
hostnames = some(([], ["db.example"], ["*.example", "x.other"]))
backends = st.lists(
    some(
        (
            {"name": "x", "port": 80},
            {"name": "y", "namespace": "b", "port": 90, "weight": 3},
            {"name": "y", "port": 81},
            {"kind": "Hostname", "group": "networking.istio.io", "name": "db.example", "port": 80},
        )
    ),
    max_size=2,
)
matches_of_http = some(([], [{"path": {"type": "Exact", "value": "/a"}}], [{"path": {"value": "/a"}, "method": "GET"}]))
filters_of_http = some(
    (
        [],
        [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "y", "port": 80, "namespace": "a"}}}],
        [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}],
        [{"type": "ExtensionRef"}],
    )
)
red_namespaces = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"tier": "1"}}}}
certificates = some(([{"name": "x"}], [{"name": "y", "namespace": "a"}], [{"name": "x"}, {"name": "y"}]))
http_listener = of(
    name=st.just("web"),
    port=some((80, 81)),
    protocol=some(("HTTP", "TCP")),
    allowedRoutes=some(({}, red_namespaces, {"namespaces": {"from": "All"}})),
)
tls_listener = of(
    name=some(("tls", "web")),
    port=st.just(443),
    protocol=some(("HTTPS", "TLS")),
    hostname=some(("", "*.example", "db.example")),
    tls=of(
        certificateRefs=certificates,
        options=some(({}, {"gateway.istio.io/tls-terminate-mode": "MUTUAL"})),
    ),
    allowedRoutes=some(({}, {"namespaces": {"from": "All"}})),
)
mesh_listener = of(
    name=st.just("mesh"),
    port=st.just(15008),
    protocol=st.just("HBONE"),
    allowedRoutes=some(({}, red_namespaces, {"namespaces": {"from": "All"}})),
)
ca_refs = some(
    (
        [{"kind": "ConfigMap", "name": "ca"}],
        [{"kind": "Secret", "name": "x"}],
        [{"kind": "ConfigMap", "name": "ca", "namespace": "b"}, {"kind": "ConfigMap", "name": "ca"}],
    )
)
frontend = st.builds(
    lambda found: {"frontend": {"default": {"validation": {"caCertificateRefs": found}}}},
    ca_refs,
)
traffic_policies = some(
    (
        None,
        {"loadBalancer": {"simple": "RANDOM"}},
        {"tls": {"mode": "SIMPLE"}},
        {"tls": {"mode": "MUTUAL", "credentialName": "x"}},
        {"outlierDetection": {}, "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "ISTIO_MUTUAL"}}]},
        {"portLevelSettings": [{"port": {"number": 90}, "connectionPool": {"tcp": {"maxConnections": 7}}}]},
    )
)
export_to = some(([], ["."], ["a"], ["*"]))
to_x = [{"destination": {"host": "x", "subset": "v1"}}]
http_rules = some(
    (
        [],
        [{"route": to_x}],
        [{"match": [{"uri": {"prefix": "/a"}}], "redirect": {"uri": "/b"}}],
        [
            {"match": [{"uri": {"prefix": "/a"}}], "delegate": {"name": "y", "namespace": "b"}},
            {"delegate": {"name": "y"}},
        ],
        [{"match": [{"port": 80, "gateways": ["a/x", "mesh"]}], "route": to_x, "mirror": {"host": "y"}}],
        [{"match": [{"sourceLabels": {"app": "1"}}, {"sourceNamespace": "a"}], "route": to_x}],
    )
)
streams = [{"match": [{"port": 90}], "route": [{"destination": {"host": "y", "port": {"number": 90}}}]}]
sni = [{"match": [{"sniHosts": ["db.example"]}], "route": [{"destination": {"host": "db.example"}}]}]
mesh_files = some(
    (
        "{}",
        "serviceEntryVisibility: {defaultVisibility: NAMESPACE}",
        "{",
        "trustDomain: td\ntrustDomainAliases: [old]",
        "defaultHttpRetryPolicy: {attempts: 1, retryOn: reset}\ndefaultVirtualServiceExportTo: ['.']",
        "extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: x.a.svc.cluster.local, port: 80}}]",
        "extensionProviders: [{name: p, zipkin: {service: a/db.example, port: 80}}]\naccessLogFile: /dev/stdout",
        "defaultDestinationRuleExportTo: ['.']\nlocalityLbSetting: {enabled: false}",
    )
)


def encoded(name: str) -> dict[str, str]:
    """The data of a Secret with a certificate, its key, and an authority."""
    pair = key_pair(name)
    texts = {"tls.crt": pair[0], "tls.key": pair[1], "ca.crt": pair[0]}
    return {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}


secrets = some((encoded("x"), encoded("y"), {**encoded("x"), "tls.key": ""}, {"ca.crt": encoded("x")["ca.crt"]}))
config_maps = some(({}, {"ca.crt": key_pair("x")[0]}, {"ca.crt": "none"}))
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
            st.fixed_dictionaries(
                {},
                optional={
                    "gateway.networking.k8s.io/gateway-name": some(NAMES),
                    "istio": some(NAMES),
                    "pod-template-hash": some(("h1", "h2")),
                },
            ),
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
            of(
                action=some(("ALLOW", "DENY", "AUDIT", "CUSTOM")),
                targetRefs=st.lists(refs, max_size=1),
                provider=some(({"name": "p"}, {"name": "q"})),
                rules=some(([], [{}], [{"from": [{"source": {"principals": ["td/ns/a/sa/x"]}}]}])),
            ),
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
        st.builds(
            lambda base, more: {**base, **more},
            of(
                gatewayClassName=some(("istio-waypoint", "istio", "istio-remote", "x")),
                listeners=st.lists(st.one_of(http_listener, tls_listener, mesh_listener), min_size=1, max_size=3),
                allowedListeners=some(({}, {"namespaces": {"from": "All"}}, red_namespaces)),
                addresses=some(([], [{"type": "Hostname", "value": "x"}])),
            ),
            st.one_of(
                st.just({}),
                of(tls=frontend),
                st.just({"tls": {"backend": {"clientCertificateRef": {"name": "x"}}}}),
            ),
        ),
        of(addresses=some(([], [{"value": "10.9.9.9"}], [{"type": "Hostname", "value": "x.a.svc.cluster.local"}]))),
        st.fixed_dictionaries({}, optional={"istio.io/waypoint-for": some(("service", "workload", "all", "none"))}),
    ),
    "GatewayClass": (
        of(controllerName=some(("istio.io/mesh-controller", "istio.io/gateway-controller", "else/else"))),
        None,
        st.fixed_dictionaries({}, optional={"istio.io/waypoint-for": some(("service", "all"))}),
    ),
    "ListenerSet": (
        of(
            parentRef=some(({"name": "x"}, {"name": "y", "namespace": "b"}, {"name": "x", "namespace": "a"})),
            listeners=st.lists(st.one_of(http_listener, tls_listener), min_size=1, max_size=2),
        ),
        None,
        st.just({}),
    ),
    "Gateway.networking.istio.io": (
        of(
            selector=some(({"istio": "x"}, {"istio": "x", "app": "1"}, {"app": "1"})),
            servers=st.lists(
                some(
                    (
                        {"port": {"number": 80, "name": "h", "protocol": "HTTP"}, "hosts": ["*"]},
                        {
                            "port": {"number": 80, "name": "r", "protocol": "HTTP"},
                            "hosts": ["./db.example"],
                            "tls": {"httpsRedirect": True},
                        },
                        {
                            "port": {"number": 443, "name": "s", "protocol": "HTTPS"},
                            "hosts": ["b/*.example"],
                            "tls": {"mode": "MUTUAL", "credentialName": "x"},
                        },
                        {
                            "port": {"number": 443, "name": "t", "protocol": "TLS"},
                            "hosts": ["db.example"],
                            "tls": {"mode": "PASSTHROUGH"},
                        },
                        {"port": {"number": 90, "name": "c", "protocol": "TCP"}, "hosts": ["*"]},
                    )
                ),
                min_size=1,
                max_size=3,
            ),
        ),
        None,
        st.just({}),
    ),
    "WorkloadGroup": (
        of(template=of(serviceAccount=some(NAMES), labels=labels), metadata=of(labels=labels)),
        None,
        labels,
    ),
    "Secret": (None, None, st.just({})),
    "ConfigMap": (None, None, st.just({})),
    "VirtualService": (
        st.builds(
            lambda base, more: {**base, **more},
            of(
                hosts=st.lists(
                    some(("db.example", "x", "y.b.svc.cluster.local", "*.wild.example", "*")), max_size=2, unique=True
                ),
                http=http_rules,
                exportTo=export_to,
                gateways=some(([], ["x"], ["mesh", "b/y"], ["a/x", "mesh"])),
            ),
            some(({}, {"tcp": streams}, {"tls": sni, "tcp": streams})),
        ),
        None,
        st.just({}),
    ),
    "DestinationRule": (
        st.builds(
            lambda base, more: {**base, **more},
            of(
                host=some(("x", "db.example", "*.svc.cluster.local", "*.example")),
                subsets=st.lists(
                    of(name=some(("v1", "v2")), labels=labels, trafficPolicy=traffic_policies), max_size=2
                ),
                trafficPolicy=traffic_policies,
                exportTo=export_to,
            ),
            some(({}, {"workloadSelector": {"matchLabels": {"app": "1"}}})),
        ),
        None,
        st.just({}),
    ),
    "HTTPRoute": (
        of(
            parentRefs=route_parents,
            hostnames=hostnames,
            rules=st.lists(
                of(backendRefs=backends, matches=matches_of_http, filters=filters_of_http), min_size=1, max_size=2
            ),
        ),
        None,
        st.just({}),
    ),
    "GRPCRoute": (
        of(
            parentRefs=route_parents,
            hostnames=hostnames,
            rules=st.lists(
                of(backendRefs=backends, matches=some(([], [{"method": {"service": "s"}}]))), min_size=1, max_size=2
            ),
        ),
        None,
        st.just({}),
    ),
    "TLSRoute": (
        of(parentRefs=route_parents, hostnames=hostnames, rules=st.lists(of(backendRefs=backends), max_size=2)),
        None,
        st.just({}),
    ),
    "TCPRoute": (
        of(parentRefs=route_parents, rules=st.lists(of(backendRefs=backends), max_size=2)),
        None,
        st.just({}),
    ),
    "BackendTLSPolicy": (
        of(
            targetRefs=st.lists(
                some(
                    (
                        {"kind": "Service", "group": "", "name": "x"},
                        {"kind": "Service", "group": "", "name": "x", "sectionName": "http"},
                        {"kind": "ServiceEntry", "group": "networking.istio.io", "name": "y"},
                    )
                ),
                min_size=1,
                max_size=2,
            ),
            validation=st.one_of(
                st.just({"hostname": "h", "wellKnownCACertificates": "System"}),
                of(hostname=st.just("h"), caCertificateRefs=ca_refs),
            ),
        ),
        None,
        st.just({}),
    ),
    "ReferenceGrant": (
        of(
            **{
                "from": st.lists(
                    of(
                        group=st.just("gateway.networking.k8s.io"),
                        kind=some(("HTTPRoute", "TLSRoute", "Gateway", "ListenerSet")),
                        namespace=some(NAMESPACES),
                    ),
                    min_size=1,
                    max_size=2,
                )
            },
            to=st.lists(
                some(
                    (
                        {"group": "", "kind": "Service"},
                        {"group": "", "kind": "Secret", "name": "y"},
                        {"group": "", "kind": "ConfigMap"},
                    )
                ),
                min_size=1,
                max_size=2,
            ),
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
        st.builds(
            lambda base, more: {**base, **more},
            of(
                tracing=some(([], [{"randomSamplingPercentage": 5.0}], [{"providers": [{"name": "p"}]}])),
                accessLogging=some(([], [{"providers": [{"name": "envoy"}]}], [{"disabled": True}])),
            ),
            st.one_of(
                of(targetRefs=st.lists(refs, max_size=1)),
                st.just({"selector": {"matchLabels": {"istio": "x"}}}),
            ),
        ),
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
    if kind == "GatewayClass":
        name = draw(some(("x", "istio", "istio-waypoint")))
    if kind == "ConfigMap":
        namespace, name = draw(some((("istio-system", "istio"), ("a", "ca"), ("b", "ca"))))
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
        value["data"] = {"mesh": draw(mesh_files)} if name == "istio" else draw(config_maps)
    if kind == "Secret":
        value["data"] = draw(secrets)
    if kind == "EndpointSlice":
        pod = {"kind": "Pod", "name": draw(some(NAMES))}
        endpoints = [{"addresses": ["3.3.3.3"]}, {"addresses": ["10.0.0.1"], "targetRef": pod}]
        value |= {"endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}
    return key, objects.convert(value, objects.KINDS[kind])
