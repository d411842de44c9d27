"""Requests and responses of delta xDS, to and from the messages of `meshcore.stream`.

The body of a resource is its whole entry in a response (field 2 with its tag), so that a response of any size is put
together from bytes that all proxies share.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from istiod.xds.descriptors import message
from meshcore.errors import ProtocolError
from meshcore.stream.messages import DeltaRequest, DeltaResponse, Node, Resource

_Request: Final = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
_Response: Final = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")
_Entry: Final = message("envoy.service.discovery.v3.Resource")
_Any: Final = message("google.protobuf.Any")

ROLES: Final = frozenset({"sidecar", "router", "waypoint", "ztunnel"})
METADATA_MAX: Final = 256
"""Entries of a node's metadata that are kept; upstream's proxies send about thirty."""


def parse(kind: Any, data: bytes) -> Any:
    """A message of a foreign peer; raises ProtocolError if it cannot be decoded."""
    try:
        parsed: ProtobufMessage = kind.FromString(data)
    except (DecodeError, ValueError) as exc:
        raise ProtocolError(f"a {kind.DESCRIPTOR.name} cannot be decoded: {exc}") from None
    return parsed


def decode_request(data: bytes) -> DeltaRequest:
    """Raises ProtocolError."""
    request = parse(_Request, data)
    error = ""
    if request.HasField("error_detail"):
        error = request.error_detail.message or f"refused with code {request.error_detail.code}"
    return DeltaRequest(
        request.type_url,
        _node(request.node) if request.HasField("node") else None,
        tuple(request.resource_names_subscribe),
        tuple(request.resource_names_unsubscribe),
        dict(request.initial_resource_versions),
        request.response_nonce,
        error,
    )


def encode_response(response: DeltaResponse) -> tuple[list[bytes], int]:
    """The parts of the message, in order, and their length together."""
    rest: bytes = _Response(
        type_url=response.type_url, nonce=response.nonce, removed_resources=response.removed
    ).SerializeToString()
    parts = [resource.body for resource in response.resources]
    parts.append(rest)
    return parts, sum(map(len, parts))


def entry(name: str, version: str, type_url: str, value: bytes, aliases: Iterable[str] = ()) -> Resource:
    """A resource whose body is its entry in a response."""
    wrapped = _Any(type_url=type_url, value=value)
    one = _Entry(name=name, version=version, resource=wrapped, aliases=aliases)
    return Resource(name, version, _Response(resources=[one]).SerializeToString())


def _node(node: Any) -> Node:
    """Raises ProtocolError unless the id has upstream's form."""
    parts = node.id.split("~")
    if len(parts) != 4 or parts[0] not in ROLES or not parts[2].rpartition(".")[2]:
        raise ProtocolError(f"the node id {node.id[:200]!r} is not of the form ROLE~IP~NAME.NAMESPACE~DOMAIN")
    said = _metadata(node)
    name, _, namespace = parts[2].rpartition(".")
    return Node(
        id=node.id,
        name=said.get("NAME") or name,
        namespace=said.get("NAMESPACE") or namespace,
        node=said.get("NODE_NAME", ""),
        service_account=said.get("SERVICE_ACCOUNT", ""),
        cluster_id=said.get("CLUSTER_ID", ""),
        version=said.get("ISTIO_VERSION", ""),
        metadata=said,
    )


def _metadata(node: Any) -> dict[str, str]:
    """The texts among the metadata, whose other values have no meaning here."""
    found: dict[str, str] = {}
    for key, value in node.metadata.fields.items():
        if value.WhichOneof("kind") == "string_value" and len(found) < METADATA_MAX:
            found[key] = value.string_value
    return found
