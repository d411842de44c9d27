"""Gateways of both APIs: their pods, ports, certificates and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from istiod.analyze.certificates import fault
from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from istiod.objects import Gateway, IstioGateway, ListenerSet, Secret, Service
from istiod.objects.gateway_api import ListenerTls, ObjectRef
from istiod.objects.istio_gateway import Server, ServerTls
from istiod.resources import ISTIO_GATEWAY
from istiod.translate.waypoints import controller_of
from meshcore.manifests import Key
from meshcore.yamldoc import Path

BUILT_IN_CLASSES: Final = frozenset(
    {"istio", "istio-waypoint", "istio-east-west", "istio-remote", "istio-agentgateway", "istio-agentgateway-waypoint"}
)
"""Classes that a control plane makes by itself: files need not hold them."""


def workloads(world: World) -> Iterator[Message]:
    """Selectors without pods, and ports that no Service in front of the pods has."""
    for (namespace, name), gateway in world.store.of(IstioGateway).items():
        selector = gateway.spec.selector
        if not selector or not world.knows_workloads:
            continue
        key: Key = (ISTIO_GATEWAY, namespace, name)
        pods = world.selected("", selector)
        if not pods:
            yield message("IST0101", key, ("spec", "selector"), what="pod with labels", name=_labels(selector))
            continue
        ports = set().union(*(_ports(world, pod.key[1], pod.labels) for pod in pods))
        for index, server in enumerate(gateway.spec.servers):
            if ports and server.port.number and server.port.number not in ports and not server.bind:
                path: Path = ("spec", "servers", index, "port", "number")
                yield message("IST0162", key, path, port=server.port.number, labels=_labels(selector))


def _labels(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{label}={value}" for label, value in sorted(selector.items()))


def _ports(world: World, namespace: str, labels: Mapping[str, str]) -> set[int]:
    """Of the Services of a namespace that send to pods with these labels: both ends of each port."""
    found: set[int] = set()
    for (place, _), service in world.store.of(Service).items():
        selector = service.spec.selector
        if place == namespace and selector and selector.items() <= labels.items():
            for port in service.spec.ports:
                found.add(port.port)
                if isinstance(port.target_port, int):
                    found.add(port.target_port or port.port)
    return found


def conflicts(world: World) -> Iterator[Message]:
    """The same host at the same port of the same pods, in two Gateways."""
    seen: dict[tuple[object, ...], list[tuple[IstioGateway, int, Server]]] = {}
    for gateway in world.store.of(IstioGateway).values():
        selector = tuple(sorted(gateway.spec.selector.items()))
        for index, server in enumerate(gateway.spec.servers):
            place = (selector, server.port.number, server.bind)
            seen.setdefault(place, []).append((gateway, index, server))
    for uses in seen.values():
        for gateway, index, server in uses:
            others = {
                f"Gateway {other.metadata.namespace}/{other.metadata.name}"
                for other, _, theirs in uses
                if other is not gateway and _share_host(server, theirs)
            }
            if others:
                yield message(
                    "IST0145",
                    (ISTIO_GATEWAY, gateway.metadata.namespace, gateway.metadata.name),
                    ("spec", "servers", index),
                    others=", ".join(sorted(others)),
                    port=server.port.number,
                    hosts=", ".join(server.hosts),
                )


def _share_host(mine: Server, theirs: Server) -> bool:
    """The same host, not a more specific one: that one goes first, without a conflict."""
    return any(
        host.lower() == other.lower() and _places_meet(place, their_place)
        for place, host in map(_split, mine.hosts)
        for their_place, other in map(_split, theirs.hosts)
    )


def _split(text: str) -> tuple[str, str]:
    place, slash, host = text.rpartition("/")
    return (place if slash else "*"), host


def _places_meet(mine: str, theirs: str) -> bool:
    return "*" in (mine, theirs) or mine == theirs


def duplicate_certificates(world: World) -> Iterator[Message]:
    """One certificate in several Gateways for the same pods: browsers then reuse the wrong connection."""
    seen: dict[tuple[object, str], list[tuple[IstioGateway, Path]]] = {}
    for gateway in world.store.of(IstioGateway).values():
        selector = tuple(sorted(gateway.spec.selector.items()))
        for index, server in enumerate(gateway.spec.servers):
            for name, field in _credentials(server.tls):
                path: Path = ("spec", "servers", index, "tls", *field)
                seen.setdefault((selector, name), []).append((gateway, path))
    for (_, name), uses in seen.items():
        for gateway, path in uses:
            others = {f"{o.metadata.namespace}/{o.metadata.name}" for o, _ in uses if o is not gateway}
            if others:
                key: Key = (ISTIO_GATEWAY, gateway.metadata.namespace, gateway.metadata.name)
                listed = "Gateway " + ", ".join(sorted(others))
                yield message("IST0138", key, path, others=listed, credential=name)


def _credentials(tls: ServerTls | None) -> Iterator[tuple[str, Path]]:
    if tls is None:
        return
    if tls.credential_name:
        yield tls.credential_name, ("credentialName",)
    for index, name in enumerate(tls.credential_names):
        yield name, ("credentialNames", index)


def credentials(world: World) -> Iterator[Message]:
    """Secrets that Gateways serve: missing, without a usable certificate, or expired."""
    for (namespace, name), gateway in world.store.of(IstioGateway).items():
        places = {pod.key[1] for pod in world.selected("", gateway.spec.selector)} or None
        for index, server in enumerate(gateway.spec.servers):
            for secret, field in _credentials(server.tls):
                path: Path = ("spec", "servers", index, "tls", *field)
                if "://" not in secret:
                    yield from _secret(world, (ISTIO_GATEWAY, namespace, name), path, secret, places)
    holders: list[tuple[str, Gateway | ListenerSet]] = [("Gateway", one) for one in world.store.of(Gateway).values()]
    holders += [("ListenerSet", one) for one in world.store.of(ListenerSet).values()]
    for kind, holder in holders:
        own = holder.metadata.namespace
        for index, listener in enumerate(holder.spec.listeners):
            for number, ref in enumerate(_certificate_refs(listener.tls)):
                place: Path = ("spec", "listeners", index, "tls", "certificateRefs", number)
                key: Key = (kind, own, holder.metadata.name)
                yield from _secret(world, key, place, ref.name, {ref.namespace or own})


def _certificate_refs(tls: ListenerTls | None) -> tuple[ObjectRef, ...]:
    refs = tls.certificate_refs if tls is not None else ()
    return tuple(ref for ref in refs if (ref.kind, ref.group) == ("Secret", ""))


def _secret(world: World, key: Key, path: Path, name: str, places: set[str] | None) -> Iterator[Message]:
    """Looked for where the gateway runs; anywhere if that is not known."""
    if "Secret" in world.unseen:
        return
    written = [one for one in world.of("Secret") if one.key[2] == name and (places is None or one.key[1] in places)]
    if not written:
        where = f"{min(places)}/{name}" if places and len(places) == 1 else name
        yield message("IST0101", key, path, what="Secret", name=where)
    for one in written:
        secret = world.store.get(Secret, one.key[1], one.key[2])
        problem = fault(secret) if secret is not None else ""
        if problem:
            yield message("IST0161", key, path, name=f"{one.key[1]}/{one.key[2]}", fault=problem)


def classes(world: World) -> Iterator[Message]:
    for (namespace, name), gateway in world.store.of(Gateway).items():
        wanted = gateway.spec.gateway_class_name
        if wanted in BUILT_IN_CLASSES or controller_of(world.view, wanted) or not wanted:
            continue
        if world.missing("GatewayClass", "", wanted):
            hint = "Classes of this mesh: istio, istio-waypoint, istio-east-west, istio-remote."
            path: Path = ("spec", "gatewayClassName")
            yield message("IST0101", ("Gateway", namespace, name), path, hint, what="GatewayClass", name=wanted)
