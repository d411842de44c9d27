"""Published objects as xDS resources: encoded when the first proxy needs them, once per change, shared by all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import xxhash

from istiod.push import Published
from istiod.xds import encode
from istiod.xds.discovery import entry
from istiod.xds.index import Index
from meshcore.errors import MeshError
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.messages import Resource

log = logging.getLogger("istiod.xds")

WORKLOAD_TYPE: Final = "type.googleapis.com/istio.workload.Workload"
WARM_STEP: Final = 200
"""Resources encoded in one turn of the event loop: a few milliseconds."""

Encode = Callable[[Any], bytes | None]
_ENCODERS: Final[dict[str, Encode]] = {
    ADDRESS_TYPE: encode.encode_address,
    WORKLOAD_TYPE: lambda address: None if address.workload is None else encode.encode_workload(address.workload),
    AUTHORIZATION_TYPE: encode.encode_authorization,
}


class Encoded(Mapping[str, Resource]):
    """The resources of one type url, made of the published objects of `source`; with `index` also by their aliases.

    An entry is valid as long as the published version is the one it was made of, so no order of listeners matters.
    """

    def __init__(self, published: Published, source: str, type_url: str, index: Index | None = None) -> None:
        self.type_url = type_url
        self.source = source
        self._published = published
        self._index = index
        self._encode = _ENCODERS[type_url]
        self._made: dict[str, tuple[str, Resource | None]] = {}
        self._warming = asyncio.Lock()

    def __getitem__(self, name: str) -> Resource:
        found = self._real(name)
        if found is None and self._index is not None and (named := self._index.named(name)):
            found = self._under_alias(name, min(named))
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._published.resources[self.source])

    def __len__(self) -> int:
        return len(self._published.resources[self.source])

    @property
    def made(self) -> int:
        """How many are encoded now."""
        return len(self._made)

    def drop(self, names: Iterable[str]) -> None:
        """Forget what was made of names that changed or are gone."""
        for name in names:
            self._made.pop(name, None)

    async def warm(self) -> None:
        """Encode what is not yet encoded, in steps that leave the event loop to others."""
        async with self._warming:
            if len(self._made) >= len(self):
                return
            missing = [name for name in self if name not in self._made]
            for begin in range(0, len(missing), WARM_STEP):
                for name in missing[begin : begin + WARM_STEP]:
                    self._real(name)
                await asyncio.sleep(0)

    def _real(self, name: str) -> Resource | None:
        native = self._published.resources[self.source].get(name)
        if native is None:
            return None
        made = self._made.get(name)
        if made is None or made[0] != native.version:
            made = self._made[name] = (native.version, self._make(name, name))
        return made[1]

    def _under_alias(self, alias: str, name: str) -> Resource | None:
        """The same content under the name that was asked for: upstream's ztunnel waits for that name."""
        return self._make(alias, name) if name in self._published.resources[self.source] else None

    def _make(self, name: str, real: str) -> Resource | None:
        item = self._published.objects(self.source)[real]
        try:
            value = self._encode(item)
        except (MeshError, TypeError, ValueError) as exc:  # one bad object must not end every proxy's stream
            log.warning("%s %r is left out: it cannot be encoded: %s", self.type_url, real, exc)
            return None
        if value is None:
            return None
        aliases = encode.aliases_of(item) if self.source == ADDRESS_TYPE and name == real else ()
        return entry(name, xxhash.xxh64_hexdigest(value), self.type_url, value, aliases)
