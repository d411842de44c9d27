"""What others have published, and which of our results stands beside it.

A figure is only as good as its conditions: they are part of it, and the comparison shows them. Where ours differ (the
machine always does), the `caveat` says how.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from bench.reporting import readings
from bench.reporting.readings import Reading
from bench.reporting.units import FROM_MICROSECONDS, GBIT, MB, MIB, PER_SECOND, VCPU, Scale, significant
from bench.results import Document, Measured

Quantity = Literal[
    "vcpu", "memory", "memory alone", "idle memory", "added p90", "added p99", "throughput", "cpu per unit", "tunnels"
]
Scope = Literal["proxy", "path"]

TUNNELS: Final = 10_000
"""Open connections that the published memory figure is for."""


class Source(NamedTuple):
    """Who said it, and of what."""

    title: str
    conditions: str


class Missing(NamedTuple):
    """A document does not have it; `reason` says what it lacks."""

    reason: str


class Found(NamedTuple):
    """A document has it. `flaws` say why it must not be used; empty when it may be."""

    measured: Measured
    reading: Reading
    flaws: list[str]


class Counterpart(NamedTuple):
    """Where to look in a document. Scope "proxy" is the dearest of the measured proxies, "path" all of them."""

    scenario: str
    load: str
    scope: Scope
    quantity: Quantity

    def look(self, document: Document) -> Found | Missing:
        """The figure, or what is missing."""
        measured = readings.find(document, self.scenario, self.load)
        if measured is None:
            return Missing(f"{self.scenario} under {self.load}")
        found = self._of_path(measured) if self.scope == "path" else self._of_proxy(document, measured)
        if found is None:
            return Missing(f"{self.quantity} of {self.scenario} under {self.load}")
        if self.quantity.startswith("added"):
            return Found(measured, found, readings.flaws_of_added(document, measured))
        return Found(measured, found, readings.flaws(measured))

    def _of_path(self, measured: Measured) -> Reading | None:
        if self.quantity in {"added p90", "added p99"}:
            figure = measured.added_us.get(self.quantity.removeprefix("added "))
        elif self.quantity == "throughput":
            figure = measured.rate
        else:
            figure = measured.cpu_total if readings.priced(measured) else None
        return None if figure is None else Reading(figure.median, figure.low, figure.high)

    def _of_proxy(self, document: Document, measured: Measured) -> Reading | None:
        look, scale = _OF_PROXY[self.quantity]
        each = {proxy: look(measured, proxy) for proxy in readings.proxies(document, measured)}
        known = {proxy: found for proxy, found in each.items() if found is not None}
        if not known:
            return None
        dearest = max(known.values(), key=lambda found: found.value)
        parts = ", ".join(f"{proxy} {significant(found.value * scale.factor)}" for proxy, found in known.items())
        return dearest._replace(detail=parts if len(known) > 1 else "")


def _memory(measured: Measured, proxy: str) -> Reading | None:
    return _exact(readings.memory_of(measured, proxy, "load"))


def _alone(measured: Measured, proxy: str) -> Reading | None:
    return _exact(readings.alone_of(measured, proxy))


def _idle(measured: Measured, proxy: str) -> Reading | None:
    return _exact(readings.memory_of(measured, proxy, "idle"))


def _tunnels(measured: Measured, proxy: str) -> Reading | None:
    each = readings.tunnel_bytes_of(measured, proxy)
    return None if each is None else _exact(each * TUNNELS)


def _exact(value: float | None) -> Reading | None:
    return None if value is None else Reading(value, value, value)


_OF_PROXY: Final[dict[str, tuple[Callable[[Measured, str], Reading | None], Scale]]] = {
    "vcpu": (readings.vcpu_of, VCPU),
    "memory": (_memory, MB),
    "memory alone": (_alone, MB),
    "idle memory": (_idle, MB),
    "cpu per unit": (readings.cpu_of, Scale(1e6, "us")),
    "tunnels": (_tunnels, MB),
}


class Published(NamedTuple):
    """One figure. `value` is in the units of a document (cores, bytes, s, us, GB/s), `scale` shows it."""

    group: str
    title: str
    value: float
    scale: Scale
    source: Source
    ours: Counterpart
    envoy: Counterpart
    higher_is_better: bool = False
    of_envoy: bool = False
    """The published proxy is Envoy: then Envoy here over published tells the machines apart."""
    caveat: str = ""


class Reservation(NamedTuple):
    """What a chart asks the scheduler for, by default: cores and bytes."""

    cores: float
    memory: int


CHARTS: Final = Source(
    "Istio's Helm charts, default values",
    "resource requests per instance; what a user pays for, whatever is used",
)
RESERVATIONS: Final = {
    "ztunnel": Reservation(0.2, 512 * 1024**2),
    "istio-cni": Reservation(0.1, 100 * 1024**2),
    "waypoint": Reservation(0.1, 128 * 1024**2),
    "sidecar": Reservation(0.1, 128 * 1024**2),
}

ISTIO_124: Final = Source(
    "Istio performance page, release 1.24",
    "five bare-metal machines (m3.large), HTTP/1.1, 1 KB, 1,000 requests/s over 4 connections, 2 workers, mutual TLS",
)
ISTIO_122: Final = Source(
    "Istio performance page, release 1.22",
    "HTTP/1.1, 1 KB, 1,000 requests/s, 1 to 64 connections, 2 workers, mutual TLS, two ztunnels",
)
ISTIO_120: Final = Source(
    "Istio performance page, release 1.20",
    "HTTP/1.1, 1 KB, 1,000 requests/s, 2 to 64 connections, 2 workers, mutual TLS, two sidecars",
)
ZTUNNEL_1174: Final = Source(
    "istio/ztunnel 1174, June 2024", "iperf3 through two ztunnels on one machine, HBONE, 2 workers each"
)
ISTIO_50373: Final = Source(
    "istio/istio 50373, April 2024", "iperf3, one connection, client and server on the same node, release build"
)
ZTUNNEL_1288: Final = Source(
    "istio/ztunnel 1288, release 1.23", "a user's cluster: 72,000 new connections a minute cost about 2 vCPU"
)
ZTUNNEL_1995: Final = Source(
    "istio/ztunnel 1995, release 1.31",
    "fortio over 1 kept connection, and resident memory of an idle ztunnel (jemalloc)",
)
ZTUNNEL_1024: Final = Source(
    "istio/ztunnel 1024", "heap of one ztunnel with 10,000 open connections, after buffers became dynamic"
)

MESH_RATE: Final = 70_000
"""Requests/s through the whole mesh in Istio's load test, in every edition of its performance page."""
MESH_RATE_SOURCE: Final = (
    "the mesh of Istio's load test, the only mesh-wide rate that Istio publishes (1,000 services, 2,000 pods)"
)


