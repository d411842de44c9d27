"""The Secret of Kubernetes. What it holds is shown by no repr, and so by no log."""

from __future__ import annotations

import base64
import binascii

import msgspec

from istiod.objects.base import Meta, Object


class Secret(Object, frozen=True):
    """`data` holds base64 text; `string_data`, which files may use, holds plain text and wins."""

    metadata: Meta
    type: str = "Opaque"
    data: dict[str, str] = msgspec.field(default_factory=dict)
    string_data: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        keys = ", ".join(sorted({*self.data, *self.string_data}))
        return f"Secret({self.metadata.namespace}/{self.metadata.name}: {keys})"

    def value(self, key: str) -> bytes:
        """The bytes under a key; empty if there are none, or if they are no base64."""
        if key in self.string_data:
            return self.string_data[key].encode()
        try:
            return base64.b64decode(self.data.get(key, ""), validate=True)
        except (binascii.Error, ValueError):
            return b""
