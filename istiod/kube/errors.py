"""What the API server answered, as errors; one leaf per thing a caller does differently."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from meshcore.errors import MeshError

TEXT_CHARS_MAX: Final = 500
"""Of a server's message: some quote whole objects."""
RETRY_AFTER_MAX_S: Final = 60.0


class KubeError(MeshError, code="kube.api"):
    """The API server refused a request. `status` is the HTTP code, `reason` the Status object's, `retry_after`
    the seconds that the server asked to wait (0: it did not say).
    """

    def __init__(self, msg: str, *, status: int = 0, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(msg)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Unauthorized(KubeError, code="kube.unauthorized"):
    """401: the credentials are not accepted (a token may have expired)."""


class Forbidden(KubeError, code="kube.forbidden"):
    """403: the account lacks a role for this."""


class NotFound(KubeError, code="kube.not_found"):
    """404: no such object, or the server does not know the kind at all."""


class Conflict(KubeError, code="kube.conflict"):
    """409: the object changed since it was read, or another field manager owns a field."""


class AlreadyExists(KubeError, code="kube.already_exists"):
    """409 of a create: the name is taken."""


class Gone(KubeError, code="kube.gone"):
    """410: the resource version or the continue token is too old; list again."""


class Invalid(KubeError, code="kube.invalid"):
    """400, 415, 422: the server will never accept this object or request."""


class TooManyRequests(KubeError, code="kube.too_many_requests", retryable=True):
    """429: wait `retry_after` seconds."""


class ServerFailure(KubeError, code="kube.server", retryable=True):
    """5xx: the server, its storage or an admission webhook failed."""


_LEAVES: Final[dict[int, type[KubeError]]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
}


class Request(NamedTuple):
    """What was asked, for error texts: `verb` is the API's (get, list, watch, create, update, patch, delete)."""

    verb: str
    resource: str
    """plural.group, and /subresource"""

    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        where = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.verb} {self.resource} {where}".rstrip()


class _Details(msgspec.Struct):
    retry_after: float = msgspec.field(name="retryAfterSeconds", default=0.0)


class Status(msgspec.Struct):
    """A `v1.Status`, the fields that matter."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


def decode_status(body: bytes | msgspec.Raw, http_status: int) -> Status:
    """The Status in a body. A body that holds none (a proxy's page, `404 page not found`) becomes the message."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        status = Status()
    if status.kind != "Status":
        status = Status(message=bytes(body)[: 4 * TEXT_CHARS_MAX].decode("utf-8", "replace").strip())
    status.code = status.code or http_status
    return status


def error_of(request: Request, status: Status, *, retry_after: str | None = None) -> KubeError:
    """The leaf for a refused request; `retry_after` is the header, in seconds."""
    leaf = _LEAVES.get(status.code, ServerFailure if status.code >= 500 else KubeError)
    if status.reason == "AlreadyExists":
        leaf = AlreadyExists
    seconds = status.details.retry_after if status.details is not None else 0.0
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        seconds = max(seconds, float(retry_after[:6]))
    message = " ".join(status.message.split())[:TEXT_CHARS_MAX] or "no message"
    code = f"HTTP {status.code}, {status.reason}" if status.reason else f"HTTP {status.code}"
    return leaf(
        f"{request}: {message} ({code}){_hint(leaf, request)}",
        status=status.code,
        reason=status.reason,
        retry_after=min(max(seconds, 0.0), RETRY_AFTER_MAX_S),
    )


def _hint(leaf: type[KubeError], request: Request) -> str:
    if leaf is Forbidden:
        full_name, _, subresource = request.resource.partition("/")
        plural, _, group = full_name.partition(".")
        plural = f"{plural}/{subresource}" if subresource else plural
        return (
            f"; grant verb {request.verb!r} on resource {plural!r} of apiGroup {group!r} in a "
            f"{'Role or ClusterRole' if request.namespace else 'ClusterRole'} bound to this account"
        )
    if leaf is Unauthorized:
        return "; the token or certificate in use has expired or belongs to another cluster"
    return ""
