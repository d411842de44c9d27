"""Worlds from snippets of YAML, and what analysis says about them."""

from __future__ import annotations

import io
from typing import NamedTuple

from istiod.analyze import Message, World, analyze, files
from istiod.resources import BY_STORE_KIND
from istiod.translate.common import MeshConfig

_OTHERS = {
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
}


def obj(
    kind: str,
    name: str,
    spec: str = "",
    namespace: str = "default",
    *,
    labels: str = "",
    notes: str = "",
    more: str = "",
) -> str:
    """One document. `kind` is the name in the store; `spec`, `labels` and `notes` are YAML in flow style."""
    resource = BY_STORE_KIND.get(kind)
    version = resource.api_version if resource is not None else _OTHERS[kind]
    scope = f", namespace: {namespace}" if namespace else ""
    meta = f"{{name: {name}{scope}, labels: {{{labels}}}, annotations: {{{notes}}}}}"
    body = f"spec: {spec}\n" if spec else ""
    return f"---\napiVersion: {version}\nkind: {kind.partition('.')[0]}\nmetadata: {meta}\n{body}{more}\n"


def world_of(*texts: str, settings: MeshConfig | None = None, live: bool = False) -> World:
    world = World(settings)
    world.live = live
    files.read(world, ["-"], io.BytesIO("".join(texts).encode()))
    world.close()
    return world


def messages(*texts: str, live: bool = False) -> list[Message]:
    return analyze(world_of(*texts, live=live))


def codes(*texts: str) -> list[str]:
    return [one.code.id for one in messages(*texts)]


class Case(NamedTuple):
    """`bad` gives the code, at `resource` and `field`, with `words` in the text; `good` does not give the code."""

    code: str
    bad: str
    resource: str
    field: str
    words: str
    good: str
    live: bool = False
