"""Where the CA comes from: a mounted directory, the state directory, a Kubernetes Secret."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec
import watchfiles

from istiod.ca import material as m
from istiod.ca import pem
from istiod.ca.material import Material, SelfSigned
from meshcore.errors import ConfigError, DeadlineExceeded, MeshError, Unavailable
from meshcore.manifests import write_atomic

FILE_BYTES_MAX: Final = 2**20
"""Kubernetes allows a Secret no more."""
QUIET_MS: Final = 100
"""Files that change together are read once they have been left alone for this long (upstream's debounce)."""
DEBOUNCE_MAX_MS: Final = 1000
POLL_S: Final = 2.0
"""A directory is read again at least this often: some file systems report no changes."""
SELF_SIGNED_NAME: Final = "istio-ca-secret"
CACERTS_NAME: Final = "cacerts"
"""With USE_CACERTS_FOR_SELF_SIGNED_CA=true."""
CA_ROOT_TYPE: Final = "istio.io/ca-root"
SECRET_TIMEOUT_S: Final = 30.0
SECRET_ATTEMPTS: Final = 5
"""Each lost race means that another istiod wrote; the next reading then finds nothing left to do."""


class RootRule(enum.Enum):
    """Which change of the trust bundle is taken over while istiod runs."""

    ANY = "any"
    """The CA is istiod's own."""
    SAME = "same"
    RELATED = "related"
    """The new bundle contains the old one, or the old one the new: roots come and go one after the other."""


class Source(Protocol):
    root_rule: RootRule

    async def load(self) -> Material:
        """What stands there now; raises a MeshError that names the place and the cause."""

    def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Yields whenever it is time to load again, until `stop` is set."""


class PluggedIn:
    """A CA that a user mounts: the files of `material.LAYOUTS` and, if there is one, ca-crl.pem."""

    def __init__(self, folder: str, *, multiroot: bool = False) -> None:
        self.folder = Path(folder)
        self.root_rule = RootRule.RELATED if multiroot else RootRule.SAME
        self._read: tuple[bytes, Material] | None = None

    def read(self) -> Material:
        files = read_files(self.folder)
        digest = hashlib.sha256(msgspec.msgpack.encode(files)).digest()
        if self._read is None or self._read[0] != digest:  # a long revocation list takes its time
            self._read = digest, m.from_files(files, str(self.folder))
        return self._read[1]

    async def load(self) -> Material:
        return await asyncio.to_thread(self.read)

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        while not stop.is_set():
            with suppress(OSError):  # the directory is away for now
                async for _ in watchfiles.awatch(
                    self.folder,
                    watch_filter=None,
                    step=QUIET_MS,
                    debounce=DEBOUNCE_MAX_MS,
                    stop_event=stop,
                    rust_timeout=int(POLL_S * 1000),
                    yield_on_timeout=True,
                ):
                    yield
            await pause(POLL_S, stop)
            if not stop.is_set():
                yield


class StateDirectory:
    """A self-signed CA in istiod's own directory; the key is readable by its owner only."""

    root_rule = RootRule.ANY

    def __init__(self, folder: str, rules: SelfSigned, *, check_interval: float = 3600.0) -> None:
        self.folder = Path(folder)
        self._rules = rules
        self._check_interval = check_interval
        self._held: Material | None = None

    def read(self) -> Material:
        """The CA that is kept there, made on first use; raises ConfigError if its files do not fit together."""
        where = str(self.folder)
        files = {name: data for name, data in read_files(self.folder).items() if name in (m.KEY, m.CERT, m.ROOTS)}
        if m.KEY in files and m.ROOTS in files:
            # The published bundle may be that of a plugged-in CA which istiod had before: only our own roots count.
            own = pem.parse_key(files[m.KEY], f"{where}/{m.KEY}").public_key()
            bundle = pem.parse_certificates(files[m.ROOTS], f"{where}/{m.ROOTS}")
            files[m.ROOTS] = pem.bundle_pem(c for c in bundle if c.public_key() == own).encode()
        material, written = self._rules.settle(files, self._held, where)
        for name, data in written.items():
            if files.get(name) != data:
                write_atomic(self.folder / name, data, 0o600 if name == m.KEY else 0o644)
        self._held = material
        return material

    async def load(self) -> Material:
        return await asyncio.to_thread(self.read)

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        async for _ in now_and_then(self._check_interval, stop):
            yield


class SecretConflict(MeshError, code="ca.secret_conflict", retryable=True):
    """The Secret was created or changed by another process since it was read."""


class Secret(msgspec.Struct, frozen=True):
    """`version` is the API server's resourceVersion, empty before it is created."""

    name: str
    type: str
    data: dict[str, bytes]
    version: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, version={self.version!r})"


class SecretStore(Protocol):
    """Secrets of istiod's own namespace. Every call has a timeout and raises Unavailable if the API server is."""

    async def get(self, name: str) -> Secret | None: ...

    async def create(self, secret: Secret) -> None:
        """Raises SecretConflict if there is one of this name."""

    async def update(self, secret: Secret) -> None:
        """Replace; raises SecretConflict unless `secret.version` is the current one."""


class SecretSource:
    """A self-signed CA in a Secret that all istiods of a cluster use: the first creates it, one of them renews it."""

    root_rule = RootRule.ANY

    def __init__(
        self, store: SecretStore, rules: SelfSigned, *, name: str = SELF_SIGNED_NAME, check_interval: float = 3600.0
    ) -> None:
        self._store = store
        self._rules = rules
        self._name = name
        self._check_interval = check_interval
        self._held: Material | None = None

    async def load(self) -> Material:
        try:
            async with asyncio.timeout(SECRET_TIMEOUT_S):
                for _ in range(SECRET_ATTEMPTS):
                    with suppress(SecretConflict):
                        self._held = await self._settle()
                        return self._held
        except TimeoutError:
            raise DeadlineExceeded(f"Secret {self._name}: no answer within {SECRET_TIMEOUT_S:g} s") from None
        raise Unavailable(f"Secret {self._name}: lost {SECRET_ATTEMPTS} races against other writers")

    async def _settle(self) -> Material:
        secret = await self._store.get(self._name)
        data = secret.data if secret is not None else None
        material, written = self._rules.settle(data, self._held, f"Secret {self._name}")
        if written and secret is None:
            await self._store.create(Secret(self._name, CA_ROOT_TYPE, written))
        elif written and secret is not None:
            await self._store.update(msgspec.structs.replace(secret, data=secret.data | written))
        return material

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        async for _ in now_and_then(self._check_interval, stop):
            yield


def read_files(folder: Path) -> Mapping[str, bytes]:
    """The files of a CA that there are. Of a mounted Secret, all come from the same version of it.

    Raises ConfigError naming the file. The kubelet swaps the symbolic link `..data` when the Secret changes: it is
    followed once.
    """
    base = folder / "..data"
    base = base.resolve() if base.is_symlink() else folder
    found: dict[str, bytes] = {}
    for name in m.FILES:
        try:
            with (base / name).open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ConfigError(f"{folder / name}: {exc.strerror}") from None
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(f"{folder / name}: is longer than {FILE_BYTES_MAX} bytes")
        found[name] = data
    return found


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait that long, or until `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def now_and_then(interval: float, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields every `interval` seconds on average: several istiods should not check at the same moment."""
    while not stop.is_set():
        await pause(interval * random.uniform(0.5, 1.5), stop)
        if not stop.is_set():
            yield
