"""Port 15012 as upstream's proxies use it: grpcio and what protoc makes of the messages on one side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from istiod.serve import CERTIFICATE_METHOD, DELTA_METHOD
from meshcore import model
from meshcore.identity import Identity
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.h2rpc import connect
from meshcore.stream.tls import client_context
from tests.support.protobuf import referee
from tests.unit.istiod.support import WEB, ZTUNNEL, new_csr
from tests.unit.istiod.xds.support import (
    EVERYTHING,
    WAIT_S,
    Istiod,
    Subscriber,
    create_certificate,
    name_of,
    service,
    workload,
)

pytestmark = pytest.mark.interop

SERVICE = service("web", 1)
SERVICE_NAME = name_of(SERVICE)
WEB_1, WEB_2 = workload("web-1", 1, SERVICE_NAME), workload("web-2", 2, SERVICE_NAME)
OTHER = workload("other", 3)
UID_1, UID_2, UID_OTHER = name_of(WEB_1), name_of(WEB_2), name_of(OTHER)
Code = grpc.StatusCode


@pytest.fixture
def istiod(tmp_path: Path) -> Istiod:
    return Istiod(tmp_path)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(50):
            await scenario

    asyncio.run(bounded())


def test_a_wildcard_proxy_follows_everything(istiod: Istiod) -> None:
    policy = model.Authorization("p", "default", model.PolicyScope.NAMESPACE, model.PolicyAction.DENY)

    async def scenario() -> None:
        istiod.put(WEB_1, SERVICE)
        istiod.published.update(AUTHORIZATION_TYPE, {"default/p": policy})
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask()
            await proxy.ask(AUTHORIZATION_TYPE, node_id="")
            first, second = await proxy.next(), await proxy.next()
            by_type = {first.type_url: first, second.type_url: second}
            addresses = by_type[ADDRESS_TYPE].resources
            assert {one.name for one in addresses} == {UID_1, SERVICE_NAME}
            assert {one.name: list(one.aliases) for one in addresses}[UID_1] == ["/10.0.0.1"]
            (found,) = by_type[AUTHORIZATION_TYPE].resources
            parsed = referee("istio.security.Authorization").FromString(found.resource.value)
            assert (parsed.name, parsed.namespace, parsed.action) == ("p", "default", 1)
            for response in (first, second):
                await proxy.answer(response)
            istiod.put(OTHER)
            found, removed = await proxy.take()
            assert (list(found), removed) == ([UID_OTHER], [])
            assert found[UID_OTHER].workload.uid == UID_OTHER
            istiod.remove(UID_1)
            assert await proxy.take() == ({}, [UID_1])

    run(scenario())


def test_types_are_pushed_in_the_order_of_the_registry(istiod: Istiod) -> None:
    policy = model.Authorization("p", "default", model.PolicyScope.NAMESPACE, model.PolicyAction.DENY)

    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask(AUTHORIZATION_TYPE)
            await proxy.answer(await proxy.next())
            await proxy.ask(node_id="")
            await proxy.answer(await proxy.next())
            (seen,) = istiod.service.proxies.values()
            await istiod.until(lambda: all(state.acked == 1 for state in seen.types.values()))
            istiod.published.update(AUTHORIZATION_TYPE, {"default/p": policy})
            istiod.put(WEB_1)
            assert [(await proxy.next()).type_url for _ in range(2)] == [ADDRESS_TYPE, AUTHORIZATION_TYPE]

    run(scenario())


def test_an_on_demand_proxy_gets_its_node_and_what_it_asks_for(istiod: Istiod) -> None:
    own = workload("own", 4, node="n1")

    async def scenario() -> None:
        istiod.put(WEB_1, WEB_2, OTHER, SERVICE, own)
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask(ADDRESS_TYPE, EVERYTHING, EVERYTHING)
            response = await proxy.next()
            assert [one.name for one in response.resources] == [name_of(own)]
            await proxy.answer(response, subscribe=["/10.1.0.1", "/10.9.9.9"])
            found, removed = await proxy.take()
            assert set(found) == {"/10.1.0.1", SERVICE_NAME, UID_1, UID_2}
            assert found["/10.1.0.1"].service.hostname == "web.default.svc.cluster.local"
            assert removed == ["/10.9.9.9"]
            istiod.put(workload("web-3", 5, SERVICE_NAME), workload("unasked", 6))
            found, _ = await proxy.take()
            assert list(found) == ["Kubernetes//Pod/default/web-3"]

    run(scenario())


def test_a_proxy_that_comes_back_gets_the_difference(istiod: Istiod) -> None:
    async def scenario() -> None:
        istiod.put(WEB_1, WEB_2, OTHER)
        async with istiod.running():
            async with istiod.subscribed() as proxy:
                await proxy.ask()
                response = await proxy.next()
                held = {one.name: one.version for one in response.resources}
            istiod.put(workload("other", 9))
            istiod.remove(UID_2)
            async with istiod.subscribed() as proxy:
                await proxy.ask(versions=held)
                found, removed = await proxy.take()
                assert (list(found), removed) == ([UID_OTHER], [UID_2])

    run(scenario())


def test_a_refused_push_is_counted_and_not_repeated_until_it_changes(istiod: Istiod) -> None:
    async def scenario() -> None:
        istiod.put(WEB_1)
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask()
            await proxy.answer(await proxy.next(), error="cannot use this")
            await istiod.until(lambda: istiod.metrics.get("pilot_total_xds_rejects", type="wds") == 1)
            (state,) = (one.types[ADDRESS_TYPE] for one in istiod.service.proxies.values())
            assert state.rejected == "cannot use this"
            istiod.put(OTHER)
            found, _ = await proxy.take()
            assert list(found) == [UID_OTHER]
            istiod.put(workload("web-1", 8))
            found, _ = await proxy.take()
            assert list(found) == [UID_1]
            await istiod.until(lambda: state.rejected == "" and state.acked == 3)

    run(scenario())


def test_an_answer_to_an_older_response_is_counted(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask()
            response = await proxy.next()
            await proxy.answer(response)
            await proxy.answer(response)
            await istiod.until(lambda: istiod.metrics.get("pilot_xds_expired_nonce", type="wds") == 1)

    run(scenario())


def test_a_token_is_enough_and_the_proxy_is_seen(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed(None, token=istiod.token()) as proxy:
            await proxy.ask()
            await proxy.take()
            (seen,) = istiod.service.proxies.values()
            assert seen.node is not None
            assert (seen.node.id.split("~")[0], seen.node.node) == ("ztunnel", "n1")
            assert (seen.caller.identity, seen.caller.node) == (ZTUNNEL, "n1")
            await istiod.until(lambda: seen.types[ADDRESS_TYPE].acked == 1)
            assert istiod.metrics.get("pilot_xds") == 1
        await istiod.until(lambda: not istiod.service.proxies)

    run(scenario())


@pytest.mark.parametrize("token", [None, "nonsense"])
def test_an_unknown_caller_is_refused_without_a_reason(istiod: Istiod, token: str | None) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed(None, token=token) as proxy:
            error = await proxy.refusal()
            assert error.code() is Code.UNAUTHENTICATED
            assert error.details() == "the caller could not be authenticated"

    run(scenario())


@pytest.mark.parametrize(
    ("node", "node_id"),
    [
        ({"NODE_NAME": "n2", "NAMESPACE": "istio-system"}, "ztunnel~1.1.1.1~z.istio-system~d"),
        ({"NODE_NAME": "n1", "NAMESPACE": "default"}, "ztunnel~1.1.1.1~z.istio-system~d"),
        ({"NODE_NAME": "n1"}, "ztunnel~1.1.1.1~z.default~d"),
        ({"NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "other"}, "ztunnel~1.1.1.1~z.istio-system~d"),
    ],
)
def test_a_proxy_that_says_it_is_another_is_denied(istiod: Istiod, node: dict[str, str], node_id: str) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask(node=node, node_id=node_id)
            assert (await proxy.refusal()).code() is Code.PERMISSION_DENIED

    run(scenario())


def test_a_first_request_without_a_node_and_an_unknown_type_are_refused(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running():
            async with istiod.subscribed() as proxy:
                await proxy.ask(node_id="")
                error = await proxy.refusal()
                assert error.code() is Code.INVALID_ARGUMENT
                assert "which proxy" in (error.details() or "")
            async with istiod.subscribed() as proxy:
                await proxy.ask("type.googleapis.com/envoy.config.cluster.v3.Cluster")
                error = await proxy.refusal()
                assert error.code() is Code.UNIMPLEMENTED
                assert "envoy.config.cluster.v3.Cluster" in (error.details() or "")

    run(scenario())


def test_an_unknown_method_is_unimplemented(istiod: Istiod) -> None:
    async def scenario() -> None:
        path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        async with istiod.running(), istiod.channel(ZTUNNEL, "n1") as channel:
            proxy = Subscriber(channel, path=path)
            error = await proxy.refusal()
            assert error.code() is Code.UNIMPLEMENTED
            assert path in (error.details() or "")

    run(scenario())


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x2a\x02\x0a\x05" * 50])
def test_bytes_that_are_no_request_end_the_stream_only(istiod: Istiod, data: bytes) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.call.write(data)
            assert (await proxy.refusal()).code() is Code.INVALID_ARGUMENT

    run(scenario())


def test_a_message_over_the_limit_and_a_compressed_one_are_refused(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running():
            async with istiod.subscribed() as proxy:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await proxy.call.write(b"x" * (4 * 2**20 + 1))
                assert (await proxy.refusal()).code() is Code.RESOURCE_EXHAUSTED
            async with istiod.channel(ZTUNNEL, "n1", [("grpc.default_compression_algorithm", 2)]) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await create_certificate(channel, "x" * 10_000)
                assert caught.value.code() is Code.UNIMPLEMENTED

    run(scenario())


def test_a_shutdown_ends_the_stream_in_order_and_refuses_new_ones(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed() as proxy:
            await proxy.ask()
            await proxy.take()
            stopping = asyncio.create_task(istiod.service.stop(1.0))
            assert (await proxy.refusal()).code() is Code.OK
            await stopping

    run(scenario())


def test_a_stream_ends_when_the_client_certificate_does(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.subscribed(ttl=3) as proxy:
            await proxy.ask()
            await proxy.take()
            error = await proxy.refusal()
            assert (error.code(), error.details()) == (Code.UNAUTHENTICATED, "the client certificate has expired")

    run(scenario())


def test_the_path_alone_makes_no_grpc_call(istiod: Istiod) -> None:
    async def scenario() -> None:
        async with istiod.running():
            tls = client_context(istiod.root_pem, *istiod.credential(ZTUNNEL, "n1"))
            connection = await connect(("127.0.0.1", istiod.service.server.port), tls, "localhost")
            stream = connection.open(DELTA_METHOD, [("content-type", "application/json")], end=True)
            assert await connection.response(stream, WAIT_S) == 400
            assert b"application/grpc" in await stream.receive(WAIT_S)
            connection.close()

    run(scenario())


def test_a_deadline_is_kept(istiod: Istiod) -> None:
    """The message never comes: the call ends at its own deadline, and a malformed one is refused."""

    async def scenario() -> None:
        async with istiod.running():
            tls = client_context(istiod.root_pem, *istiod.credential(ZTUNNEL, "n1"))
            connection = await connect(("127.0.0.1", istiod.service.server.port), tls, "localhost")
            for timeout, status in (("200m", "4"), ("soon", "3")):
                headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)]
                stream = connection.open(CERTIFICATE_METHOD, headers)
                assert await connection.response(stream, WAIT_S) == 200
                assert await stream.receive(WAIT_S) == b""
                assert (stream.trailers or stream.headers)["grpc-status"] == status
            connection.close()

    run(scenario())


def test_fifty_proxies_come_back_at_once(istiod: Istiod) -> None:
    many = [workload(f"w{i}", i) for i in range(500)]

    async def one(versions: dict[str, str]) -> dict[str, str]:
        async with istiod.subscribed() as proxy:
            await proxy.ask(versions=versions)
            response = await proxy.next()
            await proxy.answer(response)
            return {one.name: one.version for one in response.resources}

    async def scenario() -> None:
        istiod.put(*many)
        async with istiod.running():
            first = await asyncio.gather(*(one({}) for _ in range(50)))
            assert all(held == first[0] for held in first)
            assert len(first[0]) == 500
            again = await asyncio.gather(*(one(first[0]) for _ in range(50)))
            assert all(held == {} for held in again)
            await istiod.until(lambda: not istiod.service.proxies)

    run(scenario())


def test_a_proxy_that_does_not_read_delays_nobody_and_is_given_up(tmp_path: Path) -> None:
    istiod = Istiod(tmp_path, send_timeout=1.5)
    big = [model.Address(workload=model.Workload(f"w{i}", "n" * 8000, "default")) for i in range(2000)]

    async def scenario() -> None:
        istiod.put(*big)
        async with (
            istiod.running(),
            istiod.subscribed(options={"grpc.http2.bdp_probe": 0}) as slow,
            istiod.subscribed(options={"grpc.max_receive_message_length": 64 * 2**20}) as quick,
        ):
            await slow.ask()
            await istiod.until(lambda: istiod.metrics.get("pilot_xds_pushes", type="wds") == 1)
            await quick.ask()
            found, _ = await quick.take()
            assert len(found) == 2000
            for turn in range(3):
                istiod.put(workload("next", turn))
                found, _ = await quick.take()
                assert list(found) == ["Kubernetes//Pod/default/next"]
            assert istiod.metrics.get("pilot_xds_write_timeout") == 0
            await istiod.until(lambda: istiod.metrics.get("pilot_xds_write_timeout") == 1)
            await istiod.until(lambda: len(istiod.service.proxies) == 1)

    run(scenario())


def uris(pem: str) -> list[str]:
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in names.value]


@pytest.mark.parametrize("by_token", [True, False])
def test_a_node_proxy_gets_the_certificates_of_its_pods(istiod: Istiod, by_token: bool) -> None:
    async def scenario() -> None:
        token = istiod.token() if by_token else None
        async with istiod.running(), istiod.channel(None if by_token else ZTUNNEL, "n1") as channel:
            chain = await create_certificate(channel, new_csr()[0], str(WEB), 3600, token)
            assert uris(chain[0]) == [str(WEB)]
            assert chain[-1] == istiod.root_pem
            leaf = x509.load_pem_x509_certificate(chain[0].encode())
            assert 3500 < (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() < 3800
            own = await create_certificate(channel, new_csr()[0], token=token)
            assert uris(own[0])[0] == str(ZTUNNEL)
        assert istiod.metrics.get("citadel_server_success_cert_issuance_count") == 2

    run(scenario())


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        ("spiffe://cluster.local/ns/default/sa/elsewhere", Code.UNAUTHENTICATED),
        ("spiffe://other/ns/default/sa/web", Code.UNAUTHENTICATED),
        ("nonsense", Code.UNAUTHENTICATED),
    ],
)
def test_an_identity_that_is_not_granted_is_refused_without_a_reason(
    istiod: Istiod, identity: str, code: grpc.StatusCode
) -> None:
    async def scenario() -> None:
        async with istiod.running(), istiod.channel(ZTUNNEL, "n1") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create_certificate(channel, new_csr()[0], identity)
            assert (caught.value.code(), caught.value.details()) == (code, "the caller may not have this identity")
        assert istiod.metrics.get("citadel_server_id_extraction_err_count") == 1

    run(scenario())


def test_no_workload_impersonates_and_an_old_token_counts_for_nothing(istiod: Istiod) -> None:
    other = Identity("cluster.local", "default", "other")

    async def scenario() -> None:
        async with istiod.running(), istiod.channel(other) as workload, istiod.channel() as nobody:
            for channel, identity, token in ((workload, str(WEB), None), (nobody, "", istiod.token(ttl=-5))):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await create_certificate(channel, new_csr()[0], identity, token=token)
                assert caught.value.code() is Code.UNAUTHENTICATED

    run(scenario())


def test_a_bad_csr_and_too_long_a_lifetime_are_invalid(istiod: Istiod) -> None:
    weak = new_csr(rsa.generate_private_key(public_exponent=65537, key_size=1024))[0]  # noqa: S505 - to be refused

    async def scenario() -> None:
        async with istiod.running(), istiod.channel(ZTUNNEL, "n1") as channel:
            for csr, seconds in (("", 0), ("nonsense", 0), (weak, 0), (new_csr()[0], 31 * 86400)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await create_certificate(channel, csr, str(WEB), seconds)
                assert caught.value.code() is Code.INVALID_ARGUMENT
            assert await create_certificate(channel, new_csr()[0], str(WEB), 0)

    run(scenario())
