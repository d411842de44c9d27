"""Requests of foreign peers: what they say, and that nothing they send does more than a typed refusal."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istiod.push import Published
from istiod.xds import certificates, discovery
from istiod.xds.generators import Generators
from meshcore.errors import MeshError, ProtocolError
from meshcore.model import ADDRESS_TYPE
from meshcore.stream.grpc import Unframer
from meshcore.stream.messages import DeltaResponse, Node, Resource
from tests.fuzz.fuzz_xds import SEEDS, fuzz_one
from tests.support.layering import ROOT
from tests.support.protobuf import referee

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def request(**fields: Any) -> bytes:
    data: bytes = referee("envoy.service.discovery.v3.DeltaDiscoveryRequest")(**fields).SerializeToString()
    return data


@given(st.lists(TEXT), st.lists(TEXT), st.dictionaries(TEXT, TEXT), TEXT)
def test_a_request_says_what_its_sender_meant(
    subscribe: list[str], unsubscribe: list[str], versions: dict[str, str], nonce: str
) -> None:
    data = request(
        type_url=ADDRESS_TYPE,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=versions,
        response_nonce=nonce,
    )
    found = discovery.decode_request(data)
    assert (found.type_url, found.node, found.error) == (ADDRESS_TYPE, None, "")
    assert (list(found.subscribe), list(found.unsubscribe)) == (subscribe, unsubscribe)
    assert (found.initial_versions, found.nonce) == (versions, nonce)


def test_a_node_is_read_from_its_id_and_metadata() -> None:
    sent = referee("envoy.service.discovery.v3.DeltaDiscoveryRequest")()
    sent.node.id = "ztunnel~10.0.0.1~z-1.istio-system~istio-system.svc.cluster.local"
    said = {"NODE_NAME": "n1", "SERVICE_ACCOUNT": "ztunnel", "CLUSTER_ID": "c", "ISTIO_VERSION": "1.29", "EXTRA": "e"}
    sent.node.metadata.update({**said, "NUMBER": 1, "LIST": ["x"], "NESTED": {"a": "b"}})
    assert discovery.decode_request(sent.SerializeToString()).node == Node(
        sent.node.id, "z-1", "istio-system", "n1", "ztunnel", "c", "1.29", said
    )
    sent.node.metadata.update({"NAME": "other", "NAMESPACE": "elsewhere"})
    node = discovery.decode_request(sent.SerializeToString()).node
    assert node is not None
    assert (node.name, node.namespace) == ("other", "elsewhere")


@pytest.mark.parametrize("node_id", ["", "x", "ztunnel~1.1.1.1~z.ns", "alien~1.1.1.1~z.ns~d", "ztunnel~1.1.1.1~z.~d"])
def test_a_node_id_of_another_form_is_refused(node_id: str) -> None:
    with pytest.raises(ProtocolError, match="node id"):
        discovery.decode_request(request(node={"id": node_id}))


@pytest.mark.parametrize(
    ("code", "text", "said"), [(3, "bad", "bad"), (3, "", "refused with code 3"), (0, "", "refused with code 0")]
)
def test_an_error_detail_is_a_refusal_even_without_words(code: int, text: str, said: str) -> None:
    sent = referee("envoy.service.discovery.v3.DeltaDiscoveryRequest")(type_url=ADDRESS_TYPE)
    sent.error_detail.SetInParent()
    sent.error_detail.code = code
    sent.error_detail.message = text
    assert discovery.decode_request(sent.SerializeToString()).error == said


@given(st.lists(st.tuples(TEXT, TEXT, st.binary(max_size=30), st.lists(TEXT, max_size=2))), st.lists(TEXT))
def test_a_response_is_what_envoy_reads(resources: list[tuple[str, str, bytes, list[str]]], removed: list[str]) -> None:
    entries: tuple[Resource, ...] = tuple(
        discovery.entry(name, version, ADDRESS_TYPE, value, aliases) for name, version, value, aliases in resources
    )
    parts, size = discovery.encode_response(DeltaResponse(ADDRESS_TYPE, "7", entries, tuple(removed)))
    data = b"".join(parts)
    assert len(data) == size
    found = referee("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(data)
    assert (found.type_url, found.nonce, list(found.removed_resources)) == (ADDRESS_TYPE, "7", removed)
    assert [(r.name, r.version, r.resource.value, list(r.aliases)) for r in found.resources] == resources
    assert all(r.resource.type_url == ADDRESS_TYPE for r in found.resources)


@given(TEXT, st.integers(-(2**63), 2**63 - 1), TEXT)
def test_a_certificate_request_is_read(csr: str, seconds: int, identity: str) -> None:
    sent = referee("istio.v1.auth.IstioCertificateRequest")(csr=csr, validity_duration=seconds)
    assert certificates.decode(sent.SerializeToString()).identity == ""
    sent.metadata.update({"ImpersonatedIdentity": identity, "CertSigner": "ignored"})
    found = certificates.decode(sent.SerializeToString())
    assert (found.csr_pem, found.identity, found.ttl_seconds) == (csr, identity, seconds)


@given(st.lists(TEXT))
def test_a_chain_arrives_in_order(chain: list[str]) -> None:
    found = referee("istio.v1.auth.IstioCertificateResponse").FromString(certificates.encode(chain))
    assert list(found.cert_chain) == chain


VALID = request(
    node={"id": "ztunnel~1.1.1.1~z.ns~d"},
    type_url=ADDRESS_TYPE,
    resource_names_subscribe=["a", "*"],
    initial_resource_versions={"a": "1"},
)


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.builds(lambda at, b: VALID[:at] + b + VALID[at + 1 :], st.integers(0, len(VALID)), st.binary(max_size=2))
)
def test_hostile_bytes_end_in_a_typed_refusal(data: bytes) -> None:
    generators = Generators(Published())
    with contextlib.suppress(MeshError):
        certificates.decode(data)
    with contextlib.suppress(MeshError):
        found = discovery.decode_request(data)
        subscription = generators.open(found.type_url, found.node or Node("x"))
        subscription.state.request(found, subscription.store)
        subscription.state.next(subscription.store)


@pytest.mark.parametrize(("depth", "reason"), [(5, "node id"), (500, "cannot be decoded")])
def test_metadata_that_nests_without_end_is_refused(depth: int, reason: str) -> None:
    """The runtime stops at a depth of its own, before the stack does."""
    value = b""
    for tag in (b"\x12", b"\x0a", b"\x2a") * depth:  # value of an entry, entry of a Struct, Struct of a Value
        value = tag + varint(len(value)) + value
    entry = b"\x12" + varint(len(value)) + value
    fields = b"\x0a" + varint(len(entry)) + entry
    node = b"\x1a" + varint(len(fields)) + fields
    with pytest.raises(ProtocolError, match=reason):
        discovery.decode_request(b"\x0a" + varint(len(node)) + node)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


@pytest.mark.parametrize("seed", SEEDS)
def test_fuzz_seeds(seed: bytes) -> None:
    fuzz_one(seed)


def test_the_seeds_are_requests() -> None:
    for seed in SEEDS[:4]:
        for message in Unframer().feed(seed):
            assert discovery.decode_request(message).type_url == ADDRESS_TYPE


def test_istiod_alone_does_not_load_protobuf() -> None:
    """Its memory is for meshes with gRPC peers only."""
    code = "import sys, istiod.app; sys.exit(any(name.startswith('google') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
