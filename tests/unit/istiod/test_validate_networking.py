"""Istio's Gateway, ServiceEntry, WorkloadEntry, WorkloadGroup and Sidecar: each refusal of the webhook, by field."""

from __future__ import annotations

import pytest

from istiod.resources import ISTIO_GATEWAY
from tests.unit.istiod.validating import Case, error, expect, said, short, warning

S = "spec.servers[0]"
T = f"{S}.tls"


def server(port: str, rest: str = "", hosts: str = "[a.com]") -> str:
    return f"{{servers: [{{port: {{number: 443, name: p, {port}}}, hosts: {hosts}{', ' * bool(rest)}{rest}}}]}}"


def https(tls: str) -> str:
    return server("protocol: HTTPS", f"tls: {{{tls}}}")


FILES = "serverCertificate: /c, privateKey: /k"
GATEWAY = [
    error("{selector: {a: b}}", "spec.servers", "missing"),
    error("{servers: [null]}", f"{S}", "found nothing"),
    error(server("protocol: HTTP", hosts="[]"), f"{S}.hosts", "missing"),
    error(server("protocol: HTTP", hosts="[a_b]"), f"{S}.hosts[0]", "not a host name"),
    error(server("protocol: HTTP", hosts=f"[{'a.' * 130}a]"), f"{S}.hosts[0]", "longer than 255"),
    error(server("protocol: HTTP", hosts="[N/a]"), f"{S}.hosts[0]", "before the slash"),
    error(server("protocol: HTTP", hosts="[a/]"), f"{S}.hosts[0]", "is empty"),
    error("{servers: [{hosts: [a]}]}", f"{S}.port", "missing"),
    error(server("protocol: HTPS"), f"{S}.port.protocol", "did you mean HTTPS"),
    error("{servers: [{port: {number: 80, protocol: HTTP}, hosts: [a]}]}", f"{S}.port.name", "missing"),
    error("{servers: [{port: {name: a, protocol: HTTP}, hosts: [a]}]}", f"{S}.port.number", "missing"),
    error("{servers: [{port: {number: 70000, name: a, protocol: HTTP}, hosts: [a]}]}", f"{S}.port.number", "65535"),
    error(
        "{servers: [{port: {number: 1, name: a, protocol: TCP}, hosts: [a]}, "
        "{port: {number: 2, name: a, protocol: TCP}, hosts: [b]}]}",
        "spec.servers[1].port.name",
        "stands twice",
    ),
    error(server("protocol: HTTP, targetPort: 80"), f"{S}.port.targetPort", "no effect"),
    error(server("protocol: HTTP", "bind: a"), f"{S}.bind", "neither an IP address"),
    error(server("protocol: HTTP", "bind: 'unix:///a'"), f"{S}.port.number", "no port"),
    error(server("protocol: HTTPS"), T, "missing: protocol HTTPS"),
    error(server("protocol: TLS"), T, "missing: protocol TLS"),
    error(server("protocol: HTTP", "tls: {mode: SIMPLE}"), f"{T}.mode", "plain text"),
    error(server("protocol: TCP", "tls: {}"), T, "has no TLS"),
    error(https(f"mode: ISTIO_MUTUAL, {FILES.partition(',')[0]}"), f"{T}.serverCertificate", "of the mesh"),
    error(https("mode: ISTIO_MUTUAL, credentialName: c"), f"{T}.credentialName", "of the mesh"),
    error(https(f"mode: SIMPLE, credentialName: c, {FILES}"), f"{T}.credentialName", "one source"),
    error(https("mode: SIMPLE, credentialName: c, credentialNames: [d]"), f"{T}.credentialNames", "one source"),
    error(https("mode: SIMPLE, privateKey: /k"), f"{T}.serverCertificate", "missing: mode SIMPLE"),
    error(https("mode: MUTUAL, serverCertificate: /c, caCertificates: /a"), f"{T}.privateKey", "missing: mode MUTUAL"),
    error(https("mode: SIMPLE, tlsCertificates: [{privateKey: /k}]"), f"{T}.tlsCertificates[0].serverCertificate", ""),
    error(https(f"mode: MUTUAL, {FILES}"), f"{T}.caCertificates", "missing: mode MUTUAL"),
    error(https(f"mode: OPTIONAL_MUTUAL, {FILES}"), f"{T}.caCertificates", "missing: mode OPTIONAL_MUTUAL"),
    error(https(f"mode: SIMPLE, {FILES}, caCrl: /l"), f"{T}.caCrl", "verifies no clients"),
    error(https("mode: MUTUAL, credentialName: c, caCrl: /l"), f"{T}.caCrl", "brings its own"),
    error(
        "{selector: {a: '*'}, servers: [{port: {number: 1, name: a, protocol: TCP}, hosts: [a]}]}",
        "spec.selector.a",
        "wildcards",
    ),
    warning(
        https("mode: SIMPLE, credentialName: c, httpsRedirect: true"), f"{T}.httpsRedirect", "redirects plain HTTP"
    ),
    warning(
        https("mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_1"), f"{T}.minProtocolVersion", "ciphers"
    ),
    warning(https("mode: SIMPLE, credentialName: c, cipherSuites: [X]"), f"{T}.cipherSuites[0]", "not a cipher"),
    warning(
        https("mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA, AES128-SHA]"),
        f"{T}.cipherSuites[1]",
        "stands twice",
    ),
    warning(https("mode: PASSTHROUGH, credentialName: c"), f"{T}.credentialName", "passed on encrypted"),
    error(
        https(f"mode: SIMPLE, tlsCertificates: [{{{FILES}}}, {{{FILES}}}, {{{FILES}}}]"),
        f"{T}.tlsCertificates",
        "more than 2",
    ),
]

