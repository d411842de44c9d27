"""Metrics: names and labels as upstream's, text that a parser accepts."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
from collections.abc import Iterator

import pytest

from meshcore.records import PAGE_BYTES, SLOT_BYTES, Flag, SlotCell
from ztunnel import metrics
from ztunnel.http import Request
from ztunnel.ids import LabelTable
from ztunnel.labels import LabelSet, Party, Target
from ztunnel.metrics import Metrics, Page, accepts_gzip
from ztunnel.pages import Pages

CLIENT = Party("p", "client", "client", "v1", "a", "spiffe://t/ns/a/sa/c", "client", "Kubernetes")
LABELS = LabelSet("source", CLIENT, Party(), Target('s"1', "b", "s"), mutual_tls=True)


@pytest.fixture
def pages() -> Iterator[Pages]:
    found = Pages(2)
    yield found
    found.close()


def count(pages: Pages, worker: int, slot: int, cell: int, number: int) -> None:
    os.pwrite(pages[worker].fd, number.to_bytes(8, "little"), PAGE_BYTES + slot * SLOT_BYTES + 8 * cell)


@pytest.fixture
def source(pages: Pages) -> Metrics:
    labels = LabelTable()
    slot = labels.intern(LABELS)
    for worker in (0, 1):
        count(pages, worker, slot, SlotCell.OPENED, 5)
        count(pages, worker, slot, SlotCell.CLOSED, 2)
        count(pages, worker, slot, SlotCell.RECEIVED, 1000)
    count(pages, 1, slot, SlotCell.FAILED + Flag.CONNECT, 1)
    return Metrics(pages, labels, lambda page: page.family("x", "gauge", "Own", [("", 3)]))


def sample(text: str, name: str, **labels: str) -> float | None:
    for line in text.splitlines():
        if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    return None


def test_traffic_is_summed_over_workers_and_split_by_flag(source: Metrics) -> None:
    text = source.render()
    assert sample(text, "istio_tcp_connections_opened_total", reporter="source", response_flags="-") == 10
    assert sample(text, "istio_tcp_connections_closed_total", response_flags="-") == 4
    assert sample(text, "istio_tcp_connections_closed_total", response_flags="CONNECT") == 1
    assert sample(text, "istio_tcp_connections_failed_total", response_flags="CONNECT") == 1
    assert sample(text, "istio_tcp_received_bytes_total", source_workload="client") == 2000
    assert sample(text, "istio_tcp_sockets_open", reporter="source") == 5


def test_labels_stand_in_upstreams_order_and_are_escaped(source: Metrics) -> None:
    (line,) = [line for line in source.render().splitlines() if line.startswith("istio_tcp_connections_opened_total")]
    names = re.findall(r'[{,](\w+)="', line)
    assert names[:3] == ["reporter", "source_workload", "source_canonical_service"]
    assert names[20:23] == ["request_protocol", "response_flags", "connection_security_policy"]
    assert r'destination_service="s\"1"' in line
    assert 'destination_workload="unknown"' in line
    assert 'connection_security_policy="mutual_tls"' in line


def test_the_text_is_openmetrics(source: Metrics) -> None:
    text = source.render()
    assert text.endswith("# EOF\n")
    kinds: dict[str, str] = {}
    helped = set()
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            assert name in helped
            kinds[name] = kind
        elif line.startswith("# HELP "):
            name = line.split(" ")[2]
            helped.add(name)
            core = name.removeprefix("istio_tcp_") in {
                "connections_opened",
                "connections_closed",
                "received_bytes",
                "sent_bytes",
            }
            assert (metrics.UNSTABLE in line) != (core or name.startswith("process_") or name == "istio_build")
        else:
            found = re.fullmatch(r'(\w+)(\{(\w+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+]+', line)
            assert found, line
            family = found[1].removesuffix("_total") if found[1].endswith("_total") else found[1]
            assert kinds[family] == ("counter" if found[1].endswith("_total") else "gauge")
    assert helped == set(kinds)


def test_workers_are_shown_one_by_one(source: Metrics, pages: Pages) -> None:
    os.pwrite(pages[1].fd, (77).to_bytes(8, "little"), 8 * 3)
    text = source.render()
    assert sample(text, "ambient_ztunnel_worker_accept_total", worker="0") == 0
    assert sample(text, "ambient_ztunnel_worker_accept_total", worker="1") == 77
    assert sample(text, "process_open_fds") is not None
    assert "ambient_ztunnel_worker_pid" not in text


def test_families_without_samples_are_left_out() -> None:
    page = Page()
    page.family("empty", "counter", "Nothing", [])
    assert page.text() == "# EOF\n"


def test_the_content_type_and_the_compression_follow_the_request(source: Metrics) -> None:
    def get(**headers: str) -> tuple[str, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = asyncio.run(source.serve(Request("GET", "/metrics", [], named)))
        return response.content_type, dict(response.headers), response.body

    kind, headers, body = get()
    assert kind == "text/plain; charset=utf-8"
    assert "content-encoding" not in headers
    kind, headers, packed = get(accept="application/openmetrics-text;version=1.0.0,*/*", accept_encoding="gzip")
    assert kind == "application/openmetrics-text;charset=utf-8;version=1.0.0"
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == body


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("*;q=0.1, gzip;q=0", False),
        ("gzip;q=x", False),
    ],
)
def test_accept_encoding(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted
