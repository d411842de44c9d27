"""Certificates: schedule, priorities, failures; the key-making child; istiod is played by a small CA."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from cryptography import x509 as full_x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshcore.errors import AuthorizationError, MeshError, Unavailable
from meshcore.identity import Identity
from tests.support.issuer import Issuer
from ztunnel import certs, config, csr, csrclient
from ztunnel.certs import Certificates, Entry, Priority
from ztunnel.csr import KeyRequest

A = Identity("cluster.local", "a", "x")
B = Identity("cluster.local", "a", "y")
START = 1_700_000_000.0
DEADLINE = 20.0


class World:
    """istiod, key making and the clock of a test."""

    def __init__(self, ttl: float = 3600) -> None:
        self.clock = START
        self.ttl = ttl
        self.issuer = Issuer.shared()
        self.error: MeshError | None = None
        self.gate: asyncio.Event | None = None
        self.signed: list[str] = []
        self.batches: list[list[str]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.issued: list[str] = []
        self.forgotten: list[str] = []
        self.wrong_identity = False
        self.certs = Certificates(
            self,
            self.make_keys,
            own_uri="spiffe://cluster.local/ns/istio-system/sa/ztunnel",
            ttl=ttl,
            on_issued=lambda entry: self.issued.append(entry.uri),
            on_forgotten=lambda entry: self.forgotten.append(entry.uri),
            now=lambda: self.clock,
        )

    async def make_keys(self, identities: Sequence[str]) -> list[KeyRequest]:
        self.batches.append(list(identities))
        await asyncio.sleep(0)
        return [csr.make(identity) for identity in identities]

    async def sign(self, csr_pem: str, identity: str = "", ttl_seconds: int = 0, *, timeout: float = 10) -> list[str]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            self.signed.append(identity)
            uri = str(B) if self.wrong_identity else identity
            return self.issuer.sign(csr_pem, uri, not_before=self.clock, ttl=self.ttl)
        finally:
            self.under_way -= 1

    def entry(self, identity: Identity) -> Entry:
        (found,) = [each for each in self.certs.entries() if each.uri == str(identity)]
        return found

    async def advance(self, seconds: float) -> None:
        """Move the clock and have the schedule looked at."""
        self.clock += seconds
        self.certs._wake.set()
        await settle()


async def settle() -> None:
    """Let everything that can run run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - several sources can make it true
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(world: World) -> Any:
    task = asyncio.create_task(world.certs.run())
    try:
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def check(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with running(World(**options)) as world:
            await until(lambda: world.certs.own.issued is not None)
            await test(world)

    asyncio.run(main())


def test_our_own_certificate_comes_first_and_is_shown_to_istiod() -> None:
    async def test(world: World) -> None:
        await asyncio.wait_for(world.certs.own_ready(), DEADLINE)
        assert world.signed == [""]
        shown = world.certs.own_identity
        assert shown is not None
        assert shown[0].startswith("-----BEGIN CERTIFICATE")
        world.clock += 3601
        assert world.certs.own_identity is None  # an expired one would only be refused

    check(test)


def test_one_certificate_for_all_pods_of_an_account() -> None:
    async def test(world: World) -> None:
        first, second = world.certs.acquire(A), world.certs.acquire(A)
        assert first == second != world.certs.acquire(B)
        await until(lambda: len(world.certs.issued()) == 2)
        assert sorted(world.signed) == ["", str(A), str(B)]
        issued = world.entry(A).issued
        assert issued is not None
        key = load_pem_private_key(issued.key_pem, None)
        leaf = full_x509.load_pem_x509_certificate(issued.chain_pem.encode())
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert leaf.public_key() == key.public_key()
        assert world.certs.bundles == {issued.bundle_id: world.issuer.root_pem}
        world.certs.release(first)
        assert world.forgotten == []
        world.certs.release(first)
        assert world.forgotten == [str(A)]
        assert world.certs.acquire(A) != first  # ids are never used again

    check(test)


def test_renewal_at_half_of_life_with_jitter() -> None:
    async def test(world: World) -> None:
        identities = [Identity("cluster.local", "n", f"s{i}") for i in range(40)]
        for identity in identities:
            world.certs.acquire(identity)
        await until(lambda: len(world.certs.issued()) == 40)
        dues = [entry.due - START for entry in world.certs.issued()]
        assert all(1620 <= due <= 1980 for due in dues)
        assert max(dues) - min(dues) > 60
        await world.advance(1600)
        assert len(world.signed) == 41
        await world.advance(400)
        await until(lambda: len(world.signed) == 82)

    check(test)


def test_a_refusal_is_tried_again_ever_later_and_shown() -> None:
    async def test(world: World) -> None:
        world.error = AuthorizationError("the caller may not have this identity")
        world.certs.acquire(A)
        await until(lambda: world.entry(A).attempts == 1)
        (shown,) = world.certs.dump()
        assert shown["state"] == "Unavailable: the caller may not have this identity"
        waits = []
        for attempt in range(2, 12):
            waits.append(world.entry(A).due - world.clock)
            await world.advance(waits[-1] + 0.01)
            await until(lambda attempt=attempt: world.entry(A).attempts == attempt)  # type: ignore[misc]
        for i, wait in enumerate(waits):
            assert 0.8 * min(2.0**i, 150) <= wait <= 1.2 * min(2.0**i, 150)
        world.error = None
        await world.advance(200)
        await until(lambda: world.entry(A).issued is not None)
        assert world.entry(A).attempts == 0

    check(test)


def test_a_valid_certificate_is_kept_while_renewal_fails() -> None:
    async def test(world: World) -> None:
        world.certs.acquire(A)
        await until(lambda: bool(world.certs.issued()))
        before = world.entry(A).issued
        world.error = Unavailable("istiod is away")
        await world.advance(2000)
        await until(lambda: world.entry(A).attempts == 1)
        assert world.entry(A).issued is before
        assert world.certs.dump()[0]["state"] == "Available"
        world.clock = START + 3599.9
        world.certs._failed(world.entry(A), world.error)
        assert world.entry(A).due <= START + 3600  # at its end at the latest
        world.clock = START + 3601
        assert world.certs.dump()[0]["state"] == "Unavailable: expired; istiod is away"

    check(test)


def test_at_most_eight_are_under_way() -> None:
    async def test(world: World) -> None:
        world.gate = asyncio.Event()
        for i in range(30):
            world.certs.acquire(Identity("cluster.local", "n", f"s{i}"))
        await until(lambda: world.under_way == 8)
        await settle()
        world.gate.set()
        await until(lambda: len(world.certs.issued()) == 30)
        assert world.most_under_way == certs.IN_FLIGHT_MAX

    check(test)


def test_a_waiting_connection_goes_before_pods_that_start() -> None:
    async def test(world: World) -> None:
        world.error = Unavailable("not yet")
        first, second = world.certs.acquire(A), world.certs.acquire(B)
        await until(lambda: world.entry(A).attempts == world.entry(B).attempts == 1)
        assert world.certs.need(second) is False  # it has failed: waiting would not help
        world.error = None
        world.signed.clear()
        await world.advance(10)
        await until(lambda: len(world.certs.issued()) == 2)
        assert world.signed == [str(B), str(A)]
        assert world.entry(B).priority is Priority.BACKGROUND
        assert world.certs.need(first) is False
        assert world.certs.need(99) is False

    check(test)


def test_what_is_signed_for_a_pod_that_left_is_thrown_away() -> None:
    async def test(world: World) -> None:
        world.gate = asyncio.Event()
        cert_id = world.certs.acquire(A)
        await until(lambda: world.under_way == 1)
        world.certs.release(cert_id)
        world.gate.set()
        await settle()
        assert str(A) not in world.issued
        assert world.certs.dump() == []

    check(test)


def test_another_identity_than_asked_for_is_refused() -> None:
    async def test(world: World) -> None:
        world.wrong_identity = True
        world.certs.acquire(A)
        await until(lambda: world.entry(A).attempts == 1)
        assert world.entry(A).issued is None
        assert str(A) in world.entry(A).error

    check(test)


def test_new_trust_anchors_get_a_new_number() -> None:
    async def test(world: World) -> None:
        world.certs.acquire(A)
        await until(lambda: bool(world.certs.issued()))
        world.issuer = Issuer("another root")
        await world.advance(2000)
        await until(lambda: world.issued.count(str(A)) == 2)
        issued = world.entry(A).issued
        assert issued is not None
        assert len(world.certs.bundles) == 2
        assert world.certs.bundles[issued.bundle_id] == world.issuer.root_pem

    check(test)


def test_the_dump_has_istioctls_shape_and_no_key() -> None:
    async def test(world: World) -> None:
        world.certs.acquire(A)
        assert world.certs.dump()[0]["state"] == "Initializing"
        await until(lambda: bool(world.certs.issued()))
        (shown,) = world.certs.dump()
        assert set(shown) == {"identity", "state", "certChain", "rootCerts"}
        chain = shown["certChain"]
        assert isinstance(chain, list)
        assert set(chain[0]) == {"pem", "serialNumber", "validFrom", "expirationTime"}
        assert chain[0]["validFrom"] == "2023-11-14T22:13:20Z"
        issued = world.entry(A).issued
        assert "PRIVATE" not in repr(issued) + repr(KeyRequest(b"PRIVATE", "")) + str(shown)

    check(test)


def test_the_child_makes_keys_and_requests() -> None:
    uris = [str(A), str(B)]
    began = time.monotonic()
    found = asyncio.run(csrclient.generate(uris, config.child_environment()))
    assert time.monotonic() - began < 10
    for uri, each in zip(uris, found, strict=True):
        request = full_x509.load_pem_x509_csr(each.csr_pem.encode())
        names = request.extensions.get_extension_for_class(full_x509.SubjectAlternativeName)
        assert names.critical
        assert names.value.get_values_for_type(full_x509.UniformResourceIdentifier) == [uri]
        assert list(request.subject) == []
        assert request.is_signature_valid
        assert b"BEGIN PRIVATE KEY" in each.key_pem  # PKCS#8


def test_a_child_that_cannot_start_or_fails_is_an_error_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeshError):
        asyncio.run(csrclient.generate(["not ascii \u00e9"], config.child_environment()))
    with pytest.raises(MeshError, match="not made within"):
        asyncio.run(csrclient.generate([str(A)], config.child_environment(), timeout=0.001))
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(MeshError):
        asyncio.run(csrclient.generate([str(A)], config.child_environment()))
