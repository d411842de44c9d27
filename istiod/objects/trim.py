"""What of an object is not kept, although its type has a place for it: it may be large, and nobody reads it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from istiod.objects.core import ConfigMap
from istiod.objects.secrets import Secret

_OURS: Final = "istio.io/"
_CONFIG_KEYS: Final = frozenset({"mesh", "meshNetworks", "ca.crt", "root-cert.pem"})
_SECRET_KEYS: Final = frozenset(
    {"tls.crt", "tls.key", "ca.crt", "ca.crl", "tls.ocsp-staple", "cert", "key", "cacert", "crl"}
)


def trimmed(value: Any) -> Any:
    """The object without annotations that are not Istio's and without data under keys that are not read."""
    meta = value.metadata
    if any(_OURS not in key for key in meta.annotations):
        kept = {key: text for key, text in meta.annotations.items() if _OURS in key}
        value = msgspec.structs.replace(value, metadata=msgspec.structs.replace(meta, annotations=kept))
    if isinstance(value, ConfigMap):
        return _with_keys(value, "data", _CONFIG_KEYS)
    if isinstance(value, Secret):
        return _with_keys(_with_keys(value, "data", _SECRET_KEYS), "string_data", _SECRET_KEYS)
    return value


def _with_keys(value: Any, field: str, keys: frozenset[str]) -> Any:
    held: dict[str, str] = getattr(value, field)
    if keys.issuperset(held):
        return value
    return msgspec.structs.replace(value, **{field: {key: data for key, data in held.items() if key in keys}})
