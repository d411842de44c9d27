"""Certificates: one per service account with pods on this node, and our own towards istiod.

Keys are made by a short-lived child, signed by istiod and renewed at half of their life. A valid certificate is served
until a better one is there. Times are seconds since 1970, because certificates say when in such times.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from meshcore.errors import AuthenticationError, CertificateError, MeshError
from meshcore.identity import Identity
from ztunnel import x509
from ztunnel.csr import KeyRequest
from ztunnel.csrclient import BATCH_MAX

log = logging.getLogger("ztunnel.certs")

IN_FLIGHT_MAX: Final = 8
SIGN_TIMEOUT_S: Final = 10.0
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 150.0
BACKOFF_JITTER: Final = 0.2
RENEW_AT: Final = 0.5  # of the lifetime
RENEW_JITTER: Final = 0.1  # of that
LOOK_AGAIN_S: Final = 60.0  # the wall clock may be set: due times are compared at least this often
OWN: Final = ""
"""Stands for our own identity, the one istiod knows the caller by."""


class Priority(enum.IntEnum):
    """What a renewal, a pod that starts, a waiting connection and our own certificate are worth."""

    BACKGROUND = 0
    WARMUP = 1
    REAL_TIME = 2
    OWN = 3


class Signer(Protocol):
    """As meshcore.stream.SigningClient."""

    async def sign(
        self, csr_pem: str, identity: str = "", ttl_seconds: int = 0, *, timeout: float = SIGN_TIMEOUT_S
    ) -> list[str]: ...


class Issued(msgspec.Struct, frozen=True):
    """A certificate in use. `chain_pem` is leaf first, without the root."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    bundle_id: int
    key_pem: bytes

    @property
    def chain_pem(self) -> str:
        return "".join(each.pem for each in self.chain)

    def __repr__(self) -> str:
        return f"Issued({self.leaf.uris}, serial {self.leaf.serial})"


class Entry:
    """One identity, `uri` OWN for ours. `issued` is None until the first certificate came."""

    __slots__ = ("attempts", "cert_id", "due", "error", "issued", "priority", "under_way", "uri", "users")

    def __init__(self, cert_id: int, uri: str, priority: Priority) -> None:
        self.cert_id = cert_id
        self.uri = uri
        self.priority = priority
        self.users = 0
        self.issued: Issued | None = None
        self.due = 0.0
        self.under_way = False
        self.attempts = 0  # failures in a row
        self.error = ""

    @property
    def name(self) -> str:
        return self.uri or "this ztunnel"


def wall_clock() -> float:
    return datetime.now(UTC).timestamp()