PORT = "ports: [{number: 80, name: http, protocol: HTTP}]"
TLS_PORT = "ports: [{number: 443, name: tls, protocol: TLS}]"
TCP_PORT = "ports: [{number: 80, name: tcp, protocol: TCP}]"
SERVICE_ENTRY = [
    error(f"{{{PORT}}}", "spec.hosts", "missing"),
    error(f"{{hosts: ['*'], {PORT}}}", "spec.hosts[0]", "every host of the mesh"),
    error(f"{{hosts: [a_b], {PORT}}}", "spec.hosts[0]", "not a host name"),
    error(
        f"{{hosts: [a], {PORT}, resolution: STATIC, endpoints: [{{address: 1.1.1.1}}], "
        "workloadSelector: {labels: {a: b}}}",
        "spec.endpoints",
        "beside workloadSelector",
    ),
    error(
        "{hosts: [a], ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]}",
        "spec.ports[1].name",
        "stands twice",
    ),
    error(
        "{hosts: [a], ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]}",
        "spec.ports[1].number",
        "stands twice",
    ),
    error("{hosts: [a], ports: [{number: 80, protocol: HTTP}]}", "spec.ports[0].name", "missing"),
    error("{hosts: [a], ports: [{name: a, protocol: HTTP}]}", "spec.ports[0].number", "missing"),
    error("{hosts: [a], ports: [{name: a_b, number: 80, protocol: HTTP}]}", "spec.ports[0].name", "name of a port"),
    error("{hosts: [a], ports: [{number: 70000, name: a, protocol: HTTP}]}", "spec.ports[0].number", "65535"),
    error("{hosts: [a], ports: [{number: 80, name: a, protocol: HTP}]}", "spec.ports[0].protocol", "did you mean HTTP"),
    error(f"{{hosts: [a], {PORT}, addresses: [x]}}", "spec.addresses[0]", "neither an IP"),
    error(f"{{hosts: [a], {PORT}, addresses: [10.0.0.0/8], resolution: DNS}}", "spec.addresses[0]", "NONE or STATIC"),
    error(f"{{hosts: [a], {PORT}, resolution: NONE, endpoints: [{{address: 1.1.1.1}}]}}", "spec.endpoints", "NONE"),
    error(
        f"{{hosts: [a], {PORT}, resolution: STATIC, endpoints: [{{address: b.com}}]}}",
        "spec.endpoints[0].address",
        "needs IP addresses",
    ),
    error(f"{{hosts: ['*.a.com'], {PORT}, resolution: DNS}}", "spec.hosts[0]", "cannot look up a wildcard"),
    error(
        f"{{hosts: [a], {PORT}, resolution: DNS_ROUND_ROBIN, endpoints: [{{address: b}}, {{address: c}}]}}",
        "spec.endpoints",
        "one endpoint at most",
    ),
    error(
        f"{{hosts: [a], {PORT}, resolution: DNS, endpoints: [{{address: b, ports: {{x: 81}}}}]}}",
        "spec.endpoints[0].ports.x",
        "no port named 'x'",
    ),
    error(f"{{hosts: [a, b], {TCP_PORT}, resolution: DNS}}", "spec.ports[0].protocol", "several hosts"),
    error(
        "{hosts: [a], ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}], "
        "resolution: STATIC, endpoints: [{address: 'unix:///a'}]}",
        "spec.endpoints[0].address",
        "exactly one",
    ),
    error(
        f"{{hosts: [a], {PORT}, resolution: DNS, endpoints: [{{address: 'unix:///a'}}]}}",
        "spec.endpoints[0].address",
        "needs resolution STATIC",
    ),
    error(f"{{hosts: [a.com], {TLS_PORT}, resolution: DYNAMIC_DNS}}", "spec.hosts[0]", "is for wildcards"),
    error(
        f"{{hosts: ['*.a.com'], {TLS_PORT}, resolution: DYNAMIC_DNS, addresses: [1.1.1.1]}}",
        "spec.addresses",
        "leave them out",
    ),
    error(
        f"{{hosts: ['*.a.com'], {TLS_PORT}, resolution: DYNAMIC_DNS, endpoints: [{{address: b}}]}}",
        "spec.endpoints",
        "leave them out",
    ),
    error(f"{{hosts: ['*.a.com'], {TCP_PORT}, resolution: DYNAMIC_DNS}}", "spec.ports[0].protocol", "names the host"),
    error(
        f"{{hosts: ['*.a.com'], {TLS_PORT}, resolution: DYNAMIC_DNS, location: MESH_INTERNAL}}",
        "spec.location",
        "outside the mesh",
    ),
    error(f"{{hosts: [a], {PORT}, exportTo: ['~', a]}}", "spec.exportTo", "'~' says it all"),
    warning(f"{{hosts: ['*a.com'], {PORT}}}", "spec.hosts[0]", "half a wildcard"),
    warning(f"{{hosts: [a], {TCP_PORT}}}", "spec.addresses", "without addresses", "IST0134"),
    warning(f"{{hosts: [a], {PORT}, workloadSelector: {{labels: {{a: b}}}}}}", "spec.workloadSelector", "NONE"),
]

