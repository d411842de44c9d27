"""The CA as the rest of istiod sees it: the material of the moment, and who wants to hear when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Self

from cryptography import x509

from istiod.ca import pem
from istiod.ca.authority import Authority, Lifetimes
from istiod.ca.material import Material, SelfSigned
from istiod.ca.sources import RootRule, Source, StateDirectory
from meshcore.errors import ConfigError, MeshError
from meshcore.identity import Identity

log = logging.getLogger("istiod.ca")

Listener = Callable[[Authority], None]


class CertificateAuthority:
    """Signs with what its source last gave in good order. New material replaces the old in one step."""

    def __init__(self, source: Source, material: Material, lifetimes: Lifetimes) -> None:
        self._source = source
        self._lifetimes = lifetimes
        self._listeners: list[Listener] = []
        self._said = ""
        self._loading = asyncio.Lock()
        self.current = Authority(material, lifetimes)
        _warn_overdue(material)

    @classmethod
    async def open(cls, source: Source, lifetimes: Lifetimes) -> Self:
        """With what the source holds now; raises the source's MeshError: without a CA there is nothing to serve."""
        return cls(source, await source.load(), lifetimes)

    def on_change(self, listener: Listener) -> None:
        """`listener` is called in the event loop with the new authority, after it has become `current`."""
        self._listeners.append(listener)

    def sign(self, csr_pem: str, identity: Identity, ttl_seconds: int, *, node: str = "") -> list[str]:
        """`Authority.sign` of the moment."""
        return self.current.sign(csr_pem, identity, ttl_seconds, node=node)

    def serving(self, names: Iterable[str]) -> tuple[str, bytes]:
        """`Authority.serving` of the moment."""
        return self.current.serving(names)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the source until `stop` is set."""
        async for _ in self._source.changes(stop):
            await self.refresh()

    async def refresh(self) -> bool:
        """Load again; True if there is new material. What cannot be used is logged once and changes nothing."""
        async with self._loading:
            fault = ""
            material = self.current.material
            try:
                material = await self._source.load()
                _check_roots(self.current.material, material, self._source.root_rule)
            except (MeshError, OSError) as exc:
                fault = str(exc)
            self._say(fault)
            if fault or material.same(self.current.material):
                return False
            self._take(material)
            return True

    def _take(self, material: Material) -> None:
        self.current = Authority(material, self._lifetimes)
        log.info(
            "new CA material: %s until %s, %d roots, revocations: %s",
            pem.name_of(material.certificate),
            material.certificate.not_valid_after_utc.isoformat(),
            len(material.roots),
            "yes" if material.revocations.pem else "no",
        )
        _warn_overdue(material)
        for listener in tuple(self._listeners):
            try:
                listener(self.current)
            except Exception:
                log.exception("BUG: a listener of the CA failed")

    def _say(self, fault: str) -> None:
        """What is newly wrong, once, and that it is right again."""
        if fault and fault != self._said:
            log.error("%s; the CA in use stays in force", fault)
        elif self._said and not fault:
            log.info("the CA's source is in order again")
        self._said = fault


def self_signed(
    state_dir: str, trust_domain: str, ca_ttl: timedelta, default_ttl: timedelta, max_ttl: timedelta
) -> Authority:
    """The CA kept in `state_dir` as it is now, made on first use. Raises ConfigError if its files do not fit."""
    source = StateDirectory(state_dir, SelfSigned(trust_domain, ca_ttl))
    return Authority(source.read(), Lifetimes(default_ttl, max_ttl))


def _check_roots(old: Material, new: Material, rule: RootRule) -> None:
    before, after = frozenset(old.roots), frozenset(new.roots)
    if rule is RootRule.ANY or before == after:
        return
    change = f"the root bundle changes from {_names(before)} to {_names(after)}"
    if rule is RootRule.SAME:
        raise ConfigError(f"{change}, which is only accepted with ISTIO_MULTIROOT_MESH=true, or at a restart")
    if not (before <= after or after <= before):
        raise ConfigError(f"{change}: it must contain the one in use, or be contained in it; add the new root first")


def _names(roots: Iterable[x509.Certificate]) -> str:
    return ", ".join(sorted(f"{pem.name_of(c)!r} (serial {c.serial_number:x})" for c in roots))


def _warn_overdue(material: Material) -> None:
    if material.revocations.overdue:
        log.warning("the revocation list of %s is out of date; it stays in force", material.revocations.overdue)
