"""The protobuf messages we speak, from tables: no generated code, no compiler at build time.

A table has one message a line block: `NAME:` and its fields as `NAME NUMBER TYPE`, separated by semicolons. `TYPE*` is
repeated, `TYPE?` is an optional scalar with presence, `<TYPE>` a map from strings, and `(ONEOF)` behind a field names
the oneof it belongs to. A type that is no scalar is a message or enumeration: of the same package, or with its full
name. Numbers are those of Istio's workload.proto, authorization.proto and citadel.proto and of Envoy's discovery.proto.
"""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_WELL_KNOWN: Final = (any_pb2, duration_pb2, empty_pb2, struct_pb2, wrappers_pb2)
_SCALARS: Final = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
}
_FIELD: Final = re.compile(r"(\w+) (\d+) (<)?([\w.]+)>?([*?])?(?: \((\w+)\))?")

_ENUMS: Final = {
    "istio.workload": {
        "TunnelProtocol": "NONE HBONE LEGACY_ISTIO_MTLS",
        "WorkloadType": "DEPLOYMENT CRONJOB POD JOB",
        "WorkloadStatus": "HEALTHY UNHEALTHY",
        "NetworkMode": "STANDARD HOST_NETWORK",
        "IPFamilies": "AUTOMATIC IPV4_ONLY IPV6_ONLY DUAL",
        "AppProtocol": "UNKNOWN HTTP11 HTTP2 GRPC TCP TLS",
        "Scope": "UNSPECIFIED_SCOPE REGION ZONE SUBZONE NODE CLUSTER NETWORK",
        "Mode": "UNSPECIFIED_MODE STRICT FAILOVER PASSTHROUGH",
        "HealthPolicy": "ONLY_HEALTHY ALLOW_ALL",
        "Visibility": "PUBLIC NAMESPACE",
        "TunnelTarget": "NONE PROXY",
    },
    "istio.security": {"Scope": "GLOBAL NAMESPACE WORKLOAD_SELECTOR", "Action": "ALLOW DENY"},
}
"""Values count from zero. Where upstream nests an enumeration in a message, the wire is the same."""

_MESSAGES: Final = {
    "istio.workload": """
        Address: workload 1 Workload (type); service 2 Service (type)
        Workload: name 1 string; namespace 2 string; addresses 3 bytes*; network 4 string;
            tunnel_protocol 5 TunnelProtocol; trust_domain 6 string; service_account 7 string;
            waypoint 8 GatewayAddress; node 9 string; canonical_name 10 string; canonical_revision 11 string;
            workload_type 12 WorkloadType; workload_name 13 string; native_tunnel 14 bool;
            authorization_policies 16 string*; status 17 WorkloadStatus; cluster_id 18 string;
            network_gateway 19 GatewayAddress; uid 20 string; hostname 21 string; services 22 <PortList>;
            application_tunnel 23 ApplicationTunnel; locality 24 Locality; network_mode 25 NetworkMode;
            extensions 26 Extension*; capacity 27 google.protobuf.UInt32Value
        Service: name 1 string; namespace 2 string; hostname 3 string; addresses 4 NetworkAddress*; ports 5 Port*;
            subject_alt_names 6 string*; waypoint 7 GatewayAddress; load_balancing 8 LoadBalancing;
            ip_families 9 IPFamilies; extensions 10 Extension*; canonical 11 bool; ingress_use_waypoint 12 bool;
            weighted_waypoints 13 WeightedWaypoint*; visibility 14 Visibility
        GatewayAddress: hostname 1 NamespacedHostname (destination); address 2 NetworkAddress (destination);
            hbone_mtls_port 3 uint32
        NamespacedHostname: namespace 1 string; hostname 2 string
        NetworkAddress: network 1 string; address 2 bytes; length 3 uint32?
        WeightedWaypoint: destination 1 GatewayAddress; weight 2 uint32
        PortList: ports 1 Port*
        Port: service_port 1 uint32; target_port 2 uint32; app_protocol 3 AppProtocol
        LoadBalancing: routing_preference 1 Scope*; mode 2 Mode; health_policy 3 HealthPolicy
        Locality: region 1 string; zone 2 string; subzone 3 string
        ApplicationTunnel: protocol 1 TunnelTarget; port 2 uint32
        Extension: name 1 string; config 2 google.protobuf.Any
    """,
    "istio.security": """
        Authorization: name 1 string; namespace 2 string; scope 3 Scope; action 4 Action; rules 5 Rule*;
            dry_run 6 bool; extensions 7 istio.workload.Extension*
        Rule: clauses 1 Clause*
        Clause: matches 2 Match*
        Match: namespaces 1 StringMatch*; not_namespaces 2 StringMatch*; principals 3 StringMatch*;
            not_principals 4 StringMatch*; source_ips 5 Address*; not_source_ips 6 Address*;
            destination_ips 7 Address*; not_destination_ips 8 Address*; destination_ports 9 uint32*;
            not_destination_ports 10 uint32*; service_accounts 11 ServiceAccountMatch*;
            not_service_accounts 12 ServiceAccountMatch*; extensions 13 istio.workload.Extension*
        Address: address 1 bytes; length 2 uint32
        ServiceAccountMatch: namespace 1 string; service_account 2 string
        StringMatch: exact 1 string (match_type); prefix 2 string (match_type); suffix 3 string (match_type);
            presence 4 google.protobuf.Empty (match_type)
    """,
    "google.rpc": "Status: code 1 int32; message 2 string; details 3 google.protobuf.Any*",
    "envoy.config.core.v3": """
        Node: id 1 string; cluster 2 string; metadata 3 google.protobuf.Struct; build_version 5 string
    """,
    "envoy.service.discovery.v3": """
        DiscoveryRequest: version_info 1 string; node 2 envoy.config.core.v3.Node; resource_names 3 string*;
            type_url 4 string; response_nonce 5 string; error_detail 6 google.rpc.Status
        DiscoveryResponse: version_info 1 string; resources 2 google.protobuf.Any*; type_url 4 string; nonce 5 string
        DeltaDiscoveryRequest: node 1 envoy.config.core.v3.Node; type_url 2 string;
            resource_names_subscribe 3 string*; resource_names_unsubscribe 4 string*;
            initial_resource_versions 5 <string>; response_nonce 6 string; error_detail 7 google.rpc.Status
        DeltaDiscoveryResponse: system_version_info 1 string; resources 2 Resource*; type_url 4 string;
            nonce 5 string; removed_resources 6 string*
        Resource: version 1 string; resource 2 google.protobuf.Any; name 3 string; aliases 4 string*;
            ttl 6 google.protobuf.Duration; cache_control 7 CacheControl
        CacheControl: do_not_cache 1 bool
    """,
    "istio.v1.auth": """
        IstioCertificateRequest: csr 1 string; validity_duration 3 int64; metadata 4 google.protobuf.Struct
        IstioCertificateResponse: cert_chain 1 string*
    """,
}


