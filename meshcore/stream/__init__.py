"""The control-plane stream: delta configuration and certificate signing over HTTP/2 and TLS 1.3, port 15012.

Clients import from here; the accepting side is `meshcore.stream.server`.
"""

from __future__ import annotations

from meshcore.stream.client import DeltaClient, DeltaStats, SigningClient
from meshcore.stream.h2rpc import DEFAULT_LIMITS, Limits
from meshcore.stream.messages import (
    CONFIG_PATH,
    SIGN_PATH,
    DeltaRequest,
    DeltaResponse,
    ErrorBody,
    Node,
    Resource,
    SignRequest,
    SignResponse,
)
from meshcore.stream.tls import client_context

__all__ = [
    "CONFIG_PATH",
    "DEFAULT_LIMITS",
    "SIGN_PATH",
    "DeltaClient",
    "DeltaRequest",
    "DeltaResponse",
    "DeltaStats",
    "ErrorBody",
    "Limits",
    "Node",
    "Resource",
    "SignRequest",
    "SignResponse",
    "SigningClient",
    "client_context",
]
