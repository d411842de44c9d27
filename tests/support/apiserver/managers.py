"""Who owns which field of an object: `metadata.managedFields` through creates, updates and applies."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from tests.support.apiserver import fields
from tests.support.apiserver.fields import Fields
from tests.support.apiserver.kinds import Kind
from tests.support.apiserver.status import Refusal


class Writer(NamedTuple):
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str


Owners = dict[Writer, Fields]


def read(obj: dict[str, Any]) -> Owners:
    return {
        Writer(entry["manager"], entry["operation"], entry["apiVersion"], entry.get("subresource", "")): frozenset(
            fields.decode(entry["fieldsV1"])
        )
        for entry in obj.get("metadata", {}).get("managedFields", ())
    }


def write(obj: dict[str, Any], owners: Owners, old: dict[str, Any] | None, now: str) -> None:
    """Set managedFields; the time of an entry that did not change stays."""
    before = read(old) if old is not None else {}
    times = {}
    if old is not None:
        for writer, entry in zip(before, old["metadata"].get("managedFields", ()), strict=True):
            times[writer] = entry["time"]
    entries = []
    for writer, owned in owners.items():
        if owned:
            same = before.get(writer) == owned
            entry = {
                "manager": writer.manager,
                "operation": writer.operation,
                "apiVersion": writer.api_version,
                "time": times[writer] if same else now,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields.encode(owned),
            }
            entries.append(entry | ({"subresource": writer.subresource} if writer.subresource else {}))
    obj["metadata"]["managedFields"] = entries


def update(kind: Kind, old: dict[str, Any] | None, new: dict[str, Any], writer: Writer) -> Owners:
    """Ownership after `writer` stored `new`: what it changed is its own now, what is gone is nobody's."""
    before = old or {}
    present = fields.owned(new, kind.lists, writer.subresource, has_status=kind.has_status)
    past = fields.owned(before, kind.lists, writer.subresource, has_status=kind.has_status)
    taken = fields.changed(before, new, present)
    lost = past - present
    owners = {other: owned - taken - lost for other, owned in (read(old) if old is not None else {}).items()}
    owners[writer] = owners.get(writer, frozenset()) | taken
    return owners


def apply(
    kind: Kind, live: dict[str, Any], config: dict[str, Any], writer: Writer, *, force: bool
) -> tuple[dict[str, Any], Owners]:
    """-> (the merged object, its owners). Raises Refusal 409 that names every field of another manager."""
    owners = read(live)
    wanted = fields.owned(config, kind.lists, writer.subresource, has_status=kind.has_status)
    had = owners.pop(writer, frozenset())
    conflicts = {
        other: fights for other, owned in owners.items() if (fights := fields.changed(live, config, wanted & owned))
    }
    if conflicts and not force:
        raise _conflict(conflicts)
    owners = {other: owned - conflicts.get(other, frozenset()) for other, owned in owners.items()}
    merged: dict[str, Any] = fields.merge(copy.deepcopy(live), copy.deepcopy(config), kind.lists)
    kept = frozenset().union(wanted, *owners.values())
    for path in sorted(had - kept, key=len):  # an item of a list before its own fields
        if not any(other[: len(path)] == path for other in kept):
            fields.remove(merged, path)
    return merged, {**owners, writer: wanted}


def _conflict(conflicts: Owners) -> Refusal:
    said = {writer: _named(writer) for writer in conflicts}
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {said[writer]}", "field": fields.display(path)}
        for writer, paths in conflicts.items()
        for path in sorted(paths)
    ]
    if len(causes) == 1:
        text = f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        lines = [f"Apply failed with {len(causes)} conflicts:"]
        for writer, paths in conflicts.items():
            lines += [f"conflicts with {said[writer]}:", *(f"- {fields.display(path)}" for path in sorted(paths))]
        text = lines[0] + " " + "\n".join(lines[1:])
    return Refusal(409, "Conflict", text, details={"causes": causes})


def _named(writer: Writer) -> str:
    via = f' with subresource "{writer.subresource}"' if writer.subresource else ""
    using = f" using {writer.api_version}" if writer.operation == "Update" else ""
    return f'"{writer.manager}"{via}{using}'
