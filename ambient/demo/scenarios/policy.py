"""Who may talk to whom: AuthorizationPolicy, PeerAuthentication and the kubelet's exception from both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ambient.demo import manifests
from ambient.demo.admin import log_size
from ambient.demo.capture import Capture
from ambient.demo.mesh import Mesh
from ambient.demo.scenarios.base import Scenario, ms, require
from ambient.demo.topology import BATCH, FRONTEND, HTTP, NODE_LINK, OUTSIDER, SECOND, WEB_2, Pod
from ambient.demo.traffic import curl

_NAMESPACE: Final = WEB_2.namespace
_REFUSED: Final = "policy rejection"
_PROBE_ADDRESS: Final = "169.254.7.127"
_CLOSE_WITHIN: Final = 5.0  # seconds


class Expected(NamedTuple):
    source: Pod
    port: int
    allowed: bool


class Case(NamedTuple):
    """One policy for the pods labelled app=web, and what it must do to requests to web-2."""

    name: str
    title: str
    action: str
    rule: manifests.Object
    expected: tuple[Expected, ...]


def _from(**source: list[str]) -> manifests.Object:
    return {"from": [{"source": source}]}


def _to(*ports: int) -> manifests.Object:
    return {"to": [{"operation": {"ports": [str(port) for port in ports]}}]}


_ONLY_FRONTEND: Final = (Expected(FRONTEND, HTTP, True), Expected(BATCH, HTTP, False))

CASES: Final = (
    Case("deny-principal", "DENY by principal", "DENY", _from(principals=[BATCH.principal]), _ONLY_FRONTEND),
    Case("allow-principal", "ALLOW by principal", "ALLOW", _from(principals=[FRONTEND.principal]), _ONLY_FRONTEND),
    Case("deny-namespace", "DENY by namespace", "DENY", _from(namespaces=[BATCH.namespace]), _ONLY_FRONTEND),
    Case("allow-namespace", "ALLOW by namespace", "ALLOW", _from(namespaces=[FRONTEND.namespace]), _ONLY_FRONTEND),
    Case(
        "deny-port",
        "DENY by port",
        "DENY",
        _to(SECOND),
        (Expected(FRONTEND, HTTP, True), Expected(FRONTEND, SECOND, False), Expected(BATCH, HTTP, True)),
    ),
    Case(
        "allow-port",
        "ALLOW by port and principal",
        "ALLOW",
        _to(SECOND) | _from(principals=[BATCH.principal]),
        (Expected(BATCH, SECOND, True), Expected(BATCH, HTTP, False), Expected(FRONTEND, SECOND, False)),
    ),
)


def _check(case: Case) -> Callable[[Mesh], str]:
    def check(mesh: Mesh) -> str:
        for each in case.expected:
            reply = mesh.curl(each.source, f"http://{WEB_2.ip}:{each.port}/")
            require(reply.ok, f"without a policy: {each.source.name} -> web-2:{each.port}: {reply}")
        began = time.monotonic()
        policy = manifests.authorization(case.name, _NAMESPACE, "web", case.action, [case.rule])
        mesh.apply_policies(policy)
        took = time.monotonic() - began
        observed = []
        for each in case.expected:
            offset = log_size(mesh.log_of("ztunnel-2"))
            reply = mesh.curl(each.source, f"http://{WEB_2.ip}:{each.port}/")
            what = f"{each.source.name} -> web-2:{each.port} {reply if reply.ok else 'refused'}"
            require(reply.ok == each.allowed, f"{case.action}: {each.source.name} -> web-2:{each.port}: {reply}")
            if not each.allowed:
                _await_refusal(mesh, offset)
            observed.append(what)
        return ", ".join(observed) + f"; in force after {ms(took)}"

    return check


def _await_refusal(mesh: Mesh, offset: int) -> str:
    """The error with which the ztunnel of web-2 logged that policy refused a connection."""
    return mesh.await_access(
        "ztunnel-2", offset, lambda line: _REFUSED in line["error"] and line["direction"] == "inbound", "the refusal"
    )["error"]


def live_connection_closed(mesh: Mesh) -> str:
    refused = mesh.client(BATCH, "watch", WEB_2.ip, str(HTTP), "/load")
    allowed = mesh.client(FRONTEND, "watch", WEB_2.ip, str(HTTP), "/load")
    try:
        for client, name in ((refused, "batch"), (allowed, "frontend")):
            first = client.await_first(5.0)
            require(first.get("open"), f"{name} -> web-2: {first}")
        offset = log_size(mesh.log_of("ztunnel-2"))
        began = time.monotonic()
        mesh.apply_policies(
            manifests.authorization("deny-live", _NAMESPACE, "web", "DENY", [_from(principals=[BATCH.principal])])
        )
        end = refused.finish(_CLOSE_WITHIN)
        require(not allowed.latest.get("final"), f"the connection of frontend was closed too: {allowed.latest}")
        error = mesh.await_access("ztunnel-2", offset, lambda line: "policy" in line["error"], "the closing")["error"]
        reply = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/")
        require(reply.ok, f"frontend -> web-2: {reply}")
    finally:
        refused.close()
        allowed.close()
    closed = f"connection of batch {end['how']} {ms(end['now'] - began)} after the DENY was written"
    return f"{closed} ({error}); frontend's stays"


def strict(mesh: Mesh) -> str:
    before = mesh.curl(OUTSIDER, f"http://{WEB_2.ip}:{HTTP}/")
    require(before.ok, f"before STRICT: outsider -> web-2: {before}")
    mesh.apply_mtls_mode("STRICT")
    offset = log_size(mesh.log_of("ztunnel-2"))
    plain = mesh.curl(OUTSIDER, f"http://{WEB_2.ip}:{HTTP}/")
    require(plain.status == 0, f"STRICT: outsider -> web-2 in clear: {plain}")
    error = _await_refusal(mesh, offset)
    member = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/")
    require(member.ok, f"STRICT: frontend -> web-2: {member}")
    return f"outsider in clear: {plain} ({error}); frontend over mTLS: {member}"


def permissive(mesh: Mesh) -> str:
    mesh.apply_mtls_mode("STRICT")
    before = mesh.curl(OUTSIDER, f"http://{WEB_2.ip}:{HTTP}/")
    require(before.status == 0, f"STRICT, before PERMISSIVE: outsider -> web-2 in clear: {before}")
    mesh.apply_mtls_mode("PERMISSIVE")
    with Capture(mesh.net.path("node-1"), NODE_LINK) as capture:
        plain = mesh.curl(OUTSIDER, f"http://{WEB_2.ip}:{HTTP}/in-clear")
    require(plain.ok, f"PERMISSIVE: outsider -> web-2 in clear: {plain}")
    require(capture.seen.holding(b"/in-clear"), f"{plain}, but the request was not in clear on the node link")
    require(plain.client == OUTSIDER.ip, f"nginx saw the client as {plain.client}")
    member = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/")
    require(member.ok, f"PERMISSIVE: frontend -> web-2: {member}")
    return f"outsider in clear: {plain}, seen as {plain.client}; frontend over mTLS: {member}"


def probe_bypasses(mesh: Mesh) -> str:
    mesh.apply_mtls_mode("STRICT")
    url = f"http://{WEB_2.ip}:{HTTP}/healthz"
    probe = curl(mesh.processes, mesh.net.path("node-2"), url)
    require(probe.ok, f"STRICT: probe from node-2 to web-2: {probe}")
    require(probe.client == _PROBE_ADDRESS, f"{probe}, but nginx saw the probe as {probe.client}")
    foreign = curl(mesh.processes, mesh.net.path("node-1"), url)
    require(foreign.status == 0, f"STRICT: from the other node to web-2: {foreign}")
    return f"under STRICT: from node-2 {probe}, seen as {probe.client}; from node-1, not the pod's kubelet: refused"


SCENARIOS = (
    *(Scenario(case.name, f"AuthorizationPolicy: {case.title}", _check(case)) for case in CASES),
    Scenario("policy-closes", "A policy change closes a live connection", live_connection_closed),
    Scenario("strict", "PeerAuthentication STRICT refuses plaintext", strict),
    Scenario("permissive", "PeerAuthentication PERMISSIVE accepts it", permissive),
    Scenario("probe", "Kubelet's probe passes under STRICT", probe_bypasses),
)
