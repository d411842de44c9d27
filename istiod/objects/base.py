"""What every object has, and how one is decoded: only the fields istiod uses; every other field is ignored."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Object(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of everything decoded from Kubernetes. Field names are those of the API, in snake case."""


class OwnerReference(Object, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(Object, frozen=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()
    uid: str = ""
    generation: int = 0


class Condition(Object, frozen=True):
    """A status condition, of which only the type is of interest: what it says is computed, not read."""

    type: str = ""


class ConditionedStatus(Object, frozen=True):
    """The part of a status that most kinds share."""

    conditions: tuple[Condition, ...] = ()


class Selector(Object, frozen=True):
    match_labels: dict[str, str] = {}


class TargetRef(Object, frozen=True):
    kind: str = ""
    name: str = ""
    group: str = ""
    namespace: str = ""


class Targeted(Protocol):
    """The spec of a policy that may be attached to objects."""

    @property
    def target_ref(self) -> TargetRef | None: ...
    @property
    def target_refs(self) -> tuple[TargetRef, ...]: ...


def targets_of(spec: Targeted) -> tuple[TargetRef, ...]:
    """What a policy is attached to; empty if it goes by selector or namespace."""
    return spec.target_refs or ((spec.target_ref,) if spec.target_ref is not None else ())


def without_nulls(value: Any) -> Any:
    """In Kubernetes a field that is null is a field that is not set."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value


def convert(obj: dict[str, Any], kind: type[T]) -> T:
    """Raises msgspec.ValidationError naming the path of the first field that has the wrong type."""
    return msgspec.convert(without_nulls(obj), kind)
