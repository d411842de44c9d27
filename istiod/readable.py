"""What istiod holds, as JSON that a person can read: names as in the API, addresses as text, defaults left out."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from istiod.objects import Secret
from istiod.resources import BY_STORE_KIND
from meshcore.manifests import Key
from meshcore.model import GatewayAddress, NetworkAddress

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]

REDACTED: Final = "REDACTED"
STEP: Final = 200
"""Objects made readable before others have a turn of the event loop: a few milliseconds."""


async def each(items: Iterable[T], shape: Callable[[T], Any]) -> list[Any]:
    """`shape` of every item, in steps that leave the event loop to others. `items` may change meanwhile."""
    found = []
    for number, item in enumerate(tuple(items), 1):
        found.append(shape(item))
        if number % STEP == 0:
            await asyncio.sleep(0)
    return found


def readable(value: Any) -> Any:
    """JSON of an object or a resource. Bytes are addresses, enumerations their names; Secrets keep only their keys."""
    if isinstance(value, str | bool | int | float) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, NetworkAddress | GatewayAddress):
        return _network_address(value) if isinstance(value, NetworkAddress) else _gateway(value)
    if isinstance(value, Secret):
        return _redacted(value)
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    if isinstance(value, bytes):
        return _ip(value)
    if isinstance(value, dict):
        return {str(key): readable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [readable(one) for one in value]
    return value


def manifest(key: Key, value: Any) -> Json:
    """An object of the store in the form in which it is written in YAML, as far as istiod reads it."""
    resource = BY_STORE_KIND[key[0]]
    return {"apiVersion": resource.api_version, "kind": resource.kind, **readable(value)}


@cache
def _plan(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    """Attribute, name and default of every field."""
    return tuple((field.name, _camel(field.encode_name), _default(field)) for field in msgspec.structs.fields(kind))


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _fields(value: msgspec.Struct) -> Json:
    found = {}
    for attribute, name, default in _plan(type(value)):
        held = getattr(value, attribute)
        if held is not default and held != default:
            found[name] = readable(held)
    return found


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _redacted(secret: Secret) -> Json:
    bare = msgspec.structs.replace(secret, data={}, string_data={})
    return {**_fields(bare), "data": dict.fromkeys(sorted({*secret.data, *secret.string_data}), REDACTED)}


def _gateway(gateway: GatewayAddress) -> Json:
    host, address = gateway.hostname, gateway.address
    text = f"{host.namespace}/{host.hostname}" if host is not None else _network_address(address) if address else ""
    return {"destination": text, "hboneMtlsPort": gateway.hbone_mtls_port}


def _network_address(address: NetworkAddress) -> str:
    length = "" if address.length is None else f"/{address.length}"
    return f"{address.network}/{_ip(address.address)}{length}"


def _ip(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if len(packed) in (4, 16) else packed.hex()
