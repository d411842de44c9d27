"""Which services a hostname means: Kubernetes Services, and hosts of ServiceEntries, exact or by wildcard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from istiod.analyze.world import World
from istiod.objects import Service, ServiceEntry
from istiod.translate.l7.mesh import exported
from meshcore.manifests import Key


class Port(NamedTuple):
    number: int
    name: str
    protocol: str


class Host(NamedTuple):
    """One host of one object. `selector` is empty when nothing is selected; `sure` is False for an object with an
    error, of which no more is known than its hosts.
    """

    name: str
    key: Key
    ports: tuple[Port, ...] = ()
    selector: Mapping[str, str] = {}
    export_to: tuple[str, ...] = ()
    sure: bool = True


_ANY: Final = "*"


class Hosts:
    """The hosts of a world; built once by whoever asks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._named: dict[str, list[Host]] = {}
        for (namespace, name), service in world.store.of(Service).items():
            ports = tuple(Port(p.port, p.name, p.app_protocol or p.name.partition("-")[0]) for p in service.spec.ports)
            export = service.metadata.annotations.get("networking.istio.io/exportTo", "")
            self._add(
                Host(
                    world.settings.hostname(namespace, name),
                    ("Service", namespace, name),
                    ports,
                    service.spec.selector,
                    tuple(part.strip() for part in export.split(",") if part.strip()),
                )
            )
        for (namespace, name), entry in world.store.of(ServiceEntry).items():
            ports = tuple(Port(p.number, p.name, p.protocol) for p in entry.spec.ports)
            selector = entry.spec.workload_selector.labels if entry.spec.workload_selector is not None else {}
            for host in entry.spec.hosts:
                key = ("ServiceEntry", namespace, name)
                self._add(Host(host.lower(), key, ports, selector, entry.spec.export_to))
        self._add_faulty()

    def find(self, host: str, namespace: str) -> list[Host]:
        """What a host, as it is written in an object of `namespace`, can mean."""
        return [one for one in self.anywhere(self.full(host, namespace)) if self._visible(one, namespace)]

    def anywhere(self, full: str) -> list[Host]:
        """Every service with this full name; for a wildcard, every one that it covers."""
        if full.startswith("*"):
            return [one for name, found in self._named.items() if name.endswith(full[1:]) for one in found]
        return [one for name in spellings(full) for one in self._named.get(name, ())]

    def full(self, host: str, namespace: str) -> str:
        """A name without a dot is of the namespace in which it is written."""
        host = host.lower().removesuffix(".")
        return host if "." in host or host == _ANY else self._world.settings.hostname(namespace, host)

    def unsure(self) -> bool:
        """Whether a host that is not found may exist all the same: not every service could be read."""
        return bool(self._world.unseen.intersection(("Service", "ServiceEntry")))

    def _add(self, host: Host) -> None:
        self._named.setdefault(host.name, []).append(host)

    def _add_faulty(self) -> None:
        """Objects with an error are not in the store; that they are there is no secret all the same."""
        for one in self._world.of("Service"):
            if (one.key[1], one.key[2]) not in self._world.store.of(Service):
                self._add(Host(self._world.settings.hostname(one.key[1], one.key[2]), one.key, sure=False))
        for one in self._world.of("ServiceEntry"):
            if (one.key[1], one.key[2]) not in self._world.store.of(ServiceEntry):
                for host in one.spec["hosts"].texts():
                    self._add(Host(host.text.lower(), one.key, sure=False))

    def _visible(self, host: Host, namespace: str) -> bool:
        return exported(host.export_to, (), host.key[1], namespace)


def spellings(full: str) -> Iterator[str]:
    """A full name, and every wildcard that covers it."""
    yield full
    rest = full.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    yield _ANY


def overlap(mine: Iterable[str], theirs: Iterable[str], my_namespace: str, their_namespace: str) -> bool:
    """Whether two `exportTo` share a namespace."""

    def places(export_to: Iterable[str], own: str) -> set[str]:
        return {own if place == "." else place for place in export_to} or {_ANY}

    left, right = places(mine, my_namespace), places(theirs, their_namespace)
    return _ANY in left or _ANY in right or bool(left & right)
