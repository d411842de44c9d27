"""Port 15012 over real TLS: who is served, who is refused, and that a subscriber ends with what is published."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from istiod import ca
from istiod.auth import TokenKey
from meshcore.errors import (
    AuthenticationError,
    AuthorizationError,
    CertificateError,
    MeshError,
    Unavailable,
)
from meshcore.identity import Identity
from meshcore.manifests import write_status
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream import Node, SigningClient, client_context
from tests.unit.istiod.support import WEB, ZTUNNEL, Mesh, new_csr, pod

WEB_UID = "Kubernetes//Pod/default/web"


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "web.yaml").write_text(pod("web"))
    return Mesh(tmp_path)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    uvloop.run(bounded())


def uris(pem: str) -> list[str]:
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in names.value]


def test_a_node_gets_its_own_identity_by_token_and_its_pods_identities_by_certificate(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running():
            csr, key = new_csr()
            bootstrap = mesh.signer(token=mesh.token())
            chain = await bootstrap.sign(csr, str(ZTUNNEL))
            assert uris(chain[0]) == [str(ZTUNNEL), "node.n1.ambient"]
            assert chain[-1] == mesh.root_pem
            await bootstrap.close()
            node = mesh.signer(lambda: client_context(mesh.root_pem, chain[0], key))
            assert uris((await node.sign(new_csr()[0], str(WEB)))[0]) == [str(WEB)]
            renewed = await node.sign(csr)
            assert uris(renewed[0]) == [str(ZTUNNEL), "node.n1.ambient"]
            await node.close()

    run(scenario())


def test_a_token_may_also_impersonate(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running():
            signer = mesh.signer(token=mesh.token())
            assert uris((await signer.sign(new_csr()[0], str(WEB)))[0]) == [str(WEB)]
            await signer.close()

    run(scenario())


def test_many_requests_share_one_connection(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running() as istiod:
            signer = mesh.signer(mesh.tls(ZTUNNEL, "n1"))
            chains = await asyncio.gather(*(signer.sign(new_csr()[0], str(WEB)) for _ in range(120)))
            assert len(chains) == 120
            assert len(istiod.service.server.connections) == 1
            await signer.close()

    run(scenario())


def expired(mesh: Mesh) -> str:
    return mesh.token(ttl=-10)


def foreign_key(mesh: Mesh) -> str:
    del mesh
    return TokenKey(b"x" * 32).mint("istio-system/ztunnel", "n1", timedelta(hours=1))


def unsigned(mesh: Mesh) -> str:
    del mesh
    return jwt.encode({"sub": "istio-system/ztunnel", "node": "n1", "aud": "istio-ca"}, "", "none")


def key_of(mesh: Mesh) -> bytes:
    return (mesh.state / "token-key").read_bytes()


CLAIMS = {"iss": "ambient-bootstrap", "sub": "istio-system/ztunnel", "node": "n1", "aud": "istio-ca", "exp": 2**40}


def wrong_audience(mesh: Mesh) -> str:
    return jwt.encode(CLAIMS | {"aud": "other"}, key_of(mesh), "HS256")


def without_end(mesh: Mesh) -> str:
    return jwt.encode({k: v for k, v in CLAIMS.items() if k != "exp"}, key_of(mesh), "HS256")


def without_node(mesh: Mesh) -> str:
    return jwt.encode({k: v for k, v in CLAIMS.items() if k != "node"}, key_of(mesh), "HS256")


def odd_subject(mesh: Mesh) -> str:
    return jwt.encode(CLAIMS | {"sub": "a/b/c"}, key_of(mesh), "HS256")


def none_at_all(mesh: Mesh) -> None:
    del mesh


def too_long(mesh: Mesh) -> str:
    del mesh
    return "x" * 9000


@pytest.mark.parametrize(
    "token",
    [expired, foreign_key, unsigned, wrong_audience, without_end, without_node, odd_subject, none_at_all, too_long],
)
def test_a_bad_token_is_refused_without_a_reason(mesh: Mesh, token: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with mesh.running() as istiod:
            text = token(mesh)
            signer = mesh.signer(token=text)
            with pytest.raises(AuthenticationError) as caught:
                await signer.sign(new_csr()[0])
            assert str(caught.value) == "the caller could not be authenticated"
            assert istiod.metrics.get("citadel_server_authentication_failure_count") == 1
            assert istiod.metrics.get("citadel_server_success_cert_issuance_count") == 0
            assert not text or text not in caplog.text
            await signer.close()

    run(scenario())


STRANGERS = {
    "not on the node": (ZTUNNEL, "n2", str(WEB)),
    "no pod uses it": (ZTUNNEL, "n1", "spiffe://cluster.local/ns/default/sa/nobody"),
    "the pod is over": (ZTUNNEL, "n1", "spiffe://cluster.local/ns/default/sa/done"),
    "another trust domain": (ZTUNNEL, "n1", "spiffe://other/ns/default/sa/web"),
    "not bound to a node": (ZTUNNEL, "", str(WEB)),
    "a workload for another": (WEB, "", "spiffe://cluster.local/ns/default/sa/api"),
    "a workload for the node": (WEB, "n1", str(ZTUNNEL)),
    "not an identity": (ZTUNNEL, "n1", "https://example.com"),
    "a path trick": (ZTUNNEL, "n1", "spiffe://cluster.local/ns/default/sa/web/"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_an_identity_that_is_not_the_callers_is_refused_without_a_reason(mesh: Mesh, case: str) -> None:
    identity, node, wanted = STRANGERS[case]
    (mesh.config / "more.yaml").write_text(pod("api", "10.0.0.2") + "---\n" + pod("done", "10.0.0.3", phase="Failed"))

    async def scenario() -> None:
        async with mesh.running() as istiod:
            signer = mesh.signer(mesh.tls(identity, node))
            with pytest.raises(AuthorizationError) as caught:
                await signer.sign(new_csr()[0], wanted)
            assert str(caught.value) == "the caller may not have this identity"
            assert istiod.metrics.get("citadel_server_id_extraction_err_count") == 1
            await signer.close()

    run(scenario())


def broken_signature() -> str:
    from cryptography.hazmat.primitives import serialization

    csr = x509.load_pem_x509_csr(new_csr()[0].encode())
    raw = bytearray(csr.public_bytes(serialization.Encoding.DER))
    raw[-1] ^= 1
    return x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "ttl", "words"),
    [
        ("rubbish", 0, "cannot be read"),
        (broken_signature(), 0, "signature"),
        (new_csr(rsa.generate_private_key(65537, 1024))[0], 0, "2048"),  # noqa: S505 - what must be refused
        (new_csr(ec.generate_private_key(ec.SECP521R1()))[0], 0, "P-256"),
        ("x" * 20_000, 0, "longer than"),
        (new_csr()[0], 91 * 86400, "longer than the limit"),
    ],
)
def test_a_bad_request_says_what_is_wrong(mesh: Mesh, csr: str, ttl: int, words: str) -> None:
    async def scenario() -> None:
        async with mesh.running():
            signer = mesh.signer(mesh.tls(WEB))
            with pytest.raises(CertificateError, match=words):
                await signer.sign(csr, ttl_seconds=ttl)
            await signer.sign(new_csr()[0])
            await signer.close()

    run(scenario())


def other_ca(tmp_path: Path) -> ca.Authority:
    tmp_path.mkdir()
    day = timedelta(days=1)
    return ca.self_signed(str(tmp_path), "cluster.local", day, day, day)


def test_a_certificate_of_another_ca_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    csr, key = new_csr()
    chain = other_ca(tmp_path / "other").sign(csr, ZTUNNEL, 0, node="n1")

    async def scenario() -> None:
        async with mesh.running() as istiod:
            signer = mesh.signer(lambda: client_context(mesh.root_pem, chain[0], key), token=mesh.token())
            with pytest.raises((AuthenticationError, Unavailable), match=r"certificate|TLS"):
                await signer.sign(new_csr()[0])
            assert istiod.metrics.get("citadel_server_csr_count") == 0
            await signer.close()

    run(scenario())


def test_a_client_refuses_a_server_of_another_ca_and_of_another_name(mesh: Mesh, tmp_path: Path) -> None:
    wrong = other_ca(tmp_path / "other").root_pem

    async def scenario() -> None:
        async with mesh.running():
            signer = mesh.signer(lambda: client_context(wrong), token=mesh.token())
            with pytest.raises(AuthenticationError, match="certificate is refused"):
                await signer.sign(new_csr()[0])
            named = SigningClient(address=mesh.address, tls=mesh.tls(), server_name="other.example")
            with pytest.raises(AuthenticationError, match="certificate is refused"):
                await named.sign(new_csr()[0])

    run(scenario())


def test_tls_1_2_and_http_1_get_nothing(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running():
            old = client_context(mesh.root_pem)
            old.minimum_version = ssl.TLSVersion.TLSv1_2
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(*mesh.address, ssl=old, server_hostname="localhost")
            plain = client_context(mesh.root_pem)
            plain.set_alpn_protocols(["http/1.1"])
            reader, writer = await asyncio.open_connection(*mesh.address, ssl=plain, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run(scenario())


def test_the_config_stream_needs_a_certificate(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running(), mesh.subscriber(mesh.tls()) as subscriber:
            await subscriber.until(lambda: bool(subscriber.client.stats.terminations))
            assert subscriber.client.stats.last_error == "the caller could not be authenticated"
            assert not subscriber.held

    run(scenario())


@pytest.mark.parametrize("node", [Node("x", namespace="other"), Node("x", node="n2")])
def test_what_a_proxy_says_of_itself_must_agree_with_its_certificate(mesh: Mesh, node: Node) -> None:
    async def scenario() -> None:
        async with mesh.running(), mesh.subscriber(node=node) as subscriber:
            await subscriber.until(lambda: bool(subscriber.client.stats.terminations))
            assert not subscriber.held

    run(scenario())


def test_a_subscriber_follows_every_change(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running(), mesh.subscriber() as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            await subscriber.client.ready(AUTHORIZATION_TYPE, 5)
            assert list(subscriber.held) == [WEB_UID]
            first = subscriber.held[WEB_UID]
            note = {"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}
            write_status(mesh.status, "Pod", "default", "web", note)
            await subscriber.until(lambda: subscriber.held[WEB_UID].version != first.version)
            (mesh.config / "api.yaml").write_text(pod("api", "10.0.0.2"))
            await subscriber.until(lambda: len(subscriber.held) == 2)
            (mesh.config / "web.yaml").unlink()
            await subscriber.until(lambda: list(subscriber.held) == ["Kubernetes//Pod/default/api"])

    run(scenario())


def test_a_bad_object_keeps_its_last_good_version_until_it_is_fixed(mesh: Mesh) -> None:
    policy = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n"
        "spec:\n  action: DENY\n  rules:\n  - to: [{operation: {ports: ['%s']}}]\n"
    )

    async def scenario() -> None:
        path = mesh.config / "policy.yaml"
        path.write_text(policy % 80)
        async with mesh.running() as istiod, mesh.subscriber() as subscriber:
            await subscriber.until(lambda: "default/x" in subscriber.held)
            first = subscriber.held["default/x"]
            path.write_text(policy % 80000)
            await subscriber.until(lambda: istiod.metrics.get("pilot_total_rejected_configs") == 1)
            assert subscriber.held["default/x"] == first
            path.write_text(policy % 81)
            await subscriber.until(lambda: subscriber.held["default/x"] != first)
            assert istiod.metrics.get("pilot_total_rejected_configs") == 0

    run(scenario())


def test_a_refused_resource_is_counted_and_comes_again_with_the_next_connection(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running() as istiod, mesh.subscriber() as subscriber:
            subscriber.refuse = {WEB_UID: "no"}
            await subscriber.until(lambda: istiod.metrics.get("pilot_total_xds_rejects", type="wds") == 1)
            assert not subscriber.held
            assert not subscriber.client.is_synced(ADDRESS_TYPE)
            subscriber.refuse = {}
            for connection in tuple(istiod.service.server.connections):
                connection.abort()
            await subscriber.until(lambda: WEB_UID in subscriber.held)
            await subscriber.client.ready(ADDRESS_TYPE, 5)

    run(scenario())


def test_after_a_restart_the_ca_is_the_same_and_nothing_unchanged_is_sent(mesh: Mesh, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh.running():
            subscriber = mesh.subscriber()
            await subscriber.__aenter__()
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            root, port = mesh.root_pem, mesh.address[1]
        assert subscriber.received == [WEB_UID]
        (mesh.config / "api.yaml").write_text(pod("api", "10.0.0.2"))
        again = Mesh(tmp_path, port=port)
        async with again.running():
            await subscriber.until(lambda: len(subscriber.held) == 2)
            assert subscriber.received == [WEB_UID, "Kubernetes//Pod/default/api"]
            assert again.root_pem == root
            assert subscriber.client.stats.connections == 2
            await subscriber.__aexit__()

    run(scenario())


def test_a_stream_ends_when_its_certificate_does(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running(), mesh.subscriber(mesh.tls(ZTUNNEL, "n1", ttl=3)) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            await subscriber.until(lambda: bool(subscriber.client.stats.terminations))

    run(scenario())


def test_shutdown_ends_subscriptions_in_order(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with mesh.running() as istiod:
            async with mesh.subscriber() as subscriber:
                await subscriber.client.ready(ADDRESS_TYPE, 5)
                await istiod.service.stop(1.0)
                await subscriber.until(lambda: "Complete" in subscriber.client.stats.terminations)
            signer = mesh.signer(mesh.tls(WEB))
            with pytest.raises(Unavailable):
                await signer.sign(new_csr()[0])

    run(scenario())


def test_an_unknown_type_and_an_unknown_call_are_refused(mesh: Mesh) -> None:
    from meshcore.stream.h2rpc import connect

    async def scenario() -> None:
        async with mesh.running():
            connection = await connect(mesh.address, mesh.tls(WEB)(), "localhost")
            stream = connection.open("/nothing", [], end=True)
            assert await connection.response(stream) == 404
            connection.close()

    run(scenario())


def test_an_unknown_identity_kind_never_reaches_a_handler(mesh: Mesh) -> None:
    """A certificate of the CA without a SPIFFE URI, such as istiod's own, is no client credential."""
    chain, key = mesh.istiod.authority.serving(["localhost"])

    async def scenario() -> None:
        async with mesh.running() as istiod:
            signer = mesh.signer(lambda: client_context(mesh.root_pem, chain, key), token=mesh.token())
            with pytest.raises(MeshError):
                await signer.sign(new_csr()[0])
            assert istiod.metrics.get("citadel_server_csr_count") == 0
            await signer.close()

    run(scenario())


def test_another_node_account_is_trusted_only_if_configured(tmp_path: Path) -> None:
    other = Identity("cluster.local", "kube-system", "proxy")
    mesh = Mesh(tmp_path, trusted_node_accounts=("kube-system/proxy",))
    (mesh.config / "web.yaml").write_text(pod("web"))

    async def scenario() -> None:
        async with mesh.running():
            signer = mesh.signer(mesh.tls(other, "n1"))
            assert uris((await signer.sign(new_csr()[0], str(WEB)))[0]) == [str(WEB)]
            await signer.close()
            refused = mesh.signer(mesh.tls(ZTUNNEL, "n1"))
            with pytest.raises(AuthorizationError):
                await refused.sign(new_csr()[0], str(WEB))
            await refused.close()

    run(scenario())
