"""Metrics as OpenMetrics text, under upstream's names. Traffic is counted by the workers and summed here."""

from __future__ import annotations

import os
import resource
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from meshcore.records import Flag, PageCell, SlotCell
from ztunnel.http import TEXT, Request, Response
from ztunnel.ids import LabelTable, failures
from ztunnel.labels import LabelSet, series
from ztunnel.pages import Pages

OPENMETRICS: Final = "application/openmetrics-text"
OPENMETRICS_TYPE: Final = "application/openmetrics-text;charset=utf-8;version=1.0.0"
_GZIP_WBITS: Final = 31
_COMPRESS_FROM: Final = 1024  # bytes
UNSTABLE: Final = "(unstable)"

_GAUGES: Final = {
    PageCell.FLOWS_OPEN: "Connections that are relayed",
    PageCell.TUNNELS_OPEN: "HBONE connections that are open, both directions",
    PageCell.SOCKETS_OPEN: "Sockets, listeners included",
    PageCell.BUFFERS_OUT: "Buffers of 16 KiB that hold bytes in flight",
    PageCell.BUFFERS_HIGH: "Highest number of buffers that were in use at once",
    PageCell.FLOW_ENTRIES: "Verdicts in the flow table",
}
_HIDDEN: Final = frozenset({PageCell.PID, PageCell.CLOCK_MS})


class Page:
    """Text under construction. Families without a sample are left out, as upstream does."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(
        self, name: str, kind: str, text: str, samples: Iterable[tuple[str, float]], *, core: bool = False
    ) -> None:
        """`samples` are (labels as text, value). Counters get `_total` behind their name."""
        suffix = "_total" if kind == "counter" else ""
        lines = [
            f"{name}{suffix}{{{labels}}} {value}" if labels else f"{name}{suffix} {value}" for labels, value in samples
        ]
        if lines:
            note = "." if core else f" {UNSTABLE}."
            self._lines += [f"# HELP {name} {text}{note}", f"# TYPE {name} {kind}", *lines]

    def text(self) -> str:
        return "\n".join([*self._lines, "# EOF"]) + "\n"


def traffic(page: Page, totals: Iterable[tuple[LabelSet, Sequence[int]]]) -> None:
    """The istio_tcp_* families. A failed connection is closed and failed, both with its flag, and opened with `-`."""
    opened: list[tuple[str, float]] = []
    closed: list[tuple[str, float]] = []
    received: list[tuple[str, float]] = []
    sent: list[tuple[str, float]] = []
    failed: list[tuple[str, float]] = []
    sockets: dict[str, int] = {}
    for labels, cells in totals:
        rendered = series(labels)
        plain = rendered.text(Flag.NONE)
        broken = [(rendered.text(flag), count) for flag, count in failures(cells)]
        if cells[SlotCell.OPENED]:
            opened.append((plain, cells[SlotCell.OPENED]))
            received.append((plain, cells[SlotCell.RECEIVED]))
            sent.append((plain, cells[SlotCell.SENT]))
        if cells[SlotCell.CLOSED]:
            closed.append((plain, cells[SlotCell.CLOSED]))
        closed += broken
        failed += broken
        ended = cells[SlotCell.CLOSED] + sum(count for _, count in broken)
        reporter = labels.reporter or "unknown"
        sockets[reporter] = sockets.get(reporter, 0) + max(0, cells[SlotCell.OPENED] - ended)
    page.family(
        "istio_tcp_connections_opened", "counter", "The total number of TCP connections opened", opened, core=True
    )
    page.family(
        "istio_tcp_connections_closed", "counter", "The total number of TCP connections closed", closed, core=True
    )
    text = "The size of total bytes received during request in case of a TCP connection"
    page.family("istio_tcp_received_bytes", "counter", text, received, core=True)
    text = "The size of total bytes sent during response in case of a TCP connection"
    page.family("istio_tcp_sent_bytes", "counter", text, sent, core=True)
    page.family("istio_tcp_connections_failed", "counter", "The total number of TCP connections that failed", failed)
    gauge = sorted((f'reporter="{reporter}"', float(count)) for reporter, count in sockets.items())
    page.family("istio_tcp_sockets_open", "gauge", "The number of captured TCP connections that are open", gauge)


def workers(page: Page, pages: Pages) -> None:
    """What each worker counts of itself."""
    for cell in PageCell:
        if cell in _HIDDEN:
            continue
        name = f"ambient_ztunnel_worker_{cell.name.lower()}"
        samples = [(f'worker="{index}"', each.cell(cell)) for index, each in enumerate(pages.pages)]
        text = _GAUGES.get(cell)
        if text is not None:
            page.family(name, "gauge", text, samples)
        else:
            page.family(name, "counter", f"Worker events: {cell.name.lower().replace('_', ' ')}", samples)


def process(page: Page) -> None:
    """Descriptors of this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - pathlib makes an object of each
    page.family("process_open_fds", "gauge", "Number of open file descriptors", [("", open_fds)], core=True)
    page.family("process_max_fds", "gauge", "Maximum number of open file descriptors", [("", limit)], core=True)


def labelled(label: str, values: Mapping[str, int]) -> list[tuple[str, float]]:
    """Samples of a family with one label."""
    return [(f'{label}="{value}"', count) for value, count in sorted(values.items())]


class Metrics:
    """Renders everything at scrape time. `own(page)` adds what the rest of the control process counts."""

    def __init__(self, pages: Pages, labels: LabelTable, own: Callable[[Page], None]) -> None:
        self._pages = pages
        self._labels = labels
        self._own = own

    def render(self) -> str:
        page = Page()
        traffic(page, self._labels.totals(self._pages.read))
        self._own(page)
        workers(page, self._pages)
        process(page)
        return page.text()

    async def serve(self, request: Request) -> Response:
        """GET /metrics: the OpenMetrics content type for those who ask for it; gzip likewise."""
        body = self.render().encode()
        kind = OPENMETRICS_TYPE if OPENMETRICS in request.headers.get("accept", "") else TEXT
        extra = [("vary", "accept-encoding")]
        if len(body) >= _COMPRESS_FROM and accepts_gzip(request.headers.get("accept-encoding", "")):
            squeeze = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
            body = squeeze.compress(body) + squeeze.flush()
            extra.append(("content-encoding", "gzip"))
        return Response(200, body, kind, tuple(extra))


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110 section 12.5.3)."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        coding, _, parameter = part.strip().partition(";")
        name, _, value = parameter.strip().partition("=")
        try:
            weights[coding.strip().lower()] = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            return False
    return weights.get("gzip", weights.get("*", 0.0)) > 0
