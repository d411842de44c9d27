"""What can be said of one object alone: its checks, its conditions, and what of it this mesh does not use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.analyze.codes import CODES
from istiod.analyze.message import Message, message
from istiod.analyze.world import World, Written, pod_of
from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, read_mesh_config, read_mesh_l7
from istiod.objects import ConfigMap
from istiod.resources import BY_STORE_KIND, GATEWAY_API
from istiod.schema import unused
from istiod.translate.conditions import MISSING
from istiod.translate.waypoints import MANAGED
from istiod.validate.field import Field
from meshcore.errors import ConfigError
from meshcore.manifests import dotted
from meshcore.yamldoc import Path

PROXY_UID: Final = 1337
_PROXY: Final = "istio-proxy"
_NAMES_A_FAULT: Final = frozenset({"Conflicted", "OverlappingTLSConfig", MISSING})
"""Condition types that are bad when True."""
_FIELDS_SHOWN: Final = 20


def checks(world: World) -> Iterator[Message]:
    """The checks that the webhook makes, under the code that each has."""
    for key, problems in world.problems:
        for problem in problems:
            code = problem.code if problem.code in CODES else ("IST0133" if problem.warning else "IST0106")
            yield message(code, key, problem.path, text=problem.message)


def mesh_config(world: World) -> Iterator[Message]:
    """MeshConfig is text inside of a ConfigMap: no schema holds for it."""
    stored = world.store.get(ConfigMap, world.settings.root_namespace, CONFIG_MAP)
    if stored is None or CONFIG_KEY not in stored.data:
        return
    key = ("ConfigMap", world.settings.root_namespace, CONFIG_MAP)
    for reader in (read_mesh_config, read_mesh_l7):
        try:
            reader(stored.data[CONFIG_KEY])
        except ConfigError as exc:
            yield message("IST0106", key, ("data", CONFIG_KEY), text=str(exc))
            return


def unused_fields(world: World) -> Iterator[Message]:
    """Recognised, but without an effect here: whole kinds, and fields, one message an object."""
    for kind, resource in BY_STORE_KIND.items():
        for one in world.of(kind) if resource.custom else ():
            if not resource.used:
                yield message("AMB0002", one.key, kind=resource.kind)
            elif paths := unused(resource, one.obj):
                names = [dotted(path) for path in paths[:_FIELDS_SHOWN]]
                more = [f"and {len(paths) - _FIELDS_SHOWN} more"] if len(paths) > _FIELDS_SHOWN else []
                yield message("AMB0001", one.key, paths[0], fields=", ".join([*names, *more]))


def conditions(world: World) -> Iterator[Message]:
    """What a controller found wrong with an object, where it noted that in the status."""
    for kind, resource in BY_STORE_KIND.items():
        if resource.custom or kind == "Service":
            for one in world.of(kind):
                for field in _conditions(one):
                    yield from _negative(one, field, ours_only=not resource.custom)


def _conditions(one: Written) -> Iterator[Field]:
    status = one.root["status"]
    yield status["conditions"]
    for group in ("parents", "ancestors", "listeners"):
        for entry in status[group]:
            yield entry["conditions"]


def _negative(one: Written, found: Field, *, ours_only: bool) -> Iterator[Message]:
    for condition in found:
        kind, status = condition["type"].text, condition["status"].text
        bad = "True" if kind in _NAMES_A_FAULT else "False"
        if status == bad and (not ours_only or kind.startswith("istio.io/")):
            reason = ": ".join(part for part in (condition["reason"].text, condition["message"].text) if part)
            yield message("IST0171", one.key, condition.path, type=kind, status=status, reason=reason or "no reason")


def proxy_user(world: World) -> Iterator[Message]:
    """Applications under the user of Istio's proxies."""
    for kind in ("Pod", "Deployment", "StatefulSet", "DaemonSet"):
        for one in world.of(kind):
            meta = one.root["metadata"]
            if meta["labels"][MANAGED] or (kind == "Pod" and meta["ownerReferences"]):
                continue
            if (path := _as_proxy(pod_of(one)["spec"])) is not None:
                yield message("IST0144", one.key, path)


def _as_proxy(spec: Field) -> Path | None:
    """Where the user of a container that is no proxy is set to the proxy's."""
    whole = spec["securityContext"]["runAsUser"]
    for container in spec["containers"]:
        own = container["securityContext"]["runAsUser"]
        effective = own if own.given else whole
        if effective.number == PROXY_UID and container["name"].text != _PROXY:
            return effective.path
    return None


def definitions(world: World) -> Iterator[Message]:
    """Definitions of the Gateway API that have no version which is read here."""
    ours = {f"{r.plural}.{r.group}": r for r in BY_STORE_KIND.values() if r.group == GATEWAY_API}
    for one in world.of("CustomResourceDefinition"):
        resource = ours.get(one.key[2])
        if resource is None:
            continue
        served = [version["name"].text for version in one.spec["versions"] if version["served"].value is True]
        if not set(served) & set(resource.versions):
            yield message(
                "IST0156",
                one.key,
                ("spec", "versions"),
                served=", ".join(served) or "no version",
                wanted=", ".join(resource.versions),
            )
