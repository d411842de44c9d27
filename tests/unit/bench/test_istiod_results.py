"""What a run of the bench of istiod comes to: spreads, slopes, the document, the page."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.errors import BenchError
from bench.istiod import document, page, summary
from bench.istiod.document import Cost, Deaths, Document, Point, Reconnects, Rollout, Start, spread
from bench.istiod.fleet import Sizes
from bench.istiod.world import parse_metrics


def cost(cpu: float) -> Cost:
    return Cost(10.0, cpu, 0.01, responses=200, message_bytes=5_000, received=9_000, sent=1_000, connections=0)


def point(pods: int, *, noisy: bool = False) -> Point:
    """Memory of 50 MB, 10 KB a pod, and 200 bytes for each of 100 times as many resources as there are pods."""
    alone, held = 50_000_000 + 10_000 * pods, 100 * pods
    start = Start(
        ready=1.5,
        ready_cpu=1.25,
        ready_pss=alone,
        sync=2.5,
        first_half=1.0,
        cost=cost(2.0),
        pss=alone + 200 * held,
        rss=alone,
        peak_rss=2 * alone,
        held=held,
    )
    figures = spread([0.01 * number for number in range(1, 101)])
    deaths = Deaths(figures, figures, figures, figures, cost(1.2), pushes=50)
    reconnects = Reconnects(spread([3.0]), spread([2.0]), [cost(2.0)], pss=alone)
    rollout = Rollout(100, 50.0, 2.0, 0.25, figures, cost(0.5), pss=alone)
    return Point(Sizes().scaled(pods), [start], 4.0, deaths, reconnects, rollout, noisy)


def result(*points: Point) -> Document:
    return Document(document.FORMAT, {"cpu": "Example <CPU>"}, "fake", 0.1, ["t"], list(points), summary.memory(points))


def test_the_99th_percentile_of_a_few_is_the_worst_of_them() -> None:
    few = spread([3.0, 1.0, 2.0])
    assert (few.low, few.median, few.p99, few.high, few.samples) == (1.0, 2.0, 3.0, 3.0, 3)
    many = spread([float(number) for number in range(1, 201)])
    assert (many.p99, many.high) == (198.0, 200.0)


def test_memory_is_told_apart_by_pods_and_by_what_clients_hold() -> None:
    found = summary.memory([point(1_000), point(3_000), point(10_000)])
    assert found is not None
    assert found.base == pytest.approx(50e6)
    assert found.per_pod == pytest.approx(10_000)
    assert found.per_held == pytest.approx(200)
    assert summary.memory([point(1_000)]) is None


def test_series_of_one_metric_are_summed() -> None:
    text = '# TYPE a counter\na{type="x"} 1\na{type="y"} 2.5\nb_sum 0.25\nb_bucket{le="+Inf"} 3\n'
    assert parse_metrics(text) == {"a": 3.5, "b_sum": 0.25, "b_bucket": 3.0}


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = result(point(1_000), point(3_000, noisy=True))
    document.write(tmp_path / "new" / "result.json", written)
    assert document.read(tmp_path / "new" / "result.json") == written


def test_a_file_that_is_none_is_named_with_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(BenchError, match=r"result\.json cannot be read"):
        document.read(path)
    path.write_text('{"format": 1}')
    with pytest.raises(BenchError, match=r"result\.json is no result .*machine"):
        document.read(path)
    document.write(path, msgspec.structs.replace(result(), format=99))
    with pytest.raises(BenchError, match="format 99"):
        document.read(path)


def test_the_table_has_a_column_for_each_size() -> None:
    out = Console(record=True, width=200)
    summary.show(out, result(point(1_000), point(3_000, noisy=True)))
    text = out.export_text()
    assert "3000 (noisy)" in text
    assert "24.0" in text  # ms of CPU a push: 1.2 s for 50
    assert "10.00 KB for each pod" in text


def test_a_point_without_some_stages_has_gaps_and_no_curve() -> None:
    bare = msgspec.structs.replace(point(1_000), deaths=None, reconnects=None, rollout=None)
    heads, rows = summary.rows(result(bare))
    assert len(heads) == len(rows[0])
    assert rows[0][-1] == ""
    assert "<svg" in page.render(result(bare))


def test_the_page_loads_nothing_and_escapes_what_it_is_given() -> None:
    html = page.render(result(point(1_000), point(10_000)))
    assert html.count("<svg") == 1
    assert "Example &lt;CPU&gt;" in html
    assert "http" not in html.replace("http://www.w3.org/", "")
    for head in summary.rows(result(point(1_000)))[0]:
        assert head in html
