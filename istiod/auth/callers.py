"""Who calls: a client certificate of this mesh, else a token that one of the configured methods accepts.

A node proxy's certificate stays bound to its node by the DNS name `node.NODE.ambient` in it, which only the CA writes.
What a caller is told about a refusal is the same for every reason; the reasons go to istiod's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from istiod.ca import node_of
from meshcore.errors import AuthenticationError, MeshError
from meshcore.identity import Identity
from meshcore.stream.server import Peer

log = logging.getLogger("istiod.auth")

TOKEN_CHARS_MAX: Final = 8192
REASON_CHARS_MAX: Final = 300
_OPAQUE: Final = "the caller could not be authenticated"


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller. `node` is set if the credential is bound to one; `cluster` is empty for istiod's own."""

    identity: Identity
    node: str = ""
    cluster: str = ""

    @property
    def account(self) -> str:
        return f"{self.identity.namespace}/{self.identity.service_account}"


class TokenMethod(Protocol):
    """One way to verify a bearer token."""

    name: str

    async def caller(self, token: str, headers: Mapping[str, str]) -> Caller:
        """Raises a MeshError with the reason, which is for the log only."""


class Authenticator:
    """Tells who a caller is. Identities of an alias trust domain become those of the local one."""

    def __init__(
        self,
        trust_domain: str,
        node_accounts: Iterable[str],
        methods: Sequence[TokenMethod] = (),
        *,
        aliases: Iterable[str] = (),
    ) -> None:
        self._trust_domain = trust_domain
        self._accepted = frozenset((trust_domain, *aliases))
        self.node_accounts = frozenset(node_accounts)
        self._methods = tuple(methods)

    def is_node(self, caller: Caller) -> bool:
        """A node proxy, whose node is known."""
        return caller.account in self.node_accounts and bool(caller.node)

    def certificate(self, peer: Peer) -> Caller:
        """The caller behind a client certificate, which TLS has verified; AuthenticationError without one."""
        try:
            return self._by_certificate(peer)
        except AuthenticationError as exc:
            raise _refused(peer, [str(exc)]) from None

    async def authenticate(self, peer: Peer, headers: Mapping[str, str]) -> Caller:
        """The caller behind a client certificate or a bearer token, the first that holds; else AuthenticationError."""
        reasons: list[str] = []
        try:
            return self._by_certificate(peer)
        except AuthenticationError as exc:
            reasons.append(str(exc))
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _refused(peer, [*reasons, "no token"])
        if len(token) > TOKEN_CHARS_MAX:
            raise _refused(peer, [*reasons, f"the token is longer than {TOKEN_CHARS_MAX} characters"])
        for method in self._methods:
            try:
                return await method.caller(token, headers)
            except MeshError as exc:
                reasons.append(f"{method.name}: {exc}")
        raise _refused(peer, reasons)

    def _by_certificate(self, peer: Peer) -> Caller:
        identity = peer.identity
        if identity is None:
            raise AuthenticationError("no client certificate")
        if identity.trust_domain not in self._accepted:
            raise AuthenticationError(f"client certificate: trust domain {identity.trust_domain}")
        if peer.expired:
            raise AuthenticationError("client certificate: it has expired on the open connection")
        caller = Caller(identity._replace(trust_domain=self._trust_domain))
        if caller.account in self.node_accounts:
            return Caller(caller.identity, node_of(peer.dns_names))
        return caller


def _refused(peer: Peer, reasons: Iterable[str]) -> AuthenticationError:
    log.warning("caller %s refused: %s", peer.address, "; ".join(r[:REASON_CHARS_MAX] for r in reasons))
    return AuthenticationError(_OPAQUE)