class Certificates:
    """Gets and renews certificates; `run` does the work until it is cancelled.

    `on_issued(entry)`: a certificate came or was renewed; `on_forgotten(entry)`: its last pod left.
    """

    def __init__(
        self,
        signer: Signer,
        make_keys: Callable[[Sequence[str]], Awaitable[list[KeyRequest]]],
        *,
        own_uri: str,
        ttl: float,
        on_issued: Callable[[Entry], None],
        on_forgotten: Callable[[Entry], None],
        now: Callable[[], float] = wall_clock,
    ) -> None:
        self.own = Entry(0, OWN, Priority.OWN)
        self.bundles: dict[int, str] = {}
        """Bundle id -> PEM of the trust anchors; ids are never used again."""
        self._bundle_ids: dict[str, int] = {}
        self._roots: dict[str, tuple[x509.Certificate, ...]] = {}
        self._signer = signer
        self._make_keys = make_keys
        self._own_uri = own_uri
        self._ttl = max(1, round(ttl))
        self._on_issued = on_issued
        self._on_forgotten = on_forgotten
        self._now = now
        self._entries: dict[str, Entry] = {OWN: self.own}
        self._by_id: dict[int, Entry] = {}
        self._next_id = 1
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._own_ready = asyncio.Event()

    # Who needs one

    def acquire(self, identity: Identity) -> int:
        """A pod with this identity starts -> the id that workers know its certificate by."""
        entry = self._entries.get(str(identity))
        if entry is None:
            entry = Entry(self._next_id, str(identity), Priority.WARMUP)
            self._next_id += 1
            self._entries[entry.uri] = entry
            self._by_id[entry.cert_id] = entry
            self._wake.set()
        entry.users += 1
        return entry.cert_id

    def release(self, cert_id: int) -> None:
        """A pod with this certificate left; after the last one it is forgotten, also what is being signed."""
        entry = self._by_id[cert_id]
        entry.users -= 1
        if not entry.users:
            del self._by_id[cert_id], self._entries[entry.uri]
            self._on_forgotten(entry)

    def need(self, cert_id: int) -> bool:
        """A connection needs it: if it was not asked for yet, it goes before the others.

        True while the first one is under way, so that waiting makes sense; False when it is there, or has failed.
        """
        entry = self._by_id.get(cert_id)
        if entry is None or entry.issued is not None:
            return False
        entry.priority = max(entry.priority, Priority.REAL_TIME)
        return not entry.error

    async def own_ready(self) -> None:
        """Wait for the first certificate of our own. The caller bounds or cancels it."""
        await self._own_ready.wait()

    @property
    def own_identity(self) -> tuple[str, bytes] | None:
        """(chain PEM, key PEM) to show to istiod; None while there is none that is valid."""
        issued = self.own.issued
        if issued is None or issued.leaf.not_after <= self._now():
            return None
        return issued.chain_pem, issued.key_pem

    def issued(self) -> list[Entry]:
        """Entries of pods that have a certificate."""
        return [entry for entry in self._by_id.values() if entry.issued is not None]

    def entries(self) -> list[Entry]:
        """Entries of pods, by identity."""
        return sorted(self._by_id.values(), key=lambda entry: entry.uri)

    # Work

    async def run(self) -> None:
        """Ask for what is due, for ever."""
        try:
            while True:
                self._wake.clear()
                due = self._due()
                if due:
                    await self._start(due)
                else:
                    await self._sleep()
        finally:
            for task in self._tasks:
                task.cancel()

    def _due(self) -> list[Entry]:
        now = self._now()
        due = [entry for entry in self._entries.values() if not entry.under_way and entry.due <= now]
        due.sort(key=lambda entry: (-entry.priority, entry.due))
        return due[:BATCH_MAX]

    async def _sleep(self) -> None:
        waits = [entry.due - self._now() for entry in self._entries.values() if not entry.under_way]
        try:
            async with asyncio.timeout(max(0.0, min([*waits, LOOK_AGAIN_S]))):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start(self, due: list[Entry]) -> None:
        """Have keys made for all that is due and hand them to signing, the most urgent first."""
        for entry in due:
            entry.under_way = True
        try:
            requests = await self._make_keys([entry.uri or self._own_uri for entry in due])
        except MeshError as error:
            for entry in due:
                self._failed(entry, error)
            return
        waiting = sorted(zip(due, requests, strict=True), key=lambda pair: -pair[0].priority)
        for entry, request in waiting:
            await self._slots.acquire()
            task = asyncio.create_task(self._sign(entry, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _sign(self, entry: Entry, request: KeyRequest) -> None:
        try:
            if self._entries.get(entry.uri) is not entry:
                return
            chain = await self._signer.sign(request.csr_pem, entry.uri, self._ttl, timeout=SIGN_TIMEOUT_S)
            issued = self._accept(entry, chain, request.key_pem)
        except MeshError as error:
            self._failed(entry, error)
        else:
            self._succeeded(entry, issued)
        finally:
            self._slots.release()
            self._wake.set()

    def _accept(self, entry: Entry, answer: list[str], key_pem: bytes) -> Issued:
        """Check what istiod sent. Raises CertificateError."""
        chain = tuple(certificate for text in answer[:-1] for certificate in x509.parse_all(text))
        roots = self._roots.get(answer[-1])
        if roots is None:  # many certificates share them
            roots = self._roots[answer[-1]] = tuple(x509.parse_all(answer[-1]))
        leaf = chain[0]
        if entry.uri and leaf.uris[:1] != (entry.uri,):
            raise CertificateError(f"istiod signed {leaf.uris[:1]} instead of {entry.uri}")
        if leaf.not_after <= self._now():
            raise CertificateError("istiod sent a certificate that has expired: compare the clocks")
        text = "".join(each.pem for each in roots)
        bundle_id = self._bundle_ids.setdefault(text, len(self._bundle_ids) + 1)
        self.bundles[bundle_id] = text
        return Issued(leaf, chain, roots, bundle_id, key_pem)

    def _succeeded(self, entry: Entry, issued: Issued) -> None:
        entry.under_way = False
        if self._entries.get(entry.uri) is not entry:
            return  # its last pod left meanwhile
        renewed = entry.issued is not None
        entry.issued, entry.attempts, entry.error = issued, 0, ""
        entry.due = self._renewal(issued.leaf)
        entry.priority = Priority.OWN if entry is self.own else Priority.BACKGROUND
        word = "renewed" if renewed else "got"
        log.info("%s the certificate of %s, valid until %s", word, entry.name, x509.rfc3339(issued.leaf.not_after))
        self._on_issued(entry)
        if entry is self.own:
            self._own_ready.set()

    def _renewal(self, leaf: x509.Certificate) -> float:
        """Half of its life, with jitter, so that what was issued together is not renewed together."""
        now = self._now()
        share = RENEW_AT * random.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER)
        due = leaf.not_before + share * (leaf.not_after - leaf.not_before)
        # CAs date certificates back by minutes: half of a short life would be over before it began.
        return max(due, now + share * (leaf.not_after - now), now + BACKOFF_MIN_S)

    def _failed(self, entry: Entry, error: MeshError) -> None:
        entry.under_way = False
        if self._entries.get(entry.uri) is not entry:
            return
        entry.attempts += 1
        changed, entry.error = str(error) != entry.error, str(error)
        delay = min(BACKOFF_MIN_S * 2.0 ** min(entry.attempts - 1, 16), BACKOFF_MAX_S)
        delay *= random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        entry.due = self._now() + delay
        if entry.issued is not None and entry.issued.leaf.not_after > self._now():
            entry.due = min(entry.due, entry.issued.leaf.not_after)
        level = logging.WARNING if changed else logging.DEBUG
        hint = " (is the token in AUTH_TOKEN valid?)" if isinstance(error, AuthenticationError) else ""
        log.log(level, "no certificate for %s: %s%s; trying again in %.0f s", entry.name, error, hint, delay)

    # What admin shows

    def dump(self) -> list[dict[str, object]]:
        """`certificates` of config_dump."""
        return [_shown(entry, self._now()) for entry in self.entries()]


def _shown(entry: Entry, now: float) -> dict[str, object]:
    issued = entry.issued
    if issued is None:
        state = f"Unavailable: {entry.error}" if entry.error else "Initializing"
        return {"identity": entry.uri, "state": state, "certChain": [], "rootCerts": []}
    state = "Available" if issued.leaf.not_after > now else f"Unavailable: expired; {entry.error or 'being renewed'}"
    return {
        "identity": entry.uri,
        "state": state,
        "certChain": [_shown_certificate(each) for each in issued.chain],
        "rootCerts": [_shown_certificate(each) for each in issued.roots],
    }


def _shown_certificate(certificate: x509.Certificate) -> dict[str, str]:
    import base64

    return {
        "pem": base64.b64encode(certificate.pem.encode()).decode(),
        "serialNumber": str(certificate.serial),
        "validFrom": x509.rfc3339(certificate.not_before),
        "expirationTime": x509.rfc3339(certificate.not_after),
    }
