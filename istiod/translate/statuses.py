"""What istiod wants to stand in the status of objects. Derivations say what, the writer adds when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from meshcore.manifests import Key

OUTPUT: Final = "status"
"""The output of the graph under which families publish `StatusPatch`es."""
_TIME: Final = "lastTransitionTime"


class StatusPatch(NamedTuple):
    """A server-side apply of one field manager to the status of one object.

    `kind` is that of the store. `status` can be written as JSON; conditions of ours have no `lastTransitionTime` yet,
    entries of other controllers (in lists that have one owner only) are as they were found.
    """

    kind: str
    namespace: str
    name: str
    field_manager: str
    status: dict[str, Any]

    @property
    def title(self) -> str:
        """The name of the patch among the resources of the output."""
        return "/".join(self[:4])


def object_of(title: str) -> Key:
    """The key of the object that a patch of this title is for."""
    kind, namespace, name, _ = title.split("/", 3)
    return kind, namespace, name


class Verdict(NamedTuple):
    """One thing that was judged, as a condition says it."""

    ok: bool
    reason: str
    message: str = ""


def published(patches: Iterable[StatusPatch]) -> dict[str, StatusPatch]:
    """The patches by title, as a family gives them."""
    return {patch.title: patch for patch in patches}


def condition(kind: str, verdict: Verdict, generation: int, *, inverted: bool = False) -> dict[str, Any]:
    """A condition that is True if the verdict is good; `inverted` for types that name a fault."""
    return {
        "type": kind,
        "status": str(verdict.ok is not inverted),
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": generation,
    }


def with_times(patch: StatusPatch, current: Mapping[str, Any], now: datetime) -> StatusPatch:
    """The patch with the time of the last transition in every condition: `now`, unless the object's `current` status
    (as JSON) already has the condition with the same value. `now` is aware.
    """
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status: dict[str, Any] = _timed(patch.status, current, stamp)
    return patch._replace(status=status)


def _timed(wanted: Any, current: Any, stamp: str) -> Any:
    if isinstance(wanted, Mapping):
        before = current if isinstance(current, Mapping) else {}
        return {
            key: _conditions(value, before.get(key), stamp)
            if key == "conditions"
            else _timed(value, before.get(key), stamp)
            for key, value in wanted.items()
        }
    if isinstance(wanted, list | tuple):
        found = {_identity(item): item for item in current or ()} if isinstance(current, list | tuple) else {}
        return [_timed(item, found.get(_identity(item)), stamp) for item in wanted]
    return wanted


def _conditions(wanted: Iterable[Mapping[str, Any]], current: Any, stamp: str) -> list[dict[str, Any]]:
    held = current if isinstance(current, list | tuple) else ()
    before = {one.get("type"): one for one in held if isinstance(one, Mapping)}
    found = []
    for one in wanted:
        old = before.get(one["type"], {})
        time = old.get(_TIME) if old.get("status") == one["status"] else None
        found.append({_TIME: time or stamp, **one})
    return found


def _identity(item: Any) -> str:
    """What makes an entry of a list the same entry: a listener's name, or a reference and the controller."""
    if not isinstance(item, Mapping):
        return ""
    ref = item.get("parentRef") or item.get("ancestorRef")
    if isinstance(ref, Mapping):
        return f"{sorted(ref.items())} {item.get('controllerName')}"
    return str(item.get("name", ""))
