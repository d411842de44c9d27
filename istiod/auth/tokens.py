"""Bootstrap tokens: outside Kubernetes, a JWT bound to a node is what a node proxy begins with."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt

from istiod.auth.callers import TOKEN_CHARS_MAX, Caller
from meshcore.errors import AuthenticationError, ConfigError
from meshcore.identity import Identity
from meshcore.manifests import write_atomic

log = logging.getLogger("istiod.auth")

AUDIENCE: Final = "istio-ca"
ISSUER: Final = "ambient-bootstrap"
ALGORITHM: Final = "HS256"
KEY_BYTES: Final = 32


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


class BootstrapTokens:
    """The method of `TokenKey`'s tokens."""

    name = "bootstrap token"

    def __init__(self, key: TokenKey, trust_domain: str) -> None:
        self._key = key
        self._trust_domain = trust_domain

    async def caller(self, token: str, headers: Mapping[str, str]) -> Caller:
        del headers
        account, node = self._key.verify(token)
        namespace, name = account.split("/")
        return Caller(Identity(self._trust_domain, namespace, name), node)