def _build() -> DescriptorPool:
    """A pool of our own: names of the global one may be taken by another package in the same process."""
    pool = DescriptorPool()
    for module in _WELL_KNOWN:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    known = {f"{package}.{name}" for package, enums in _ENUMS.items() for name in enums}
    files: list[str] = [module.DESCRIPTOR.name for module in _WELL_KNOWN]
    for package, text in _MESSAGES.items():
        file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3", dependency=files)
        for name, values in _ENUMS.get(package, {}).items():
            file.enum_type.append(_enum(name, values.split()))
        for name, fields in _blocks(text):
            file.message_type.append(_message(package, name, fields, known))
        pool.Add(file)
        files.append(file.name)
    return pool


def _blocks(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"(\w+):", text)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _enum(name: str, values: list[str]) -> EnumDescriptorProto:
    # Values share the namespace of their enumeration, hence the prefix; names of values are not on the wire.
    enum = EnumDescriptorProto(name=name)
    for number, value in enumerate(values):
        enum.value.add(name=f"{name}_{value}", number=number)
    return enum


def _message(package: str, name: str, fields: str, enums: set[str]) -> DescriptorProto:
    message = DescriptorProto(name=name)
    oneofs: dict[str, int] = {}
    optional: list[FieldDescriptorProto] = []
    for text in filter(None, (part.strip() for part in fields.split(";"))):
        found = _FIELD.fullmatch(text)
        if found is None:
            raise TypeError(f"{package}.{name}: {text!r} is not a field")
        label, number, is_map, kind, mark, oneof = found.groups()
        field = message.field.add(name=label, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
        if is_map:
            entry = message.nested_type.add(name="".join(part.title() for part in label.split("_")) + "Entry")
            entry.options.map_entry = True
            for index, (part, part_kind) in enumerate((("key", "string"), ("value", kind)), 1):
                inner = entry.field.add(name=part, number=index, label=FieldDescriptorProto.LABEL_OPTIONAL)
                _set_type(inner, package, part_kind, enums)
            kind, mark = f"{package}.{name}.{entry.name}", "*"
        _set_type(field, package, kind, enums)
        if mark == "*":
            field.label = FieldDescriptorProto.LABEL_REPEATED
        elif mark == "?":
            field.proto3_optional = True
            optional.append(field)
        if oneof:
            field.oneof_index = oneofs.setdefault(oneof, len(oneofs))
    for oneof in oneofs:
        message.oneof_decl.add(name=oneof)
    for field in optional:  # presence of a scalar is a oneof of one; these must stand last
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")
    return message


def _set_type(field: FieldDescriptorProto, package: str, kind: str, enums: set[str]) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    full = kind if "." in kind else f"{package}.{kind}"
    field.type = FieldDescriptorProto.TYPE_ENUM if full in enums else FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{full}"


_POOL: Final = _build()


def message(name: str) -> Any:
    """The class of a message by its full name; its types come from the tables, so there is no static one."""
    return GetMessageClass(_POOL.FindMessageTypeByName(name))
