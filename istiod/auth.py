"""Who calls, and which identity the caller may be given.

Two credentials count: a client certificate of this mesh and, outside Kubernetes, a bootstrap token (a JWT bound to a
node). A node proxy's certificate stays bound to its node by the DNS name `node.NODE.ambient` in it, which only the CA
writes. What a caller is told about a refusal is the same for every reason; the reason goes to istiod's log.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
import msgspec

from istiod import objects
from istiod.ca import node_of
from meshcore.errors import AuthenticationError, AuthorizationError, ConfigError, IdentityError
from meshcore.identity import Identity, parse
from meshcore.manifests import write_atomic
from meshcore.stream.server import Peer

log = logging.getLogger("istiod.auth")

AUDIENCE: Final = "istio-ca"
ISSUER: Final = "ambient-bootstrap"
ALGORITHM: Final = "HS256"
KEY_BYTES: Final = 32
TOKEN_CHARS_MAX: Final = 8192
_OPAQUE_CALLER: Final = "the caller could not be authenticated"
_OPAQUE_IDENTITY: Final = "the caller may not have this identity"


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller. `node` is set if the credential is bound to one."""

    identity: Identity
    node: str = ""

    @property
    def account(self) -> str:
        return f"{self.identity.namespace}/{self.identity.service_account}"


class TokenKey:
    """The secret behind bootstrap tokens, kept in the state directory."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "TokenKey(...)"

    @classmethod
    def load(cls, state_dir: str) -> TokenKey:
        """Read the key, or make it on first use; raises ConfigError if the file is not one of ours."""
        path = Path(state_dir) / "token-key"
        if not path.exists():
            temporary = path.with_name(f".token-key.{os.getpid()}")
            write_atomic(temporary, secrets.token_bytes(KEY_BYTES), 0o600)
            try:
                os.link(temporary, path)  # two processes may start at once: the first wins
            except FileExistsError:
                log.debug("the token key was made by another process")
            finally:
                temporary.unlink()
        secret = path.read_bytes()
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"{path}: does not hold a key of {KEY_BYTES} bytes; remove it to have a new one made")
        return cls(secret)

    def mint(self, account: str, node: str, ttl: timedelta) -> str:
        """A token for NAMESPACE/SERVICEACCOUNT on one node."""
        now = datetime.now(UTC)
        claims = {"iss": ISSUER, "sub": account, "node": node, "aud": AUDIENCE, "iat": now, "exp": now + ttl}
        return jwt.encode(claims, self._secret, ALGORITHM)

    def verify(self, token: str) -> tuple[str, str]:
        """Account and node of a token; raises AuthenticationError with the reason, which is not for the caller."""
        if len(token) > TOKEN_CHARS_MAX:
            raise AuthenticationError("the token is too long")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                [ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "sub", "aud", "iss"]},
            )
        except jwt.InvalidTokenError as exc:
            raise AuthenticationError(f"token: {exc}") from None
        account, node = claims["sub"], claims.get("node")
        if not isinstance(account, str) or account.count("/") != 1 or not isinstance(node, str) or not node:
            raise AuthenticationError("token: it does not name an account and a node")
        return account, node


class Authenticator:
    """Tells who a caller is."""

    def __init__(self, tokens: TokenKey, trust_domain: str, node_accounts: Iterable[str]) -> None:
        self._tokens = tokens
        self._trust_domain = trust_domain
        self._node_accounts = frozenset(node_accounts)

    def is_node(self, caller: Caller) -> bool:
        """A node proxy, whose node is known."""
        return caller.account in self._node_accounts and bool(caller.node)

    def certificate(self, peer: Peer) -> Caller:
        """The caller behind a client certificate, which TLS has verified against the mesh's roots."""
        identity = peer.identity
        reason = ""
        if identity is None:
            reason = "no client certificate"
        elif identity.trust_domain != self._trust_domain:
            reason = f"trust domain {identity.trust_domain}"
        elif peer.expired:
            reason = "the certificate has expired on the open connection"
        if identity is None or reason:
            raise _refused(peer, reason)
        caller = Caller(identity)
        if caller.account in self._node_accounts:
            caller = Caller(identity, node_of(peer.dns_names))
        return caller

    def any(self, peer: Peer, headers: Mapping[str, str]) -> Caller:
        """The caller behind a client certificate or, without one, behind a bootstrap token."""
        if peer.identity is not None:
            return self.certificate(peer)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refused(peer, "neither a client certificate nor a token")
        try:
            account, node = self._tokens.verify(token.strip())
        except AuthenticationError as exc:
            raise _refused(peer, str(exc)) from None
        namespace, name = account.split("/")
        return Caller(Identity(self._trust_domain, namespace, name), node)


class Authorizer:
    """Decides which identity a caller may be given."""

    def __init__(
        self, pods: Mapping[tuple[str, str], objects.Pod], authenticator: Authenticator, trust_domain: str
    ) -> None:
        self._pods = pods
        self._authenticator = authenticator
        self._trust_domain = trust_domain

    def grant(self, caller: Caller, wanted: str) -> Identity:
        """The caller's own identity, or for a node proxy that of a pod on its node; else AuthorizationError."""
        if not wanted:
            return caller.identity
        try:
            identity = parse(wanted)
        except IdentityError as exc:
            raise _denied(caller, wanted, str(exc)) from None
        if identity == caller.identity:
            return identity
        if identity.trust_domain != self._trust_domain:
            raise _denied(caller, wanted, "another trust domain")
        if not self._authenticator.is_node(caller):
            raise _denied(caller, wanted, "the caller is no node proxy")
        if not self._runs(identity, caller.node):
            raise _denied(caller, wanted, f"no running pod on {caller.node} uses this service account")
        return identity

    def _runs(self, identity: Identity, node: str) -> bool:
        return any(
            pod.spec.node_name == node
            and pod.metadata.namespace == identity.namespace
            and (pod.spec.service_account_name or "default") == identity.service_account
            and not pod.finished
            for pod in self._pods.values()
        )


def _refused(peer: Peer, reason: str) -> AuthenticationError:
    log.warning("caller %s refused: %s", peer.address, reason)
    return AuthenticationError(_OPAQUE_CALLER)


def _denied(caller: Caller, wanted: str, reason: str) -> AuthorizationError:
    log.warning("%s on node %r asked for %r: refused: %s", caller.identity, caller.node, wanted[:300], reason)
    return AuthorizationError(_OPAQUE_IDENTITY)
