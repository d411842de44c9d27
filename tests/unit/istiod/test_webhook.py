"""The webhook: what it says of objects, how it speaks HTTP, and its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod import webhook
from istiod.webhook import BODY_BYTES_MAX, MalformedReview, Webhook, judge, review
from meshcore.errors import Unavailable
from tests.support.pki import self_signed_server

GOOD = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"}, "spec": {}}
BAD = {**GOOD, "spec": {"action": "DENY"}}
WARNED = {**GOOD, "spec": {"selector": {}, "rules": [{}]}}
HOST = "127.0.0.1"
STEP_S = 10.0

Json = dict[str, Any]


def asked(
    obj: Any, *, operation: str = "CREATE", kind: str = "AuthorizationPolicy", group: str = "security.istio.io"
) -> bytes:
    request = {
        "uid": "u-1",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "operation": operation,
        "name": "p",
        "namespace": "shop",
        "object": obj,
        "oldObject": None,
        "userInfo": {"username": "somebody"},
    }
    return msgspec.json.encode({"apiVersion": webhook.API_VERSION, "kind": "AdmissionReview", "request": request})


def answered(body: bytes) -> Json:
    found: Json = msgspec.json.decode(body)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Json = found["response"]
    assert response["uid"] == "u-1"
    return response


def response_to(body: bytes) -> Json:
    return answered(review(body)[0])


class Counts:
    """What was counted, by name and labels."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self.found[" ".join([name, *(labels[key] for key in sorted(labels))])] += int(amount)


def test_an_object_in_order_is_allowed_without_a_word() -> None:
    assert response_to(asked(GOOD)) == {"uid": "u-1", "allowed": True}


def test_every_error_of_an_object_is_told_with_its_field() -> None:
    found = response_to(asked({**BAD, "spec": {"action": "DENY", "rulez": []}}))
    assert found["allowed"] is False
    assert found["status"]["code"] == 422
    assert "spec.rules: missing: DENY without rules" in found["status"]["message"]
    assert "; spec.rulez: unknown field" in found["status"]["message"]


def test_a_warning_leaves_the_object_allowed() -> None:
    found = response_to(asked(WARNED))
    assert found["allowed"] is True
    assert found["warnings"] == ["IST0133: spec.selector: has no labels, so it selects every pod of the namespace"]


def test_what_this_mesh_does_not_use_is_a_warning() -> None:
    filters = {"metadata": {"name": "f"}, "spec": {}}
    (found,) = response_to(asked(filters, kind="EnvoyFilter", group="networking.istio.io"))["warnings"]
    assert found.startswith("AMB0002: ")


def test_a_long_warning_is_cut() -> None:
    notes = {f"{'x' * 60}.istio.io/{number}{'y' * 60}": "" for number in range(2 * webhook.WARNINGS_MAX)}
    found = response_to(
        asked({**GOOD, "metadata": {"name": "p", "annotations": {**notes, "istio.io/" + "z" * 300: ""}}})
    )
    assert len(found["warnings"]) == webhook.WARNINGS_MAX
    assert max(map(len, found["warnings"])) <= webhook.WARNING_CHARS_MAX


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT", ""])
def test_other_operations_are_allowed(operation: str) -> None:
    assert response_to(asked(None, operation=operation))["allowed"] is True
    assert response_to(asked(BAD, operation=operation))["allowed"] is True


