"""Which parents take a route, and what is said about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod.translate.gateway_api.hostnames import covers, intersection, owner
from tests.unit.istiod.gateway_api.support import API, World, gateway, grant, namespace, reasons, route, service

ACCEPTED = ("True", "Accepted")
RESOLVED = ("True", "ResolvedRefs")
BY_NAME = "{key: kubernetes.io/metadata.name, operator: In, values: [other]}"
LABELS = st.sampled_from(("a", "b", "c"))
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}"))


@pytest.mark.parametrize(
    ("listener", "hosts", "found"),
    [
        ("", (), ("*",)),
        ("", ("a.b",), ("a.b",)),
        ("a.b", (), ("a.b",)),
        ("*.b", ("a.b", "x.a.b", "b", "*.a.b", "*.c"), ("a.b", "x.a.b", "*.a.b")),
        ("a.b", ("*.b", "a.b", "c.b"), ("a.b",)),
        ("a.b", ("c.b",), ()),
        ("*.a.b", ("*.b",), ("*.a.b",)),
        ("*.b", ("b",), ()),
    ],
)
def test_hostnames_meet(listener: str, hosts: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert intersection(listener, hosts) == found


def means(pattern: str, name: str) -> bool:
    """The rule once more, by labels."""
    labels, wanted = name.split("."), pattern.split(".")
    if wanted[0] != "*":
        return labels == wanted
    return len(labels) >= len(wanted) and labels[len(labels) - len(wanted) + 1 :] == wanted[1:]


@given(HOSTS, NAMES)
def test_a_pattern_covers_the_names_it_means(pattern: str, name: str) -> None:
    assert covers(pattern, name) == means(pattern, name)


@given(HOSTS, HOSTS, NAMES)
def test_the_intersection_means_the_names_that_both_mean(listener: str, host: str, name: str) -> None:
    both = means(listener, name) and means(host, name)
    assert any(means(one, name) for one in intersection(listener, (host,))) == both


@given(st.lists(HOSTS, min_size=1), NAMES)
def test_the_owner_of_a_name_is_covered_by_every_other_pattern_that_covers_it(patterns: list[str], name: str) -> None:
    found = owner(patterns, name)
    covering = [pattern for pattern in patterns if covers(pattern, name)]
    assert (found in covering) if covering else found == ""
    assert all(covers(pattern, found) for pattern in covering)


@pytest.mark.parametrize(
    ("parents", "reason"),
    [
        ("[{name: gw}]", "Accepted"),
        ("[{name: gw, sectionName: web}]", "Accepted"),
        ("[{name: gw, port: 80}]", "Accepted"),
        ("[{name: gw, port: 80, sectionName: web}]", "Accepted"),
        ("[{name: gw, sectionName: none}]", "NoMatchingParent"),
        ("[{name: gw, port: 81}]", "NoMatchingParent"),
        ("[{name: gw, port: 81, sectionName: web}]", "NoMatchingParent"),
    ],
)
def test_a_section_and_a_port_choose_listeners(parents: str, reason: str) -> None:
    world = World(gateway(), service(), route(parents=parents))
    (found,) = world.parents("HTTPRoute", "r")
    assert found == {"Accepted": ("True" if reason == "Accepted" else "False", reason), "ResolvedRefs": RESOLVED}
    assert world.listener("web")["attachedRoutes"] == (1 if reason == "Accepted" else 0)


@pytest.mark.parametrize(
    ("allowed", "home", "reason"),
    [
        ("", "default", "Accepted"),
        ("", "other", "NotAllowedByListeners"),
        ("namespaces: {from: All}", "other", "Accepted"),
        ("namespaces: {from: None}", "default", "NotAllowedByListeners"),
        ("namespaces: {from: Selector, selector: {matchLabels: {team: red}}}", "other", "Accepted"),
        ("namespaces: {from: Selector, selector: {matchLabels: {team: blue}}}", "other", "NotAllowedByListeners"),
        (
            f"namespaces: {{from: Selector, selector: {{matchExpressions: [{BY_NAME}]}}}}",
            "other",
            "Accepted",
        ),
        ("kinds: [{kind: GRPCRoute}]", "default", "NotAllowedByListeners"),
        ("kinds: [{kind: HTTPRoute, group: example.com}]", "default", "NotAllowedByListeners"),
    ],
)
def test_a_listener_says_which_routes_it_takes(allowed: str, home: str, reason: str) -> None:
    spec = f"[{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{{allowed}}}}}]"
    world = World(
        gateway(spec),
        namespace("other", "team: red"),
        service(namespace=home),
        route(namespace=home, parents="[{name: gw, namespace: default}]"),
    )
    (found,) = world.parents("HTTPRoute", "r", home)
    assert found["Accepted"] == ("True" if reason == "Accepted" else "False", reason)


def test_a_namespace_that_changes_its_labels_opens_a_listener() -> None:
    selector = "namespaces: {from: Selector, selector: {matchLabels: {team: red}}}"
    world = World(
        gateway(f"[{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{{selector}}}}}]"),
        namespace("other"),
        route(namespace="other", parents="[{name: gw, namespace: default}]"),
    )
    assert world.parents("HTTPRoute", "r", "other")[0]["Accepted"] == ("False", "NotAllowedByListeners")
    world.put(namespace("other", "team: red"))
    assert world.parents("HTTPRoute", "r", "other")[0]["Accepted"] == ACCEPTED


def test_hostnames_that_do_not_meet_are_the_reason() -> None:
    listener = "[{name: web, port: 80, protocol: HTTP, hostname: '*.example.com'}]"
    world = World(gateway(listener), service(), route("hostnames: [example.org]"))
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "NoMatchingListenerHostname")


def test_of_several_refusals_the_one_that_came_closest_is_told() -> None:
    both = (
        "[{name: a, port: 80, protocol: HTTP, hostname: x.example.com},"
        " {name: b, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]"
    )
    world = World(gateway(both), service(), route("hostnames: [example.org]"))
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "NotAllowedByListeners")


def test_a_tcp_route_does_not_go_to_an_http_listener() -> None:
    spec = "rules: [{backendRefs: [{name: a, port: 8080}]}]"
    world = World(gateway(), service(), route(spec, kind="TCPRoute"))
    assert world.parents("TCPRoute", "r")[0]["Accepted"] == ("False", "NotAllowedByListeners")


def test_parents_of_other_products_are_not_judged_and_their_entries_stay() -> None:
    theirs = "{controllerName: nginx, parentRef: {name: other}, conditions: [{type: Accepted, status: 'True'}]}"
    stale = "{controllerName: istio.io/gateway-controller, parentRef: {name: gone}, conditions: []}"
    text = route(parents="[{name: other}, {kind: Service, group: example.com, name: a}]")
    world = World(service(), f"{text}\nstatus: {{parents: [{theirs}]}}")
    assert world.status("HTTPRoute", "r") == {}
    world.put(f"{text}\nstatus: {{parents: [{theirs}, {stale}]}}")
    (kept,) = world.status("HTTPRoute", "r")["parents"]
    assert kept["controllerName"] == "nginx"
    world.put(gateway(), f"{route(parents='[{name: gw}, {name: other}]')}\nstatus: {{parents: [{theirs}]}}")
    ours, kept = world.status("HTTPRoute", "r")["parents"]
    assert ours["parentRef"] == {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
    assert ours["controllerName"] == "istio.io/gateway-controller"
    assert kept["conditions"] == [{"type": "Accepted", "status": "True"}]


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("name: a, port: 8080", "ResolvedRefs"),
        ("name: none, port: 8080", "BackendNotFound"),
        ("name: a, port: 81", "BackendNotFound"),
        ("name: a", "InvalidDestination"),
        ("name: a, kind: Pod, port: 8080", "InvalidKind"),
        ("name: a, group: example.com, port: 8080", "InvalidKind"),
        ("name: a, namespace: other, port: 8080", "RefNotPermitted"),
        ("name: b, namespace: granted, port: 8080", "ResolvedRefs"),
        ("name: c, namespace: granted, port: 8080", "RefNotPermitted"),
        ("{group: networking.istio.io, kind: Hostname, name: ext.example.com, port: 443}", "ResolvedRefs"),
        ("{group: networking.istio.io, kind: Hostname, name: a.default.svc.cluster.local, port: 8080}", "ResolvedRefs"),
        ("{group: networking.istio.io, kind: Hostname, name: none.example.com, port: 443}", "BackendNotFound"),
        (
            "{group: networking.istio.io, kind: Hostname, name: ext.example.com, namespace: default, port: 443}",
            "InvalidDestination",
        ),
    ],
)
def test_references_of_a_route_to_its_backends(ref: str, reason: str) -> None:
    ref = ref.strip("{}")
    entry = (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\n"
        "spec: {hosts: [ext.example.com], resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}"
    )
    world = World(
        gateway(),
        service(),
        service(namespace="other"),
        service("b", namespace="granted"),
        service("c", namespace="granted"),
        grant("{kind: Service, name: b}", "HTTPRoute", home="granted"),
        entry,
        route(f"rules: [{{backendRefs: [{{{ref}}}]}}]"),
    )
    good = reason == "ResolvedRefs"
    (found,) = world.parents("HTTPRoute", "r")
    assert found == {"Accepted": ACCEPTED, "ResolvedRefs": ("True" if good else "False", reason)}
    (backend,) = world.rule().action.backends  # type: ignore[union-attr]
    assert backend.status == (0 if good else 500)


def test_a_mirror_is_a_reference_as_well() -> None:
    mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: none, port: 1}}}]"
    world = World(gateway(), service(), route(f"rules: [{{{mirror}, backendRefs: [{{name: a, port: 8080}}]}}]"))
    assert world.parents("HTTPRoute", "r")[0]["ResolvedRefs"] == ("False", "BackendNotFound")
    assert world.rule().mirrors == ()


def test_a_listener_set_is_a_parent_with_listeners_of_its_own() -> None:
    joined = (
        f"{API}\nkind: ListenerSet\nmetadata: {{name: set}}\n"
        "spec: {parentRef: {name: gw}, listeners: [{name: web, port: 8080, protocol: HTTP}]}"
    )
    world = World(
        gateway(more="allowedListeners: {namespaces: {from: Same}}"),
        joined,
        service(),
        route(parents="[{kind: ListenerSet, name: set}]"),
    )
    assert world.parents("HTTPRoute", "r") == [{"Accepted": ACCEPTED, "ResolvedRefs": RESOLVED}]
    assert world.listener("web")["attachedRoutes"] == 0
    assert world.listener("web", kind="ListenerSet", parent="set")["attachedRoutes"] == 1
    assert len(world.rules(8080)) == 1
    world.put(gateway())
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "NoMatchingParent")


WAYPOINT = (
    f"{API}\nkind: Gateway\nmetadata: {{name: w}}\nspec: {{gatewayClassName: istio-waypoint, listeners: "
    "[{name: mesh, port: 15008, protocol: HBONE}]}\n"
    "status: {addresses: [{type: Hostname, value: w.default.svc.cluster.local}]}"
)
USE = "labels: {istio.io/use-waypoint: w}"
MESH_PARENT = "[{group: '', kind: Service, name: a}]"


def test_a_route_of_a_service_needs_its_waypoint() -> None:
    world = World(service(), route(parents=MESH_PARENT))
    expected = {"Accepted": ACCEPTED, "ResolvedRefs": RESOLVED}
    missing = ("False", "MissingUseWaypointLabel")
    assert world.parents("HTTPRoute", "r") == [{**expected, "ResolvedWaypoints": missing}]
    world.put(WAYPOINT, service(meta=USE))
    assert world.parents("HTTPRoute", "r") == [{**expected, "ResolvedWaypoints": ("True", "ResolvedWaypoints")}]


@pytest.mark.parametrize(
    ("parent", "home", "accepted"),
    [
        ("name: a", "default", ACCEPTED),
        ("name: a, port: 8080", "default", ACCEPTED),
        ("name: a, sectionName: http", "default", ACCEPTED),
        ("name: a, port: 81", "default", ("False", "NoMatchingParent")),
        ("name: a, sectionName: grpc", "default", ("False", "NoMatchingParent")),
        ("name: none", "default", ("False", "NoMatchingParent")),
        ("name: a, namespace: default", "other", ("False", "NotAllowedByListeners")),
    ],
)
def test_mesh_parents(parent: str, home: str, accepted: tuple[str, str]) -> None:
    world = World(
        WAYPOINT,
        service(meta=USE),
        service(namespace="other"),
        route(namespace=home, parents=f"[{{group: '', kind: Service, {parent}}}]"),
    )
    (found,) = world.parents("HTTPRoute", "r", home)
    assert found["Accepted"] == accepted
    bound = ("True", "ResolvedWaypoints") if accepted == ACCEPTED else ("False", "NoMatchingParent")
    assert found["ResolvedWaypoints"] == bound
    assert bool(world.mesh("a")) == (accepted == ACCEPTED)


def test_a_service_entry_is_a_mesh_parent() -> None:
    entry = (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
        "metadata: {name: e, labels: {istio.io/use-waypoint: w}}\n"
        "spec: {hosts: [ext.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}"
    )
    parent = "[{group: networking.istio.io, kind: ServiceEntry, name: e}]"
    world = World(WAYPOINT, service(), entry, route(parents=parent))
    assert world.parents("HTTPRoute", "r")[0] == {
        "Accepted": ACCEPTED,
        "ResolvedRefs": RESOLVED,
        "ResolvedWaypoints": ("True", "ResolvedWaypoints"),
    }
    world.put(entry.replace("ext.example.com", ""))
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "NoMatchingParent")
    world.remove(("ServiceEntry", "default", "e"))
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "NoMatchingParent")


def test_routes_of_connections_say_nothing_about_waypoints() -> None:
    world = World(service(), route(kind="TCPRoute", parents=MESH_PARENT))
    assert world.parents("TCPRoute", "r") == [{"Accepted": ACCEPTED, "ResolvedRefs": RESOLVED}]


def test_each_parent_has_its_own_entry() -> None:
    two = "[{name: web, port: 80, protocol: HTTP}, {name: alt, port: 81, protocol: HTTP}]"
    parents = "[{name: gw, sectionName: web}, {name: gw, sectionName: none}]"
    world = World(gateway(two), service(), route(parents=parents))
    entries = world.status("HTTPRoute", "r")["parents"]
    assert [entry["parentRef"]["sectionName"] for entry in entries] == ["web", "none"]
    assert [reasons(entry)["Accepted"][0] for entry in entries] == ["True", "False"]
    assert {one["observedGeneration"] for entry in entries for one in entry["conditions"]} == {7}
