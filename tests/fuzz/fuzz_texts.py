"""Fuzz entry of the small texts that arrive from outside: admin requests, baggage, SPIFFE URIs, certificates."""

from __future__ import annotations

import contextlib

from meshcore import identity
from meshcore.errors import MeshError
from ztunnel import baggage, http, x509

SEEDS = (
    b"GET /config_dump HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n",
    b"POST /logging?level=debug HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
    b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web",
    b"spiffe://cluster.local/ns/shop/sa/web",
    b"-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n",
)


def fuzz_one(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(MeshError):
        http.parse_head(data)
    with contextlib.suppress(MeshError):
        x509.parse_all(text)
    with contextlib.suppress(MeshError):
        parsed = identity.parse(text)
        assert identity.parse(str(parsed)) == parsed
    baggage.parse(text)