class Calculator(NamedTuple):
    """The example of the ambient mesh cost calculator, as others quote it: the page itself gives no formula."""

    pods: int
    namespaces: int
    nodes: int
    sidecars_cores: float
    ambient_cores: tuple[float, float]
    saved: float
    """Dollars a year."""


CALCULATOR: Final = Calculator(10_000, 50, 100, 1000, (20, 74), 432_674)
CALCULATOR_SOURCE: Final = Source("Ambient mesh cost calculator, as quoted by articles about it", "example fleet")

# Which scenarios stand for a component: ours, and the Envoy that does the same work here.
_COMPONENTS: Final = {
    "ztunnel": ("ambient-l4", "envoy-hbone"),
    "waypoint": ("ambient-waypoint", "envoy-waypoint-1"),
    "sidecar": ("ambient-l4", "envoy-sidecar"),
}
_RATE: Final = "rate-1000-c4"
_ENVOYS: Final = frozenset({"waypoint", "sidecar"})
_OTHER_MACHINE: Final = "absolute figures of different machines"
_SHARED: Final = "PSS of all its processes: what several proxies of this machine have in common is shared out"
_ALONE: Final = "all its processes as if nothing else mapped their files: what a container would be charged with"
_INSTEAD: Final = "ours is the ztunnel that stands in a sidecar's place; it does not parse HTTP"


def _used(component: str, cores: float, megabytes: float) -> list[Published]:
    """The two figures of the performance page for one proxy at work; memory both ways it can be counted."""
    found = []
    quantities: tuple[tuple[Quantity, str, float, Scale, str], ...] = (
        ("vcpu", "CPU", cores, VCPU, _OTHER_MACHINE),
        ("memory", "memory (PSS)", megabytes * 1e6, MB, _SHARED),
        ("memory alone", "memory (alone)", megabytes * 1e6, MB, _ALONE),
    )
    for quantity, what, value, scale, how in quantities:
        caveat = [how, *([_INSTEAD] if component == "sidecar" else [])]
        found.append(
            Published(
                "One proxy at 1,000 requests/s",
                f"{component}, {what}",
                value,
                scale,
                ISTIO_124,
                *_counterparts(component, quantity),
                of_envoy=component in _ENVOYS,
                caveat="; ".join(caveat),
            )
        )
    return found


