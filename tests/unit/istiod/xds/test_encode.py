"""Our protobuf against descriptors that owe nothing to our tables: every field of every message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istiod.xds import encode
from istiod.xds.descriptors import message
from meshcore import model
from meshcore.errors import ConfigError
from tests.support.protobuf import PROTOS, pool, referee
from tests.unit.istiod.xds.models import POLICIES, SERVICES, WORKLOADS

BUILDS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
UNUSED = {"extensions"}
"""Fields that upstream has for others than its ztunnel; nothing of ours fills them."""


def compiled() -> Iterator[str]:
    for file in sorted(PROTOS.glob("*.proto")):
        descriptor = pool().FindFileByName(file.name)
        for name in descriptor.message_types_by_name:
            yield f"{descriptor.package}.{name}"


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """What the wire and the meaning of a field depend on."""
    kind: object = None
    if field.message_type is not None:
        options = field.message_type.GetOptions()
        kind = [shape(f) for f in field.message_type.fields] if options.map_entry else field.message_type.full_name
    if field.enum_type is not None:
        kind = [value.number for value in field.enum_type.values]
    oneof = field.containing_oneof
    group = sorted(f.number for f in oneof.fields) if oneof is not None else None
    return field.number, field.type, field.is_repeated, field.has_presence, group, kind


def shapes(descriptor: Descriptor) -> dict[int, tuple[object, ...]]:
    return {field.number: shape(field) for field in descriptor.fields}


def names(descriptor: Descriptor) -> dict[int, str]:
    return {field.number: field.name.lower().replace("_", "") for field in descriptor.fields}


@pytest.mark.parametrize("name", list(compiled()))
def test_a_message_has_the_fields_that_protoc_finds(name: str) -> None:
    ours, theirs = message(name).DESCRIPTOR, referee(name).DESCRIPTOR
    assert shapes(ours) == shapes(theirs)
    assert names(ours) == names(theirs)


def same(ours: Any, theirs: Any) -> None:
    """A model and a parsed message say the same, field by field."""
    if isinstance(ours, model.StringMatch):
        same_string(ours, theirs)
        return
    seen = set()
    by_name = {field.name.lower().replace("_", ""): field for field in theirs.DESCRIPTOR.fields}
    for item in msgspec.structs.fields(ours):
        field = by_name[item.name.replace("_", "")]
        seen.add(field.name)
        same_value(getattr(ours, item.name), theirs, field)
    assert {field.name for field in theirs.DESCRIPTOR.fields} - seen <= UNUSED


def same_string(ours: model.StringMatch, theirs: Any) -> None:
    found = theirs.WhichOneof("match_type")
    assert (found == "presence") is ours.presence
    for kind in ("exact", "prefix", "suffix"):
        assert getattr(ours, kind) == (getattr(theirs, kind) if found == kind else None)


def same_value(value: Any, theirs: Any, field: FieldDescriptor) -> None:
    other = getattr(theirs, field.name)
    if field.name == "capacity":
        assert (other.value if theirs.HasField("capacity") else 1) == value
    elif value is None:
        assert not theirs.HasField(field.name)
    elif isinstance(value, dict):
        assert set(other) == set(value)
        for key, ports in value.items():
            assert len(other[key].ports) == len(ports)
            for mine, its in zip(ports, other[key].ports, strict=True):
                same(mine, its)
    elif isinstance(value, tuple):
        assert len(other) == len(value)
        for mine, its in zip(value, other, strict=True):
            if isinstance(mine, msgspec.Struct):
                same(mine, its)
            else:
                assert mine == its
    elif isinstance(value, msgspec.Struct):
        assert theirs.HasField(field.name)
        same(value, other)
    else:
        assert other == value


@BUILDS
@given(WORKLOADS)
def test_every_field_of_a_workload_arrives(workload: model.Workload) -> None:
    same(workload, referee("istio.workload.Workload").FromString(encode.encode_workload(workload)))
    address = referee("istio.workload.Address").FromString(encode.encode_address(model.Address(workload=workload)))
    assert address.WhichOneof("type") == "workload"
    same(workload, address.workload)


@BUILDS
@given(SERVICES)
def test_every_field_of_a_service_arrives(service: model.Service) -> None:
    same(service, referee("istio.workload.Service").FromString(encode.encode_service(service)))
    address = referee("istio.workload.Address").FromString(encode.encode_address(model.Address(service=service)))
    assert address.WhichOneof("type") == "service"
    same(service, address.service)


@BUILDS
@given(POLICIES)
def test_every_field_of_a_policy_arrives(policy: model.Authorization) -> None:
    same(policy, referee("istio.security.Authorization").FromString(encode.encode_authorization(policy)))


@given(st.permutations([f"default/s{i}" for i in range(8)]))
def test_the_bytes_do_not_depend_on_the_order_in_which_services_were_found(order: list[str]) -> None:
    def of(keys: list[str]) -> bytes:
        return encode.encode_workload(model.Workload("u", "n", "ns", services=dict.fromkeys(keys, ())))

    assert of(order) == of(sorted(order))


def test_an_address_without_a_branch_is_refused() -> None:
    with pytest.raises(ConfigError):
        encode.encode_address(model.Address())


def test_aliases_are_what_upstream_calls_an_address() -> None:
    v6 = bytes.fromhex("20010db8000000000000000000000001")
    workload = model.Workload("u", "n", "ns", (bytes([10, 0, 0, 1]), v6), network="net")
    assert encode.aliases_of(model.Address(workload=workload)) == ("net/10.0.0.1", "net/2001:db8::1")
    vips = (model.NetworkAddress("", bytes([10, 1, 0, 1])), model.NetworkAddress("net", bytes([10, 2, 0, 0]), 16))
    service = model.Service("s", "ns", "s.ns", vips)
    assert encode.aliases_of(model.Address(service=service)) == ("/10.1.0.1", "net/10.2.0.0/16")
