"""Whatever objects look like, every analyzer ends without a fault of its own."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
import pytest

from istiod.analyze import World, analyze
from istiod.kube.changes import RawChange
from istiod.resources import resource_of
from meshcore.manifests import Manifest
from tests.unit.istiod.schema_samples import SAMPLES, paths, replaced

VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    70_000,
    1.5,
    "",
    "*",
    "a/b/c",
    "x" * 300,
    [],
    {},
    ["x"],
    {"x": "y"},
    [None],
)
ATTEMPTS: Final = 100
"""Of the many thousand there are, another part for each seed."""
SEED: Final = 7


def manifest(obj: dict[str, Any]) -> Manifest:
    return Manifest("f.yaml", 1, obj["apiVersion"], obj["kind"], "default", obj["metadata"]["name"], obj)


def faults(world: World) -> list[str]:
    world.close()
    return [one.text for one in analyze(world) if one.code.id == "IST0001"]


def mutations() -> list[tuple[int, dict[str, Any]]]:
    """Every sample with one value in its place of another kind, and the number of the sample."""
    return [
        (number, replaced(sample, path, value))
        for number, sample in enumerate(SAMPLES)
        for path, _ in list(paths({"spec": sample["spec"], "metadata": {"labels": {}, "annotations": {}}}))[1:]
        if path[0] == "spec"
        for value in VALUES
    ]


@pytest.mark.parametrize("live", [False, True])
def test_one_odd_value_among_objects_in_order(live: bool) -> None:
    for number, obj in random.Random(SEED).sample(mutations(), ATTEMPTS):
        world = World()
        world.live = live
        world.add_manifests(manifest(one) for index, one in enumerate(SAMPLES) if index != number)
        world.add_manifests([manifest(obj)])
        assert faults(world) == [], obj


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_part_that_is_no_mapping(part: str, value: Any) -> None:
    """The API server would not store these; a program between may still hand them over."""
    world = World()
    for sample in SAMPLES:
        resource = resource_of(sample["kind"], sample["apiVersion"])
        assert resource is not None
        raw = msgspec.Raw(msgspec.json.encode({**sample, part: value}))
        world.add_items(resource, [RawChange("default", sample["metadata"]["name"], raw, "1")])
    assert faults(world) == []
