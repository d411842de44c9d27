"""Field ownership of server-side apply: sets of paths, merging, conflicts (structured-merge-diff, the part that shows).

A path is a tuple of elements in the encoding of `fieldsV1`: `f:name`, `k:{"type":"Ready"}`, `v:"value"`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tests.support.apiserver.kinds import SET, Names

Path = tuple[str, ...]
Fields = frozenset[Path]
Lists = Mapping[Names, Names]

_ABSENT: Final = object()
_PRESENT: Final = object()
_MACHINE_MADE: Final = frozenset(
    (
        "creationTimestamp",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    )
)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _key(item: Mapping[str, Any], keys: Names) -> str:
    return "k:" + _compact({key: item[key] for key in sorted(keys) if key in item})


def leaves(value: Any, lists: Lists, path: Path = (), names: Names = ()) -> Iterator[Path]:
    """Every leaf, and every item of a list with keys."""
    keys = lists.get(names) if isinstance(value, list) else None
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from leaves(child, lists, (*path, f"f:{name}"), (*names, name))
    elif isinstance(value, list) and value and keys == SET:
        for item in value:
            yield (*path, "v:" + _compact(item))
    elif isinstance(value, list) and value and keys is not None:
        for item in value:
            yield (*path, _key(item, keys))
            yield from leaves(item, lists, (*path, _key(item, keys)), names)
    elif path:
        yield path


def owned(obj: Mapping[str, Any], lists: Lists, subresource: str, *, has_status: bool) -> Fields:
    """The fields of an object that a writer of this subresource can own."""
    if subresource == "status":
        held = {"status": obj["status"]} if "status" in obj else {}
    else:
        held = {name: value for name, value in obj.items() if name not in {"apiVersion", "kind"}}
        held["metadata"] = {n: v for n, v in obj.get("metadata", {}).items() if n not in _MACHINE_MADE}
        if not held["metadata"]:
            del held["metadata"]
        if has_status:
            held.pop("status", None)
    return frozenset(leaves(held, lists))


def find(value: Any, path: Path) -> Any:
    """The value at a path, _ABSENT if there is none; an item of a list only is there or not."""
    for position, element in enumerate(path):
        kind, name = element[:2], element[2:]
        if kind == "f:":
            value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
        elif kind == "k:":
            wanted = json.loads(name)
            items = value if isinstance(value, list) else []
            value = next((item for item in items if _matches(item, wanted)), _ABSENT)
            if value is not _ABSENT and position == len(path) - 1:
                return _PRESENT
        else:
            value = _PRESENT if isinstance(value, list) and json.loads(name) in value else _ABSENT
        if value is _ABSENT:
            return _ABSENT
    return value


def _matches(item: Any, wanted: Mapping[str, Any]) -> bool:
    return isinstance(item, dict) and all(item.get(key) == value for key, value in wanted.items())


def remove(value: Any, path: Path) -> None:
    """Take what stands at a path out of `value`, in place, and every container that this leaves empty."""
    element, rest = path[0], path[1:]
    kind, name = element[:2], element[2:]
    if kind == "f:" and isinstance(value, dict) and name in value:
        if rest:
            remove(value[name], rest)
        if not rest or value[name] in ({}, []):
            del value[name]
    elif kind == "k:" and isinstance(value, list):
        wanted = json.loads(name)
        for item in [item for item in value if _matches(item, wanted)]:
            if rest:
                remove(item, rest)
            else:
                value.remove(item)
    elif kind == "v:" and isinstance(value, list) and json.loads(name) in value:
        value.remove(json.loads(name))


def merge(live: Any, applied: Any, lists: Lists, names: Names = ()) -> Any:
    """`applied` laid over `live`; nothing is removed."""
    if isinstance(live, dict) and isinstance(applied, dict):
        merged = dict(live)
        for name, value in applied.items():
            merged[name] = merge(live.get(name), value, lists, (*names, name))
        return merged
    keys = lists.get(names) if isinstance(live, list) and isinstance(applied, list) else None
    if keys is None:
        return applied
    if keys == SET:
        return live + [item for item in applied if item not in live]
    by_key = {_key(item, keys): item for item in live}
    for item in applied:
        key = _key(item, keys)
        by_key[key] = merge(by_key.get(key), item, lists, names)
    return list(by_key.values())


def changed(old: Any, new: Any, fields: Iterable[Path]) -> Fields:
    """Those of `fields` that stand differently in `old` and `new`."""
    return frozenset(path for path in fields if find(old, path) != find(new, path))


def encode(fields: Fields) -> dict[str, Any]:
    """As `fieldsV1`."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        if any(other[: len(path)] == path and len(other) > len(path) for other in fields):
            node["."] = {}
    return tree


def decode(tree: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    for element, child in tree.items():
        if element == ".":
            yield path
        elif child:
            yield from decode(child, (*path, element))
        else:
            yield (*path, element)


def display(path: Path) -> str:
    """As the server writes it in messages: `.spec.ports[port=80].name`."""
    text = ""
    for element in path:
        kind, name = element[:2], element[2:]
        if kind == "f:":
            text += f".{name}"
        elif kind == "k:":
            text += "[" + ",".join(f"{k}={_compact(v)}" for k, v in json.loads(name).items()) + "]"
        else:
            text += f"[={name}]"
    return text