WORKLOAD_ENTRY = [
    error("{ports: {a: 1}}", "spec.address", "missing"),
    warning("{network: n}", "spec.address", "gateway of network 'n'"),
    error("{address: a_b}", "spec.address", "neither an IP address nor a host name"),
    error("{address: '*.a'}", "spec.address", "wildcard"),
    error("{address: 'unix://a'}", "spec.address", "absolute path"),
    error("{address: 'unix:///a', ports: {a: 1}}", "spec.ports", "no ports"),
    error("{address: 1.1.1.1, ports: {a: 0}}", "spec.ports.a", "missing"),
    error("{address: 1.1.1.1, ports: {a: 70000}}", "spec.ports.a", "65535"),
    error("{address: 1.1.1.1, ports: {a_b: 1}}", "spec.ports.a_b", "name of a port"),
    error("{address: 1.1.1.1, labels: {a: 'b*'}}", "spec.labels.a", "label value"),
]

WORKLOAD_GROUP = [
    error("{metadata: {labels: {a: b}}}", "spec.template", "missing"),
    error("{template: {}, metadata: {labels: {a: 'b*'}}}", "spec.metadata.labels.a", "label value"),
    error("{template: {labels: {'a b': c}}}", "spec.template.labels.a b", "label name"),
    error("{template: {}, probe: {}}", "spec.probe", "needs one of httpGet"),
    error("{template: {}, probe: {periodSeconds: -1, tcpSocket: {port: 1}}}", "spec.probe.periodSeconds", "0"),
    error("{template: {}, probe: {httpGet: {port: 80, scheme: ftp}}}", "spec.probe.httpGet.scheme", "HTTP, HTTPS"),
    error("{template: {}, probe: {httpGet: {path: /}}}", "spec.probe.httpGet.port", "missing"),
    error("{template: {}, probe: {tcpSocket: {port: 70000}}}", "spec.probe.tcpSocket.port", "65535"),
    error("{template: {}, probe: {exec: {}}}", "spec.probe.exec.command", "missing"),
]

