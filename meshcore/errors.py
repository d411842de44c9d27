"""Every error this project raises on purpose; one leaf per thing a caller does differently."""

from __future__ import annotations

import enum
import errno
import os
from typing import ClassVar


class Side(enum.StrEnum):
    """Which side of the proxy caused the error."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    LOCAL = "local"


class MeshError(Exception):
    """Root of the tree. `code` is stable: the metrics label and the access-log field."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    _codes: ClassVar[set[str]] = {"internal"}

    def __init_subclass__(cls, *, code: str, retryable: bool = False) -> None:
        if code in MeshError._codes:
            raise TypeError(f"{cls.__name__}: error code {code!r} is already taken")
        MeshError._codes.add(code)
        cls.code, cls.retryable = code, retryable

    def __init__(self, msg: str, *, side: Side = Side.LOCAL) -> None:
        super().__init__(msg)
        self.side = side


class ConfigError(MeshError, code="config.invalid"):
    """A setting or an object that a user wrote cannot be used; the text names where it stands."""


class IdentityError(MeshError, code="identity.invalid"):
    """A text that should be a SPIFFE identity is not one."""


class ProtocolError(MeshError, code="protocol"):
    """A peer broke the rules of a wire protocol."""


class AuthenticationError(MeshError, code="auth.unauthenticated"):
    """The caller did not prove who it is."""


class AuthorizationError(MeshError, code="auth.denied"):
    """The caller is known and may not do this."""


class CertificateError(MeshError, code="certificate.invalid"):
    """A CSR, a certificate or a key cannot be used."""


class Unavailable(MeshError, code="unavailable", retryable=True):
    """A peer cannot be reached or is not ready; the same call may succeed later."""


class DeadlineExceeded(MeshError, code="deadline", retryable=True):
    """A wait reached its limit."""


class NamespaceError(MeshError, code="netns"):
    """A network namespace cannot be entered, or its rules cannot be changed."""


_BY_ERRNO: dict[int, type[MeshError]] = {
    errno.ECONNREFUSED: Unavailable,
    errno.ETIMEDOUT: DeadlineExceeded,
    errno.EPROTO: ProtocolError,
}


def raise_rc(rc: int, what: str) -> None:
    """Turn a negative C return code into an exception; the one place where that happens."""
    if rc == -errno.ENOMEM:
        raise MemoryError(what)
    if rc < 0:
        raise _BY_ERRNO.get(-rc, MeshError)(f"{what}: {os.strerror(-rc)}")