def test_an_object_that_is_being_deleted_may_lose_its_finalizers() -> None:
    going = {**BAD, "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert response_to(asked(going, operation="UPDATE"))["allowed"] is True
    assert response_to(asked(BAD, operation="UPDATE"))["allowed"] is False


@pytest.mark.parametrize(("kind", "group"), [("Widget", "security.istio.io"), ("AuthorizationPolicy", "example.com")])
def test_kinds_of_others_are_allowed(kind: str, group: str) -> None:
    assert response_to(asked(BAD, kind=kind, group=group))["allowed"] is True


def test_a_generated_name_will_do() -> None:
    assert response_to(asked({**GOOD, "metadata": {"generateName": "p-"}}))["allowed"] is True


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not an AdmissionReview in JSON"),
        (b"[]", "not an AdmissionReview in JSON"),
        (b"\xff", "not an AdmissionReview in JSON"),
        (b"{}", "no AdmissionReview"),
        (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "no AdmissionReview"),
        (asked(GOOD).replace(b"AdmissionReview", b"Status"), "no AdmissionReview"),
        (asked(GOOD).replace(b"u-1", b""), "no AdmissionReview"),
        (asked(GOOD).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"), "v1beta1"),
        (asked("OBJECT").replace(b'"OBJECT"', b"[" * 100_000 + b"]" * 100_000), "not an AdmissionReview in JSON"),
    ],
)
def test_a_malformed_review_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(MalformedReview, match=words):
        review(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {}, optional={"metadata": JSON, "spec": JSON, "status": JSON, "kind": JSON, "apiVersion": JSON}
)


@given(JSON | PARTS, st.sampled_from(["VirtualService", "Sidecar", "EnvoyFilter", "ServiceEntry", "DestinationRule"]))
def test_whatever_an_object_is_it_gets_an_answer(obj: Any, kind: str) -> None:
    found = judge(kind, "networking.istio.io/v1", obj, "shop")
    assert not any("BUG" in text for text in (*found.errors, *found.warnings))


@given(st.binary(max_size=64))
def test_whatever_a_body_is_it_is_answered_or_refused(body: bytes) -> None:
    with pytest.raises(MalformedReview):
        review(body)


# The server.


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """-> (of the server, of a client that trusts it)."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed_server()
    (directory / "crt").write_bytes(certificate)
    (directory / "key").write_bytes(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "crt", directory / "key")
    return server, ssl.create_default_context(cafile=str(directory / "crt"))


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Client:
    """Bytes to the webhook, answers from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, body: bytes, *, path: str = "/validate?timeout=10s", head: str = "") -> tuple[int, bytes]:
        head = head or "content-type: application/json\r\n"
        lines = f"POST {path} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n"
        return await self.say(lines.encode() + body)

    async def say(self, data: bytes) -> tuple[int, bytes]:
        self.writer.write(data)
        return await self.answer()

    async def announce(self, length: int) -> None:
        """The head of a request; returns once the webhook asks for the body."""
        head = f"content-type: application/json\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        self.writer.write(b"POST /validate HTTP/1.1\r\nhost: x\r\n" + head.encode())
        async with asyncio.timeout(STEP_S):
            assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(STEP_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split()[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def closed(self) -> bool:
        async with asyncio.timeout(STEP_S):
            return await self.reader.read() == b""


class Running:
    def __init__(self, server: Webhook, counts: Counts, client: ssl.SSLContext) -> None:
        self.server = server
        self.counts = counts
        self._client = client

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with asyncio.timeout(STEP_S):
            reader, writer = await asyncio.open_connection(HOST, self.server.port, ssl=self._client)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def serve(tls: Contexts, test: Callable[[Running], Awaitable[None]], **limits: float) -> Counts:
    counts = Counts()

    async def run() -> None:
        server = Webhook(counts, **limits)
        await server.start(HOST, 0, tls[0])
        try:
            async with asyncio.timeout(3 * STEP_S):
                await test(Running(server, counts, tls[1]))
        finally:
            await server.stop(STEP_S)

    asyncio.run(run())
    return counts


def test_reviews_are_answered_on_one_connection_and_counted(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            for obj, allowed in ((GOOD, True), (BAD, False), (WARNED, True)):
                status, body = await client.post(asked(obj))
                assert (status, answered(body)["allowed"]) == (200, allowed)
            status, _ = await client.post(asked({}, kind="Widget" * 10))
            assert status == 200

    assert serve(tls, test).found == {
        "galley_validation_passed security.istio.io authorizationpolicies v1": 2,
        "galley_validation_failed security.istio.io invalid_resource authorizationpolicies v1": 1,
        "galley_validation_passed other other other": 1,
    }


def test_a_large_object_is_judged(tls: Contexts) -> None:
    rules = [{"from": [{"source": {"namespaces": [f"ns-{number}"]}}]} for number in range(10_000)]

    async def test(running: Running) -> None:
        body = asked({**GOOD, "spec": {"rules": rules}})
        assert len(body) > 400_000
        async with running.client() as client:
            status, answer = await client.post(body)
            assert (status, answered(answer)["allowed"]) == (200, True)

    serve(tls, test)


@pytest.mark.parametrize(
    ("head", "path", "body", "status", "words"),
    [
        ("", "/inject", asked(GOOD), 404, "/validate"),
        ("content-type: text/plain\r\n", "/validate", asked(GOOD), 415, "application/json"),
        ("content-type: application/json; charset=utf-8\r\n", "/validate", asked(GOOD), 200, "allowed"),
        ("", "/validate", b"{", 400, "AdmissionReview"),
        ("", "/validate", b" " * (BODY_BYTES_MAX + 1), 413, str(BODY_BYTES_MAX)),
    ],
)
def test_requests_that_are_none_are_refused(
    tls: Contexts, head: str, path: str, body: bytes, status: int, words: str
) -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            found, text = await client.post(body, head=head, path=path)
            assert found == status
            assert words in text.decode()

    counts = serve(tls, test)
    if status != 200:
        assert counts.found == {f"galley_validation_http_error {status}": 1}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /validate HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /validate HTTP/1.1\r\nhost: x\r\nx: " + b"y" * webhook.HEAD_BYTES_MAX, 431),
    ],
)
def test_what_is_no_such_request_ends_the_connection(tls: Contexts, data: bytes, status: int) -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            found, _ = await client.say(data)
            assert found == status
            assert status == 405 or await client.closed()

    serve(tls, test)


def test_a_body_without_a_length_is_limited_too(tls: Contexts) -> None:
    head = b"POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

    async def test(running: Running) -> None:
        async with running.client() as client:
            review_ = asked(GOOD)
            found, body = await client.say(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(review_), review_))
            assert (found, answered(body)["allowed"]) == (200, True)
            client.writer.write(head)
            size = BODY_BYTES_MAX + 1
            found, _ = await client.say(b"%x\r\n%s\r\n" % (size, b" " * size))
            assert found == 413
            assert await client.closed()

    serve(tls, test)


