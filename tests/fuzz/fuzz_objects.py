"""Fuzz entry of objects: from the API server's JSON through checks and store to every resource and status."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from istiod.intake import Intake
from istiod.kube.changes import RawChange
from istiod.resources import BY_STORE_KIND, resource_of
from istiod.store import Change, Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import INDEXES, Translator
from tests.unit.istiod.schema_samples import SAMPLES, changed, paths

_CORE: tuple[dict[str, Any], ...] = (
    {"kind": "Namespace", "metadata": {"name": "default", "labels": {"istio.io/use-waypoint": "public"}}},
    {"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/region": "r"}}},
    {
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"app": "a"}, "annotations": {"ambient.istio.io/redirection": "enabled"}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"containerPort": 80, "name": "http"}]}]},
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]},
    },
    {
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"selector": {"app": "a"}, "clusterIPs": ["10.1.0.1"], "ports": [{"port": 80, "targetPort": "http"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
    },
    {
        "kind": "EndpointSlice",
        "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
        "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": None}}],
        "ports": [{"port": 80, "name": "http"}],
    },
    {"kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": "{}"}},
    {"kind": "Secret", "metadata": {"name": "a"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "YQ=="}},
)
OBJECTS = (*_CORE, *SAMPLES)
SEEDS = tuple(bytes((number, 1, 2, 3)) for number in range(len(OBJECTS)))
JUNK: tuple[Any, ...] = (
    None,
    "",
    "*",
    "x",
    "a" * 300,
    "10.0.0.1",
    "10.0.0.0/8",
    "1s",
    "{",
    -1,
    0,
    65536,
    1.5,
    True,
    [],
    {},
    [None],
    {"": ""},
)


class World:
    """A mesh of all the objects, which every input changes and puts right again."""

    def __init__(self) -> None:
        self.intake = Intake(Store(INDEXES))
        for value in OBJECTS:
            self.put(value)
        self.translator = Translator(self.intake.store, MeshConfig())

    def put(self, value: dict[str, Any]) -> list[Change]:
        found = resource_of(value["kind"], value.get("apiVersion", "v1"))
        if found is None:  # core kinds are written without their version here
            found = BY_STORE_KIND[value["kind"]]
        meta = value["metadata"] if isinstance(value["metadata"], dict) else {}
        namespace = str(meta.get("namespace") or "default") if found.namespaced else ""
        raw = msgspec.Raw(msgspec.json.encode(value))
        return self.intake.raw(found, [RawChange(namespace, str(meta.get("name") or "x"), raw, "1")])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without a line for every object that cannot be read."""
    logger = logging.getLogger("istiod.intake")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@functools.cache
def world() -> World:
    return World()


def fuzz_one(data: bytes) -> None:
    """An object with up to three places changed: whatever it says, everything else is still translated."""
    source = random.Random(data)
    original = copy.deepcopy(OBJECTS[(data or b"\0")[0] % len(OBJECTS)])
    meta = {"name": "x", "namespace": "default", **original["metadata"]}
    damaged = {**original, "metadata": meta}
    for _ in range(source.randint(1, 3)):
        places = [path for path, _ in paths(damaged) if len(path) > 1 and path[:2] != ("metadata", "name")]
        if not places:
            break
        path = source.choice(places)
        if source.random() < 0.2:
            damaged = changed(damaged, path, lambda holder, part: holder.__delitem__(part))
        else:
            damaged = changed(damaged, path, lambda holder, part: holder.__setitem__(part, source.choice(JUNK)))
    mesh = world()
    with quiet():
        mesh.translator.apply(mesh.put(damaged))
        mesh.translator.apply(mesh.put(original))
    if mesh.translator.graph.failures:
        world.cache_clear()
        raise AssertionError(f"a translation failed for {damaged}")
