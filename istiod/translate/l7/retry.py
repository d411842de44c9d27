"""Retry policies: what a rule says, over what the mesh says, over Istio's default."""

from __future__ import annotations

from typing import Final

from istiod.objects.virtual_service import HttpRetry
from istiod.translate.l7.units import milliseconds
from meshcore.l7 import Protocol, Retry, RetryOn

TOKENS: Final = {
    "5xx": RetryOn.HTTP_5XX,
    "gateway-error": RetryOn.GATEWAY_ERROR,
    "reset": RetryOn.RESET,
    "reset-before-request": RetryOn.RESET_BEFORE_REQUEST,
    "connect-failure": RetryOn.CONNECT_FAILURE,
    "retriable-4xx": RetryOn.RETRIABLE_4XX,
    "refused-stream": RetryOn.REFUSED_STREAM,
    "retriable-status-codes": RetryOn.RETRIABLE_STATUS_CODES,
    "retriable-headers": RetryOn.RETRIABLE_HEADERS,
    "envoy-ratelimited": RetryOn.ENVOY_RATELIMITED,
    "http3-post-connect-failure": RetryOn.HTTP3_POST_CONNECT_FAILURE,
    "cancelled": RetryOn.GRPC_CANCELLED,
    "deadline-exceeded": RetryOn.GRPC_DEADLINE_EXCEEDED,
    "internal": RetryOn.GRPC_INTERNAL,
    "resource-exhausted": RetryOn.GRPC_RESOURCE_EXHAUSTED,
    "unavailable": RetryOn.GRPC_UNAVAILABLE,
}
DEFAULT: Final = Retry(
    attempts=2,
    on=(
        RetryOn.CONNECT_FAILURE
        | RetryOn.REFUSED_STREAM
        | RetryOn.GRPC_UNAVAILABLE
        | RetryOn.GRPC_CANCELLED
        | RetryOn.RETRIABLE_STATUS_CODES
    ),
)
"""Of a rule without `retries`. No status is retriable until one is named: a 503 of the destination is final."""
INBOUND_DEFAULT: Final = Retry(attempts=2, on=RetryOn.RESET_BEFORE_REQUEST)
"""Of a waypoint where no rule applies: only what cannot have reached the application."""
_BACKOFF_FACTOR: Final = 10
"""The longest wait, in base intervals (Envoy's default)."""


def outbound_retry(wanted: HttpRetry | None, mesh: HttpRetry | None) -> Retry | None:
    """The retries of a rule; None if there are none. What the mesh says is for rules that say nothing."""
    chosen = wanted or mesh
    return DEFAULT if chosen is None else _over(DEFAULT, chosen)


def inbound_retry(protocol: Protocol, mesh: HttpRetry | None) -> Retry | None:
    """The retries of the default rule; gRPC has none, because its servers may have begun to work."""
    if protocol is Protocol.GRPC:
        return None
    if mesh is None:
        return INBOUND_DEFAULT
    # of the mesh's setting only attempts, causes and backoff count here
    return _over(INBOUND_DEFAULT, HttpRetry(attempts=mesh.attempts, retry_on=mesh.retry_on, backoff=mesh.backoff))


def retry_on(text: str) -> tuple[RetryOn, tuple[int, ...]]:
    """The causes and the statuses in a list such as `5xx,reset,418`; unknown words are left out."""
    causes = RetryOn(0)
    statuses: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        if word.isascii() and word.isdigit():
            statuses.append(int(word[:4]))
        else:
            causes |= TOKENS.get(word, RetryOn(0))
    if statuses:
        causes |= RetryOn.RETRIABLE_STATUS_CODES
    return causes, tuple(dict.fromkeys(statuses))


def _over(base: Retry, wanted: HttpRetry) -> Retry | None:
    if wanted.attempts <= 0:
        return None
    causes, statuses = retry_on(wanted.retry_on) if wanted.retry_on else (base.on, base.statuses)
    backoff = milliseconds(wanted.backoff, base.backoff_base_ms)
    return Retry(
        attempts=wanted.attempts,
        on=causes,
        statuses=statuses,
        try_timeout_ms=milliseconds(wanted.per_try_timeout, base.try_timeout_ms),
        backoff_base_ms=backoff,
        backoff_max_ms=backoff * _BACKOFF_FACTOR,
        other_hosts=wanted.retry_ignore_previous_hosts,
        other_localities=wanted.retry_remote_localities,
    )