def test_a_client_that_waits_for_leave_to_send_gets_it(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        body = asked(GOOD)
        async with running.client() as client:
            await client.announce(len(body))
            assert (await client.say(body))[0] == 200

    serve(tls, test)


def test_a_request_that_does_not_end_is_given_up(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            found, text = await client.say(b"POST /validate HTTP/1.1\r\n")
            assert (found, text) == (408, b"no whole request within 0.1 s\n")
            assert await client.closed()

    assert serve(tls, test, request_timeout=0.1).found == {"galley_validation_http_error 408": 1}


def test_an_idle_connection_is_closed(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            assert await client.closed()

    serve(tls, test, idle_timeout=0.1)


def test_more_connections_than_the_limit_are_refused(tls: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "CONNECTIONS_MAX", 1)

    async def test(running: Running) -> None:
        async with running.client() as first:
            assert (await first.post(asked(GOOD)))[0] == 200
            async with running.client() as second:
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await second.post(asked(GOOD))
            assert (await first.post(asked(GOOD)))[0] == 200

    serve(tls, test)


def test_a_stop_answers_what_was_asked_and_closes_what_is_idle(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        async with running.client() as idle, running.client() as busy:
            body = asked(GOOD)
            assert (await idle.post(body))[0] == (await busy.post(body))[0] == 200
            await busy.announce(len(body))
            stopping = asyncio.create_task(running.server.stop(STEP_S))
            assert await idle.closed()
            assert not stopping.done()
            assert (await busy.say(body))[0] == 200
            assert await busy.closed()
            await stopping
            assert running.server.serving is False

    serve(tls, test)


def test_a_port_that_is_taken_is_told(tls: Contexts) -> None:
    async def test(running: Running) -> None:
        with pytest.raises(Unavailable, match=f"cannot listen on {HOST}:{running.server.port}"):
            await Webhook(Counts()).start(HOST, running.server.port, tls[0])

    serve(tls, test)