def _reserved(component: str) -> list[Published]:
    """What the chart reserves, beside what is used at 1,000 requests/s."""
    asked = RESERVATIONS[component]
    quantities: tuple[tuple[Quantity, float, Scale], ...] = (
        ("vcpu", asked.cores, VCPU),
        ("memory alone", asked.memory, MIB),
    )
    return [
        Published(
            "Reserved by the charts, against what is used at 1,000 requests/s",
            f"{component}, {'CPU' if quantity == 'vcpu' else 'memory'} reserved",
            value,
            scale,
            CHARTS,
            *_counterparts(component, quantity),
            caveat=f"a reservation against a use{'; ' + _INSTEAD if component == 'sidecar' else ''}",
        )
        for quantity, value, scale in quantities
    ]


def _counterparts(component: str, quantity: Quantity) -> tuple[Counterpart, Counterpart]:
    ours, envoy = _COMPONENTS[component]
    return Counterpart(ours, _RATE, "proxy", quantity), Counterpart(envoy, _RATE, "proxy", quantity)


def _latency(title: str, source: Source, envoy: str, p90: float, p99: float, *, of_envoy: bool) -> list[Published]:
    """Added latency in ms. The page names a range of connection counts, so both of ours are set beside it."""
    figures: tuple[tuple[Quantity, float], ...] = (("added p90", p90), ("added p99", p99))
    return [
        Published(
            "Latency added at 1,000 requests/s",
            f"{title}, {quantity.removeprefix('added ').upper()}, {connections} connections here",
            milliseconds * 1e3,
            FROM_MICROSECONDS,
            source,
            Counterpart("ambient-l4", f"rate-1000-c{connections}", "path", quantity),
            Counterpart(envoy, f"rate-1000-c{connections}", "path", quantity),
            of_envoy=of_envoy,
            caveat="here one machine holds everything, and time counts from when a request was due",
        )
        for connections in (4, 16)
        for quantity, milliseconds in figures
    ]


def _bulk(title: str, source: Source, load: str, gbits: float) -> Published:
    return Published(
        "Throughput",
        title,
        gbits / 8,
        GBIT,
        source,
        Counterpart("ambient-l4", load, "path", "throughput"),
        Counterpart("envoy-hbone", load, "path", "throughput"),
        higher_is_better=True,
        caveat="client, proxies and server share the cores of one machine",
    )


PUBLISHED: Final = (
    *_used("ztunnel", 0.06, 12),
    *_used("waypoint", 0.25, 60),
    *_used("sidecar", 0.20, 60),
    *_latency("two ztunnels", ISTIO_122, "envoy-hbone", 0.17, 0.20, of_envoy=False),
    *_latency("a pair of sidecars", ISTIO_120, "envoy-sidecar", 0.228, 0.298, of_envoy=True),
    _bulk("one stream up, two ztunnels", ZTUNNEL_1174, "upload-1", 11.5),
    _bulk("four streams up, two ztunnels", ZTUNNEL_1174, "upload-4", 11.3),
    _bulk("one stream up, client and server on one node", ISTIO_50373, "upload-1", 8.69),
    Published(
        "Throughput",
        "requests/s of one connection in a closed loop",
        9600,
        PER_SECOND,
        ZTUNNEL_1995,
        Counterpart("ambient-l4", "closed-1", "path", "throughput"),
        Counterpart("envoy-hbone", "closed-1", "path", "throughput"),
        higher_is_better=True,
        caveat=_OTHER_MACHINE,
    ),
    Published(
        "Connections",
        "CPU of one ztunnel per new connection",
        2 / 1200,
        Scale(1e6, "us"),
        ZTUNNEL_1288,
        Counterpart("ambient-l4", "fresh", "proxy", "cpu per unit"),
        Counterpart("envoy-hbone", "fresh", "proxy", "cpu per unit"),
        caveat="theirs is a cluster in use: each connection may be to a new destination, ours are all to one",
    ),
    Published(
        "Connections",
        "memory of one ztunnel for 10,000 open connections",
        38e6,
        MB,
        ZTUNNEL_1024,
        Counterpart("ambient-l4", "idle-10000", "proxy", "tunnels"),
        Counterpart("envoy-hbone", "idle-10000", "proxy", "tunnels"),
        caveat="ours is growth of private memory, idle connections",
    ),
    Published(
        "Connections",
        "memory of an idle ztunnel",
        3.6e6,
        MB,
        ZTUNNEL_1995,
        Counterpart("ambient-l4", _RATE, "proxy", "idle memory"),
        Counterpart("envoy-hbone", _RATE, "proxy", "idle memory"),
        caveat="theirs is resident memory of one process, ours PSS of all its processes before the first load",
    ),
    *_reserved("ztunnel"),
    *_reserved("waypoint"),
    *_reserved("sidecar"),
)
"""All of them, in the order of the comparison. What only charts show, with no number in the text, is not here."""