EGRESS = "egress: [{hosts: ['./*']}]"
I = "spec.ingress[0]"  # noqa: E741 - the ingress
LISTENER = "port: {number: 80, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:80'"
SIDECAR = [
    error("{}", "spec", "is empty"),
    error("{workloadSelector: {labels: {a: b}}}", "spec", "is empty"),
    error("{ingress: [{port: {protocol: HTTP}}]}", f"{I}.port.number", "missing"),
    error("{ingress: [{port: {number: 70000, protocol: HTTP}}]}", f"{I}.port.number", "65535"),
    error(f"{{ingress: [{{{LISTENER}}}, {{{LISTENER}}}]}}", "spec.ingress[1].port.number", "stands twice"),
    error("{ingress: [{port: {number: 80}, defaultEndpoint: '10.0.0.1:80'}]}", f"{I}.defaultEndpoint", "possible are"),
    error("{ingress: [{port: {number: 80}, defaultEndpoint: '[::1]:0'}]}", f"{I}.defaultEndpoint", "65535"),
    error(
        "{ingress: [{port: {number: 443, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}}]}",
        f"{I}.tls.credentialName",
        "for gateways",
    ),
    error(
        "{ingress: [{port: {number: 443, protocol: HTTPS}, tls: {mode: ISTIO_MUTUAL, subjectAltNames: [a]}}]}",
        f"{I}.tls.subjectAltNames",
        "for gateways",
    ),
    error("{ingress: [{port: {number: 80, protocol: HTTP}, tls: {mode: SIMPLE}}]}", f"{I}.tls", "HTTPS or TLS"),
    error("{egress: [{port: {number: 80, protocol: HTTP}}]}", "spec.egress[0].hosts", "missing"),
    error("{egress: [{hosts: [a.com]}]}", "spec.egress[0].hosts[0]", "NAMESPACE/HOST"),
    error("{egress: [{hosts: ['N/a']}]}", "spec.egress[0].hosts[0]", "before the slash"),
    error("{egress: [{hosts: ['./*']}, {hosts: ['./*']}]}", "spec.egress[1].port", "only one listener"),
    error("{egress: [{hosts: ['./*']}, {hosts: ['./*'], port: {number: 80}}]}", "spec.egress[0].port", "be the last"),
    error(
        "{egress: [{hosts: ['./*'], port: {number: 0}, bind: 'unix:///a', captureMode: IPTABLES}]}",
        "spec.egress[0].captureMode",
        "Unix socket",
    ),
    error("{egress: [{hosts: ['./*'], port: {number: 80}, bind: a}]}", "spec.egress[0].bind", "neither an IP"),
    error("{egress: [{hosts: ['./*'], bind: 1.1.1.1}]}", "spec.egress[0].port", "needs a port"),
    error(
        "{outboundTrafficPolicy: {egressProxy: {host: '*', port: {number: 80}}}}",
        "spec.outboundTrafficPolicy.egressProxy.host",
        "single host",
    ),
    error(
        "{outboundTrafficPolicy: {egressProxy: {host: a, port: {number: 70000}}}}",
        "spec.outboundTrafficPolicy.egressProxy.port.number",
        "65535",
    ),
    error(f"{{{EGRESS}, inboundConnectionPool: {{}}}}", "spec.inboundConnectionPool", "is empty"),
    warning("{egress: [{hosts: ['./a', './a']}]}", "spec.egress[0].hosts[1]", "stands twice"),
    warning("{egress: [{hosts: ['*/*', './a']}]}", "spec.egress[0].hosts", "every host"),
]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (kind, case)
        for kind, cases in (
            (ISTIO_GATEWAY, GATEWAY),
            ("ServiceEntry", SERVICE_ENTRY),
            ("WorkloadEntry", WORKLOAD_ENTRY),
            ("WorkloadGroup", WORKLOAD_GROUP),
            ("Sidecar", SIDECAR),
        )
        for case in cases
    ],
    ids=lambda value: short(value) if isinstance(value, Case) else value,
)
def test_an_object_is_told_what_is_wrong(kind: str, case: Case) -> None:
    expect(kind, case)


