"""An example of every code about routes, services and gateways, and beside it the same thing put right."""

from __future__ import annotations

from tests.unit.istiod.analyze.samples import (
    CERTIFICATE,
    CLAIM_ROUTE,
    ENTRY,
    INGRESS_POD,
    JWT,
    POD,
    SUBSETS,
    TWO_PORTS,
    WEB,
    edge,
    mesh_config,
    policy,
    route,
    secret,
    server,
    waypoint,
)
from tests.unit.istiod.analyze.support import Case, obj

TRAFFIC = (
    Case(
        "IST0101",
        route("{host: web}"),
        "VirtualService vs.default",
        "spec.http[0].route[0].destination.host",
        "host 'web' does not exist",
        route("{host: web}") + WEB,
    ),
    Case(
        "IST0101",
        WEB + route("{host: web, port: {number: 81}}"),
        "VirtualService vs.default",
        "spec.http[0].route[0].destination.port.number",
        "port 'web:81'",
        WEB + route("{host: web, port: {number: 80}}"),
    ),
    Case(
        "IST0101",
        WEB + route("{host: web, subset: v1}"),
        "VirtualService vs.default",
        "spec.http[0].route[0].destination.subset",
        "'web+v1'",
        WEB + route("{host: web, subset: v1}") + obj("DestinationRule", "d", SUBSETS % "a"),
    ),
    Case(
        "IST0101",
        WEB + route("{host: web}", extra="gateways: [e],"),
        "VirtualService vs.default",
        "spec.gateways[0]",
        "gateway 'default/e'",
        WEB + route("{host: web}", extra="gateways: [gw/e, mesh],") + edge("e", server(host="*")),
    ),
    Case(
        "IST0101",
        obj("VirtualService", "vs", "{hosts: [a.example], gateways: [gw/e], http: [{delegate: {name: d}}]}")
        + edge("e", server()),
        "VirtualService vs.default",
        "spec.http[0].delegate",
        "delegate VirtualService 'default/d'",
        WEB
        + obj("VirtualService", "vs", "{hosts: [a.example], gateways: [gw/e], http: [{delegate: {name: d}}]}")
        + obj("VirtualService", "d", "{http: [{route: [{destination: {host: web}}]}]}")
        + edge("e", server()),
    ),
    Case(
        "IST0101",
        edge("e", server(tls=CERTIFICATE % "c")),
        "Gateway e.gw",
        "spec.servers[0].tls.credentialName",
        "Secret 'c'",
        edge("e", server(tls=CERTIFICATE % "c")) + secret("c"),
    ),
    Case(
        "IST0101",
        POD + edge("e", server()),
        "Gateway e.gw",
        "spec.selector",
        "pod with labels 'istio=ingress'",
        INGRESS_POD + edge("e", server()),
    ),
    Case(
        "IST0101",
        obj("Gateway", "g", "{gatewayClassName: nginx, listeners: [{name: a, port: 80, protocol: HTTP}]}"),
        "Gateway g.default",
        "spec.gatewayClassName",
        "GatewayClass 'nginx'",
        obj("Gateway", "g", "{gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}]}"),
    ),
    Case(
        "IST0101",
        obj("HTTPRoute", "r", "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
        + waypoint("g"),
        "HTTPRoute r.default",
        "spec.rules[0].backendRefs[0]",
        "backend Service 'default/web'",
        WEB
        + obj("HTTPRoute", "r", "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
        + waypoint("g"),
    ),
    Case(
        "IST0101",
        WEB + obj("HTTPRoute", "r", "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: web, port: 80}]}]}"),
        "HTTPRoute r.default",
        "spec.parentRefs[0]",
        "parent Gateway 'default/g'",
        WEB
        + waypoint("g")
        + obj("HTTPRoute", "r", "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: web, port: 80}]}]}"),
    ),
    Case(
        "IST0101",
        obj("Service", "web", labels="istio.io/use-waypoint: wp"),
        "Service web.default",
        "metadata.labels.istio.io/use-waypoint",
        "waypoint 'default/wp'",
        obj("Service", "web", labels="istio.io/use-waypoint: wp") + waypoint(),
    ),
    Case(
        "IST0101",
        obj("Namespace", "default", namespace="", labels="istio.io/use-waypoint: wp"),
        "Namespace default",
        "metadata.labels.istio.io/use-waypoint",
        "waypoint 'default/wp'",
        obj("Namespace", "default", namespace="", labels="istio.io/use-waypoint: wp") + waypoint(),
    ),
    Case(
        "IST0101",
        policy("p", "{targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}"),
        "AuthorizationPolicy p.default",
        "spec.targetRefs",
        "target 'web'",
        policy("p", "{targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}")
        + obj("Service", "web", labels="istio.io/use-waypoint: wp")
        + waypoint(),
    ),
    Case(
        "IST0101",
        policy("p", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}") + mesh_config("{}"),
        "AuthorizationPolicy p.default",
        "spec.provider.name",
        "extension provider of MeshConfig 'opa'",
        policy("p", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}")
        + mesh_config("{extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.a, port: 9000}}]}"),
    ),
    Case(
        "IST0109",
        WEB + route("{host: web}", name="a") + route("{host: web}", name="b"),
        "VirtualService a.default",
        "spec.hosts[0]",
        "VirtualService default/b",
        WEB
        + route("{host: web}", name="a", extra="exportTo: [x],")
        + route("{host: web}", name="b", extra="exportTo: ['.'],"),
    ),
    Case(
        "IST0112",
        TWO_PORTS + route("{host: web}"),
        "VirtualService vs.default",
        "spec.http[0].route[0].destination",
        "80, 81",
        TWO_PORTS + route("{host: web, port: {number: 81}}"),
    ),
    Case(
        "IST0116",
        obj("Deployment", "web", "{template: {metadata: {labels: {app: web}}}}")
        + obj("Service", "a", "{selector: {app: web}, ports: [{name: http, port: 80}]}")
        + obj("Service", "b", "{selector: {app: web}, ports: [{name: tcp, port: 80}]}"),
        "Deployment web.default",
        "",
        "a, b send to port 80 of it with different protocols: http, tcp",
        obj("Deployment", "web", "{template: {metadata: {labels: {app: web}}}}")
        + obj("Service", "a", "{selector: {app: web}, ports: [{name: http, port: 80}]}")
        + obj("Service", "b", "{selector: {app: web}, ports: [{name: http-b, port: 80}]}"),
    ),
    Case(
        "IST0118",
        obj("Service", "web", "{ports: [{name: web, port: 80}]}"),
        "Service web.default",
        "spec.ports[0].name",
        "'web' of port 80",
        obj("Service", "web", "{ports: [{name: web, port: 80, appProtocol: http}]}"),
    ),
    Case(
        "IST0128",
        obj("DestinationRule", "d", "{host: web, trafficPolicy: {tls: {mode: SIMPLE}}}"),
        "DestinationRule d.default",
        "spec.trafficPolicy.tls",
        "SIMPLE",
        obj("DestinationRule", "d", "{host: web, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /a.pem}}}"),
    ),
    Case(
        "IST0129",
        obj(
            "DestinationRule",
            "d",
            "{host: web, trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}}",
        ),
        "DestinationRule d.default",
        "spec.trafficPolicy.portLevelSettings[0].tls",
        "at port 443",
        obj(
            "DestinationRule",
            "d",
            "{host: web, trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: ISTIO_MUTUAL}}]}}",
        ),
    ),
    Case(
        "IST0130",
        WEB
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [web], http: [{route: [{destination: {host: web}}]}, {route: [{destination: {host: web}}]}]}",
        ),
        "VirtualService vs.default",
        "spec.http[1]",
        "",
        WEB + route("{host: web}"),
    ),
    Case(
        "IST0131",
        WEB
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [web], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: web}}]},"
            " {match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: web}}]}]}",
        ),
        "VirtualService vs.default",
        "spec.http[1].match[0]",
        "",
        WEB + route("{host: web}"),
    ),
    Case(
        "IST0132",
        WEB
        + edge("e", server())
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [b.example], gateways: [gw/e], http: [{route: [{destination: {host: web}}]}]}",
        ),
        "VirtualService vs.default",
        "spec.gateways[0]",
        "b.example",
        WEB
        + edge("e", server())
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [a.example], gateways: [gw/e], http: [{route: [{destination: {host: web}}]}]}",
        ),
    ),
    Case(
        "IST0134",
        obj(
            "ServiceEntry", "s", "{hosts: [a.example], resolution: NONE, ports: [{number: 1, name: p, protocol: TCP}]}"
        ),
        "ServiceEntry s.default",
        "spec.addresses",
        "",
        obj("ServiceEntry", "s", ENTRY % "HTTP"),
    ),
    Case(
        "IST0137",
        POD
        + obj("Service", "a", "{selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}")
        + obj("Service", "b", "{selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080}]}"),
        "Pod web-1.default",
        "",
        "80, 81",
        POD
        + obj("Service", "a", "{selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}")
        + obj("Service", "b", "{selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8081}]}"),
    ),
    Case(
        "IST0138",
        secret("c")
        + edge("e", server(tls=CERTIFICATE % "c"))
        + edge("f", server(host="b.example", tls=CERTIFICATE % "c")),
        "Gateway e.gw",
        "spec.servers[0].tls.credentialName",
        "Gateway gw/f",
        secret("c") + edge("e", server(tls=CERTIFICATE % "c")),
    ),
    Case(
        "IST0140",
        WEB
        + edge("e", server())
        + obj("DestinationRule", "d", SUBSETS % "a")
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [a.example], gateways: [gw/e], http: [{route: [{destination: {host: web}}]}]}",
        )
        + route("{host: web, subset: v1}", name="inner"),
        "VirtualService vs.default",
        "spec.http[0].route[0].destination",
        "VirtualService default/inner",
        WEB
        + edge("e", server())
        + obj("DestinationRule", "d", SUBSETS % "a")
        + obj(
            "VirtualService",
            "vs",
            "{hosts: [a.example], gateways: [gw/e], http: [{route: [{destination: {host: web}}]}]}",
        )
        + route("{host: web}", name="inner"),
    ),
    Case(
        "IST0145",
        edge("e", server()) + edge("f", server()),
        "Gateway e.gw",
        "spec.servers[0]",
        "Gateway gw/f",
        edge("e", server()) + edge("f", server(host="b.example")),
    ),
    Case(
        "IST0149",
        WEB + INGRESS_POD + edge("e", server()) + CLAIM_ROUTE,
        "VirtualService vs.default",
        "spec.http[0].match[0].headers.@request.auth.claims.group",
        "gw/e",
        WEB
        + INGRESS_POD
        + edge("e", server())
        + CLAIM_ROUTE
        + obj("RequestAuthentication", "j", f"{{selector: {{matchLabels: {{istio: ingress}}}}, {JWT}}}", "gw"),
    ),
    Case(
        "IST0150",
        obj("Service", "a", "{type: ExternalName, externalName: a.example, ports: [{name: tcp, port: 80}]}"),
        "Service a.default",
        "spec.ports[0].name",
        "'tcp' of port 80",
        obj("Service", "a", "{type: ExternalName, externalName: a.example, ports: [{name: http, port: 80}]}"),
    ),
    Case(
        "IST0161",
        edge("e", server(tls=CERTIFICATE % "c")) + secret("c", expired=True),
        "Gateway e.gw",
        "spec.servers[0].tls.credentialName",
        "tls.crt expired on",
        edge("e", server(tls=CERTIFICATE % "c")) + secret("c"),
    ),
    Case(
        "IST0161",
        obj(
            "Gateway",
            "g",
            "{gatewayClassName: istio, listeners: [{name: a, port: 443, protocol: HTTPS,"
            " tls: {certificateRefs: [{name: c}]}}]}",
            "gw",
        )
        + secret("c", key=False),
        "Gateway g.gw",
        "spec.listeners[0].tls.certificateRefs[0]",
        "tls.key is missing",
        obj(
            "Gateway",
            "g",
            "{gatewayClassName: istio, listeners: [{name: a, port: 443, protocol: HTTPS,"
            " tls: {certificateRefs: [{name: c}]}}]}",
            "gw",
        )
        + secret("c"),
    ),
    Case(
        "IST0162",
        INGRESS_POD
        + obj("Service", "s", "{selector: {istio: ingress}, ports: [{name: http, port: 443}]}", "gw")
        + edge("e", server()),
        "Gateway e.gw",
        "spec.servers[0].port.number",
        "port 80",
        INGRESS_POD
        + obj("Service", "s", "{selector: {istio: ingress}, ports: [{name: http, port: 80, targetPort: 8080}]}", "gw")
        + edge("e", server()),
    ),
    Case(
        "IST0165",
        WEB + route("{host: web}", extra="gateways: [gw/e-istio-autogenerated-k8s-gateway],"),
        "VirtualService vs.default",
        "spec.gateways[0]",
        "Gateway API",
        WEB + route("{host: web}", extra="gateways: [mesh],"),
    ),
    Case(
        "IST0173",
        WEB + POD + obj("DestinationRule", "d", SUBSETS % "v1"),
        "DestinationRule d.default",
        "spec.subsets[0].labels",
        "version=v1",
        WEB + obj("Pod", "web-1", labels="app: web, version: v1") + obj("DestinationRule", "d", SUBSETS % "v1"),
    ),
    Case(
        "IST0174",
        obj("DestinationRule", "d", "{host: web}"),
        "DestinationRule d.default",
        "spec.host",
        "'web'",
        WEB + obj("DestinationRule", "d", "{host: web.default.svc.cluster.local}"),
    ),
    Case(
        "IST0177",
        obj("ServiceEntry", "a", ENTRY % "HTTP") + obj("ServiceEntry", "b", ENTRY % "TLS"),
        "ServiceEntry a.default",
        "spec.ports[0]",
        "HTTP here and TLS in ServiceEntry default/b",
        obj("ServiceEntry", "a", ENTRY % "TLS") + obj("ServiceEntry", "b", ENTRY % "TLS"),
    ),
)
