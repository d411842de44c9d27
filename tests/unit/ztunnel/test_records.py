"""Both sides of the worker protocol mean the same: the struct layout of the worker, the mirror in Python."""

from __future__ import annotations

import enum
import re
import struct
from pathlib import Path

import pytest

from meshcore import records
from meshcore.errors import ProtocolError
from ztunnel._fastpath import record_layout

PXD = (Path(__file__).resolve().parents[3] / "meshcore" / "records.pxd").read_text()

STRUCTS: dict[str, struct.Struct] = {
    f"rec_{name.lower()}": value for name, value in vars(records).items() if isinstance(value, struct.Struct)
}

ENUMS: dict[str, type[enum.IntEnum | enum.IntFlag]] = {
    "REC_": records.Rec,
    "DIR_": records.Direction,
    "ACT_": records.Action,
    "VF_": records.VerdictFlag,
    "PROTO_": records.Protocol,
    "AUTH_": records.AuthorityKind,
    "M_": records.Mask,
    "UF_": records.UpcallFlag,
    "FLAG_": records.Flag,
    "PC_": records.PageCell,
    "SC_": records.SlotCell,
}


def numbers() -> dict[str, int]:
    """Every enum member of the definition."""
    return {name: int(value) for name, value in re.findall(r"^    ([A-Z][A-Z0-9_]+) = (\d+)", PXD, re.MULTILINE)}


def members(text: str) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Every struct of the definition: name, then (type, field, array length)."""
    found = []
    for name, body in re.findall(r"^cdef struct (\w+):[^\n]*\n((?:    .*\n)+)", text, re.MULTILINE):
        fields = re.findall(r"^    (\w+) (\w+)(?:\[(\d+)\])?", body, re.MULTILINE)
        found.append((name, [(kind, field, int(length or 1)) for kind, field, length in fields]))
    return found


SIZES = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8}


@pytest.mark.parametrize("prefix", ENUMS)
def test_numbers_are_those_of_the_definition(prefix: str) -> None:
    counts = {"FLAG_COUNT", "PC_COUNT"}
    defined = {
        name.removeprefix(prefix): value
        for name, value in numbers().items()
        if name.startswith(prefix) and name not in counts
    }
    assert {member.name: member.value for member in ENUMS[prefix]} == defined


def test_counts_are_one_past_the_last_member() -> None:
    assert numbers()["FLAG_COUNT"] == len(records.Flag)
    assert numbers()["PC_COUNT"] == len(records.PageCell)


@pytest.mark.parametrize("name", ["RECORD_MAX", "RECORDS_VERSION", "PAGE_BYTES", "SLOT_BYTES", "SLOT_MAX"])
def test_limits_are_those_of_the_definition(name: str) -> None:
    assert getattr(records, name) == numbers()[name]


def test_the_cells_fit_their_page() -> None:
    assert len(records.PageCell) * 8 <= records.PAGE_BYTES
    assert (records.SlotCell.FAILED + len(records.Flag)) * 8 <= records.SLOT_BYTES


def test_every_struct_has_a_mirror() -> None:
    assert {name for name, _ in members(PXD)} == STRUCTS.keys()


@pytest.mark.parametrize("name", STRUCTS)
def test_sizes_are_those_the_worker_was_compiled_with(name: str) -> None:
    assert record_layout()[name.removeprefix("rec_").upper()] == STRUCTS[name].size


@pytest.mark.parametrize(("name", "fields"), members(PXD), ids=[name for name, _ in members(PXD)])
def test_the_mirror_has_every_field_at_its_place(name: str, fields: list[tuple[str, str, int]]) -> None:
    """The definition promises no implicit padding, so a field stands where the ones before it end."""
    expected, at = [], 0
    for kind, field, length in fields:
        if kind == "rec_head":
            expected += [(0, 2), (2, 2), (4, 4)]
            at = 8
            continue
        size = SIZES[kind]
        assert at % size == 0, f"{name}.{field} at {at} would be padded"
        expected += [(at, size * length)] if kind == "uint8_t" else [(at + i * size, size) for i in range(length)]
        at += size * length
    assert at == STRUCTS[name].size
    assert places(STRUCTS[name].format) == expected


def places(layout: str) -> list[tuple[int, int]]:
    """Offset and size of each member of a struct format."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.removeprefix("=")):
        if code == "s":
            found.append((at, int(count)))
            at += int(count)
            continue
        for _ in range(int(count or 1)):
            found.append((at, struct.calcsize("=" + code)))
            at += struct.calcsize("=" + code)
    return found


def test_offsets_are_those_the_worker_was_compiled_with() -> None:
    layout = record_layout()
    checked = 0
    for name, fields in members(PXD):
        at = 0
        for kind, field, length in fields:
            key = f"{name.removeprefix('rec_').upper()}.{field}"
            if key in layout:
                assert layout[key] == at, key
                checked += 1
            at += 8 if kind == "rec_head" else SIZES[kind] * length
    assert checked == sum("." in key for key in layout), "an offset of the worker is not in the definition"


def test_an_idle_connection_stays_within_its_size_class() -> None:
    """glibc hands out 16-byte steps with 8 of its own: one field more costs 16 bytes for each connection of a node."""
    assert record_layout()["flow"] + 8 <= 240


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (b"", "has no head"),
        (b"\0" * 7, "has no head"),
        (records.HEAD.pack(records.Rec.HELLO, 9, 8), "version 9"),
        (records.HEAD.pack(records.Rec.HELLO, records.RECORDS_VERSION, 9), "says 9 bytes"),
        (records.HEAD.pack(99, records.RECORDS_VERSION, 8), "unknown record type 99"),
    ],
)
def test_a_bad_head_is_refused_by_name(record: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        records.record_type(record)


def test_a_record_over_the_limit_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="BUNDLE"):
        records.encode_bundle(1, b"x" * records.RECORD_MAX)


def test_addresses_are_v4_mapped_on_the_wire() -> None:
    assert records.pack_ip(b"\x0a\0\0\1") == bytes(10) + b"\xff\xff\x0a\0\0\1"
    assert records.unpack_ip(records.pack_ip(b"\x0a\0\0\1")) == b"\x0a\0\0\1"
    assert records.unpack_ip(bytes(15) + b"\1") == bytes(15) + b"\1"
    assert records.ip_text(bytes(15) + b"\1") == "::1"