def test_a_sidecar_of_the_root_namespace_selects_nothing() -> None:
    spec = f"{{workloadSelector: {{labels: {{a: b}}}}, {EGRESS}}}"
    assert [p.path for p in said("Sidecar", spec, "{name: x, namespace: istio-system}")] == [
        ("spec", "workloadSelector")
    ]
    assert said("Sidecar", spec) == []


@pytest.mark.parametrize(("label", "warned"), [("'false'", True), ("'true'", False)])
def test_a_tcp_entry_that_is_given_no_address_is_warned_of(label: str, warned: bool) -> None:
    metadata = f"{{name: x, labels: {{networking.istio.io/enable-autoallocate-ip: {label}}}}}"
    found = said("ServiceEntry", f"{{hosts: [a.com], {TCP_PORT}, resolution: DNS}}", metadata)
    assert [p.code for p in found] == ["IST0134"] * warned


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (ISTIO_GATEWAY, server("protocol: HTTP", "tls: {httpsRedirect: true}", "['*', ./a.com, '*/b.com', ns/c.com]")),
        (ISTIO_GATEWAY, https("mode: SIMPLE, credentialName: c")),
        (ISTIO_GATEWAY, https(f"mode: MUTUAL, {FILES}, caCertificates: /a, caCrl: /l")),
        (ISTIO_GATEWAY, https("mode: ISTIO_MUTUAL, minProtocolVersion: TLSV1_1, cipherSuites: [AES128-SHA]")),
        (ISTIO_GATEWAY, server("protocol: tls", "tls: {mode: PASSTHROUGH}, bind: '::'")),
        (ISTIO_GATEWAY, "{servers: [{port: {number: 0, name: a, protocol: HTTP}, hosts: [a], bind: 'unix:///a'}]}"),
        ("ServiceEntry", f"{{hosts: [a.com], {PORT}, resolution: DNS, exportTo: ['~']}}"),
        ("ServiceEntry", f"{{hosts: [a.com, b.com], {TLS_PORT}, resolution: DNS}}"),
        ("ServiceEntry", f"{{hosts: ['*.a.com'], {TLS_PORT}, resolution: DYNAMIC_DNS, location: MESH_EXTERNAL}}"),
        ("ServiceEntry", f"{{hosts: [a], addresses: [10.0.0.0/8], {TCP_PORT}}}"),
        (
            "ServiceEntry",
            f"{{hosts: [a], {PORT}, resolution: STATIC, endpoints: [{{address: 1.1.1.1, ports: {{http: 81}}}}]}}",
        ),
        ("ServiceEntry", f"{{hosts: [a], {PORT}, resolution: STATIC, workloadSelector: {{labels: {{a: b}}}}}}"),
        ("ServiceEntry", f"{{hosts: [a], {PORT}, resolution: STATIC, endpoints: [{{address: 'unix:///a'}}]}}"),
        ("WorkloadEntry", "{address: 'fe80::1', ports: {http: 80}, labels: {app: a}, weight: 1}"),
        ("WorkloadEntry", "{address: vm.a.com}"),
        ("WorkloadGroup", "{template: {serviceAccount: a}, probe: {httpGet: {port: 80, scheme: HTTPS}}}"),
        ("Sidecar", "{egress: [{hosts: ['./*'], port: {number: 80}}, {hosts: ['~/*']}]}"),
        ("Sidecar", f"{{ingress: [{{{LISTENER}}}], outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}}}"),
    ],
    ids=lambda value: value[:70],
)
def test_a_right_object_passes_without_a_word(kind: str, spec: str) -> None:
    assert said(kind, spec) == []
