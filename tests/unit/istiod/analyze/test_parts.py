"""Hosts, certificates and what else several analyzers go by."""

from __future__ import annotations

import base64
import datetime as dt

import pytest
from cryptography.hazmat.primitives import serialization

from istiod.analyze.certificates import fault
from istiod.analyze.hosts import Hosts, overlap, spellings
from istiod.analyze.metadata import HINTS_MAX
from istiod.analyze.virtual_services import covers
from istiod.objects import Meta, Secret
from tests.support.pki import Authority, Credential
from tests.unit.istiod.analyze.samples import WEB, waypoint
from tests.unit.istiod.analyze.support import codes, messages, obj, world_of

LEAF = Authority().leaf()
OTHER = Authority().leaf()
ENTRY = "{hosts: ['%s'], resolution: NONE, exportTo: ['%s'], ports: [{number: 443, name: p, protocol: TLS}]}"


def secret(**data: bytes) -> Secret:
    return Secret(
        Meta("s"), data={name.replace("_", "."): base64.b64encode(value).decode() for name, value in data.items()}
    )


def encrypted(credential: Credential) -> bytes:
    key = serialization.load_pem_private_key(credential.key, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (secret(tls_crt=LEAF.chain, tls_key=LEAF.key), ""),
        (secret(cert=LEAF.chain, key=LEAF.key), ""),
        (secret(ca_crt=LEAF.chain), ""),
        (secret(), "neither tls.crt and tls.key nor cert and key"),
        (secret(tls_crt=LEAF.chain), "tls.key is missing"),
        (secret(tls_key=LEAF.key), "tls.crt is missing"),
        (secret(tls_crt=LEAF.chain, tls_key=OTHER.key), "tls.key is not the key of tls.crt"),
        (secret(tls_crt=b"x", tls_key=LEAF.key), "tls.crt is no PEM certificate"),
        (secret(tls_crt=LEAF.chain, tls_key=b"x"), "tls.key is no PEM key"),
        (secret(tls_crt=LEAF.chain, tls_key=encrypted(LEAF)), "or is encrypted"),
        (Secret(Meta("s"), string_data={"tls.crt": LEAF.chain.decode(), "tls.key": LEAF.key.decode()}), ""),
        (Secret(Meta("s"), data={"tls.crt": "%", "tls.key": "%"}), "neither"),
    ],
)
def test_a_secret_is_judged_without_showing_what_it_holds(found: Secret, words: str) -> None:
    said = fault(found)
    assert words in said
    assert bool(said) is bool(words)
    assert "BEGIN" not in said


def test_a_certificate_has_its_time() -> None:
    now = dt.datetime.now(dt.UTC)
    found = secret(tls_crt=LEAF.chain, tls_key=LEAF.key)
    assert "expired on" in fault(found, now + dt.timedelta(days=2))
    assert "not valid before" in fault(found, now - dt.timedelta(days=2))


@pytest.mark.parametrize(
    ("host", "namespace", "found"),
    [
        ("web", "default", 1),
        ("WEB.default.svc.cluster.local.", "other", 1),
        ("web", "other", 0),
        ("web.default", "default", 0),
        ("a.example", "default", 1),
        ("a.example", "other", 0),
        ("x.wild.example", "default", 1),
        ("x.y.wild.example", "default", 1),
        ("wild.example", "default", 0),
        ("*.example", "default", 2),
        ("*", "default", 3),
    ],
)
def test_a_host_means_what_its_namespace_can_see(host: str, namespace: str, found: int) -> None:
    entries = obj("ServiceEntry", "a", ENTRY % ("a.example", ".")) + obj(
        "ServiceEntry", "w", ENTRY % ("*.wild.example", "*")
    )
    assert len(Hosts(world_of(WEB, entries)).find(host, namespace)) == found


def test_a_service_can_be_kept_to_its_namespace() -> None:
    text = obj("Service", "web", "{ports: [{name: http, port: 80}]}", notes="networking.istio.io/exportTo: '.'")
    hosts = Hosts(world_of(text))
    full = "web.default.svc.cluster.local"
    assert [len(hosts.find(full, namespace)) for namespace in ("default", "other")] == [1, 0]


def test_wildcards_of_a_name() -> None:
    assert list(spellings("a.b.c")) == ["a.b.c", "*.b.c", "*.c", "*"]
    assert list(spellings("*.c")) == ["*.c", "*"]


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("*", "a.b", True),
        ("*.b", "a.b", True),
        ("*.b", "*.a.b", True),
        ("*.b", ".b", False),
        ("*.b", "b", False),
        ("a.b", "a.b", True),
        ("a.b", "*.b", False),
    ],
)
def test_what_a_wildcard_covers(pattern: str, host: str, *, expected: bool) -> None:
    assert covers(pattern, host) is expected


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [([], ["."], True), (["."], ["."], False), (["b"], ["."], True), (["*"], ["x"], True), (["x"], ["y"], False)],
)
def test_where_two_objects_are_both_seen(mine: list[str], theirs: list[str], *, expected: bool) -> None:
    assert overlap(mine, theirs, "a", "b") is expected


def test_a_route_by_short_name_says_which_name_that_is() -> None:
    (one,) = messages(obj("VirtualService", "v", "{hosts: [a.b], http: [{route: [{destination: {host: web}}]}]}"))
    assert one.suggestion == "Without a dot it is a service of the namespace default: web.default.svc.cluster.local."


def test_a_gateway_of_the_other_api_is_pointed_at() -> None:
    text = "{hosts: [a.b], gateways: [wp], http: [{route: [{destination: {host: web}}]}]}"
    found = messages(obj("VirtualService", "v", text), WEB, waypoint())
    assert ("IST0101", "There is such a Gateway of the Gateway API: attach an HTTPRoute to it.") in {
        (one.code.id, one.suggestion) for one in found
    }


def test_pods_that_are_made_are_told_about_at_their_maker() -> None:
    ports = "{selector: {a: b}, ports: [{name: %s, port: 80}]}"
    services = obj("Service", "http", ports % "http") + obj("Service", "tcp", ports % "tcp")
    owned = "metadata: {name: p, labels: {a: b}, ownerReferences: [{kind: ReplicaSet, name: r}]}"
    pod = f"---\napiVersion: v1\nkind: Pod\n{owned}\nspec: {{containers: [{{name: a}}]}}\n"
    maker = obj("Deployment", "d", "{template: {metadata: {labels: {a: b}}}}")
    assert [one.resource for one in messages(services, pod, maker)] == ["Deployment d.default"]
    assert codes(services, pod) == []


def test_suggestions_for_annotations_have_an_end() -> None:
    notes = ", ".join(f"istio.io/dry-ru{number}: ''" for number in range(2 * HINTS_MAX))
    found = messages(obj("Service", "s", notes=notes))
    assert sum(bool(one.suggestion) for one in found) == HINTS_MAX
    assert len(found) == 2 * HINTS_MAX
