"""The report: merging, the page, its plots, the Markdown, and the command."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from click.testing import CliRunner, Result

from bench import fleet, results
from bench.errors import BenchError
from bench.fleet import Fleet
from bench.reporting import command, markdown, merging, names, page, palette, plots, readings, tables, units
from bench.reporting.bars import Plot
from bench.results import Document, Figure, Measured, Scenario
from tests.unit.bench.support import MACHINE, added, direct, document, envoy, figure, measured, ours, waypoint

SWEEP = (500, 1000, 1500)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements in order, the text of each, and whether every one was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def row(self, title: str) -> list[str]:
        """The cells beside the first row header that starts so."""
        return next(row[1:] for row in self.rows if row and row[0].startswith(title))

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def full() -> Document:
    """Several scenarios under loads of each kind."""
    every: list[Measured] = []
    for rate in SWEEP:
        load = f"rate-{rate}-c4"
        every += [direct(load, rate=float(rate)), ours(load, rate=float(rate))]
        every += [envoy(name, load, rate=float(rate)) for name in ("envoy-hbone", "envoy-sidecar")]
    every += [waypoint(), ours("closed-64", cpu={"ztunnel-1/worker-0": 9e-6, "ztunnel-2/worker-0": 9e-6}, added_us={})]
    calls = {"ztunnel-1/worker-0": 4.0, "ztunnel-2/worker-0": 4.5}
    every += [ours("rate-1000-c16", syscalls=calls), envoy("envoy-hbone", "rate-1000-c16")]
    every += [measured("ambient-l4", "upload-1", {"ztunnel-1/worker-0": 0.7}, unit="GB", rate=0.5)]
    return document(every)


def merged(*documents: Document) -> merging.Merged:
    return merging.merge([(f"run-{number}.json", each) for number, each in enumerate(documents)])


@functools.cache
def full_page() -> str:
    return html(full())


@functools.cache
def full_plots() -> dict[str, Plot]:
    return drawn(full())


def html(*documents: Document) -> str:
    one = merged(*documents)
    return page.render(one, page.gather(one, 70_000, fleet.default_prices(), Fleet()))


def text(*documents: Document) -> str:
    one = merged(*documents)
    return markdown.render(one, page.gather(one, 70_000, fleet.default_prices(), Fleet()))


def drawn(one: Document) -> dict[str, Plot]:
    styles = palette.styles(each.scenario for each in one.measured)
    return {plot.name: plot for plot in plots.plots(one, styles)}


# Numbers and names


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.06123, "0.0612"), (12.345, "12.3"), (1234.5, "1,234"), (0, "0"), (-0.0567, "-0.0567"), (999.6, "1,000")],
)
def test_numbers_have_three_significant_digits(value: float, shown: str) -> None:
    assert units.significant(value) == shown


def test_a_range_is_shown_unless_there_was_one_round() -> None:
    assert units.spread(Figure(121e-6, 118e-6, 130e-6, 5), 1e6) == "121 [118-130]"
    assert units.spread(Figure(121e-6, 118e-6, 130e-6, 1), 1e6) == "121"
    assert units.spread(Figure(-1.0, -2.0, 3.0, 5)) == "-1.00 [-2.00 to 3.00]"


def test_loads_are_in_order_and_a_sweep_stands_for_itself_once() -> None:
    given = ["soak", "closed-64", "rate-1500-c4", "rate-500-c4", "odd", "rate-1000-c4", "closed-1", "rate-1000-c16"]
    expected = ["rate-500-c4", "rate-1000-c4", "rate-1500-c4", "rate-1000-c16", "closed-1", "closed-64", "soak", "odd"]
    assert names.ordered(given) == expected
    kept = ["rate-1000-c4", "rate-1000-c16", "closed-1", "closed-64", "soak", "odd"]
    assert names.without_sweeps(given) == kept
    assert names.title("rate-1000-c4") == "1,000 requests/s over 4 connections"
    assert names.title("odd") == "odd"


# Merging


def test_the_later_file_counts_for_the_same_scenario_and_load() -> None:
    first = document([ours(rate=999.0), envoy("envoy-hbone")])
    second = document([ours(rate=1001.0), ours("closed-64")])
    one = merged(first, second)
    found = {(each.scenario, each.load): each.rate.median for each in one.document.measured}
    assert found["ambient-l4", "rate-1000-c4"] == 1001.0
    assert set(found) == {
        ("ambient-l4", "rate-1000-c4"),
        ("envoy-hbone", "rate-1000-c4"),
        ("ambient-l4", "closed-64"),
    }
    assert one.warnings == []
    assert not one.together("rate-1000-c4", "ambient-l4", "envoy-hbone")


def test_results_of_different_machines_are_a_warning_that_says_what_differs() -> None:
    other = dict(MACHINE) | {"cpu": "Another CPU", "date": "2026-11-24T10:00:00+00:00"}
    documents = document([ours()]), document([envoy("envoy-hbone")], machine=other)
    (warning,) = merged(*documents).warnings
    assert warning.startswith("DIFFERENT MACHINES: run-0.json and run-1.json differ in cpu (Example CPU / Another CPU)")
    assert warning in Page(html(*documents)).text
    assert warning.split(":")[0] in text(*documents)


def test_another_version_of_something_is_said_and_another_date_is_not() -> None:
    other = dict(MACHINE) | {"python": "3.13.0", "date": "2026-11-24T10:00:00+00:00", "load_before": 0.3}
    (warning,) = merged(document([ours()]), document([ours()], machine=other)).warnings
    assert warning == "run-0.json and run-1.json differ in python (3.11.2 / 3.13.0)"


# The page


def test_the_page_says_what_was_measured_when_and_on_what() -> None:
    words = Page(full_page()).text
    assert "5 scenarios under 6 loads, measured 2026-11-23 10:00 UTC on Example CPU, 2 cores, 7.8 GB" in words
    assert "All 17 results are usable." in words


def test_a_machine_that_says_nothing_is_unknown() -> None:
    assert "measured an unknown date on an unknown processor" in Page(html(document([ours()], machine={}))).text


def test_what_must_not_be_used_is_marked_everywhere() -> None:
    found = Page(html(document([direct(), ours(noisy=True), envoy("envoy-hbone", errors=3), envoy("envoy-sidecar")])))
    said = "2 of 4 results are usable. Not to be used: under rate-1000-c4 ambient-l4 (noisy); "
    assert said + "under rate-1000-c4 envoy-hbone (3 errors)." in found.text
    cells = found.row("ztunnel, CPU")
    assert cells[1].endswith("; unusable: noisy")
    assert cells[2].endswith("; unusable: 3 errors")
    assert cells[3:] == ["unusable", "unusable"]
    assert "ambient-l4 (unusable: noisy)" in {row[0] for row in found.rows if row}
    assert "not measured: ambient-l4 under rate-1000-c4 is unusable (noisy)" in found.text


def test_the_page_loads_nothing() -> None:
    source = full_page()
    found = Page(source)
    for tag, attributes in found.elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "image", "base", "form"}
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in source
    assert re.findall(r"url\((?!#)", source) == []
    policy = next(values["content"] for tag, values in found.elements if values.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_is_for_phones_and_dark_rooms() -> None:
    source = full_page()
    assert 'name="viewport" content="width=device-width' in source
    assert "@media (prefers-color-scheme: dark)" in source
    used = set(re.findall(r"var\((--[\w-]+)\)", source))
    light, dark = source.split("@media (prefers-color-scheme: dark)", 1)
    assert used == {name for name in used if f"{name}:" in light}
    assert used <= {name for name in used if f"{name}:" in dark.split("* { box-sizing", 1)[0]}


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    found = Page(full_page())
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(values.get("href") or "")[1:] for _, values in found.elements if "href" in values}
    clips = set(re.findall(r"url\(#([^)]+)\)", full_page()))
    assert links | clips <= set(ids)
    assert clips


def test_every_figure_is_in_a_table() -> None:
    found = Page(full_page())
    cells = {cell.strip() for row in found.rows for cell in row}
    assert "100 [90.0-110]" in cells  # us per request of the pair
    assert "40.0 [36.0-44.0]" in cells  # of one worker
    assert "240 [216-264]" in cells  # added P99
    assert "18.9 (10.5)" in cells  # idle, PSS and private
    assert "ztunnel-1/worker-0 (beside)" in cells
    assert "4.50" in cells  # system calls


def test_columns_that_nothing_fills_are_left_out() -> None:
    (group,) = tables.groups(document([ours(memory={}, added_us={})]))
    assert [table.title for table in group.tables] == ["Cost", "By process; memory is PSS (private)"]
    assert group.tables[-1].headers == ["scenario", "process", "CPU, us/request"]
    for table in group.tables:
        assert {len(row) for row in table.rows} == {len(table.headers)}


def test_the_path_without_proxies_has_no_cost() -> None:
    (group,) = tables.groups(document([direct(latency_us=added(50, 60, 70, 80))]))
    cost = dict(zip(group.tables[0].headers, group.tables[0].rows[0], strict=True))
    assert (cost["CPU, us/request"].text, cost["vCPU"].text) == ("", "")
    assert cost["rate"].text == "1,000 [999-1,001]/s"


def test_what_a_cpu_second_is_good_for_is_the_cost_the_other_way_round() -> None:
    made = measured(
        "ambient-l4", "fresh", {"ztunnel-1/worker-0": 100e-6, "ztunnel-2/worker-0": 100e-6}, unit="connection"
    )
    (group,) = tables.groups(document([made]))
    cost = dict(zip(group.tables[0].headers, group.tables[0].rows[0], strict=True))
    assert cost["connections per CPU second"].text == "5,000 [4,545-5,556]"
    free = msgspec.structs.replace(made, cpu_total=Figure(0.0, 0.0, 0.0, 5))
    (group,) = tables.groups(document([free]))
    assert (
        dict(zip(group.tables[0].headers, group.tables[0].rows[0], strict=True))["connections per CPU second"].text
        == ""
    )


def test_an_empty_document_makes_a_page_that_says_so() -> None:
    found = Page(html(document([])))
    assert "Nothing was measured." in found.text
    assert not any(tag == "svg" for tag, _ in found.elements)
    assert found.row("ztunnel, CPU")[1:] == ["not measured", "not measured", "-", "-"]


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "$\\frac{1}{$",
    "a|b\n| c | d",
    "]]>\x00\x1b[31m&amp;",
    "[link](javascript:alert(1))",
)


def named(name: str) -> Page:
    """A page in which everything that a document names has this name."""
    latency = added(1, 2, 3, 4)
    processes = {f"{name}/{name}": 1e-6, "x/worker-0": 1e-6}
    more: dict[str, Any] = {
        "latency_us": latency,
        "added_us": latency,
        "ratio": {name: figure(1)},
        "syscalls": processes,
    }
    described = [Scenario(name, f"about {name}", [name])]
    every = [measured(name, name, processes, **more), ours(scenario=name, noisy=True)]
    return Page(html(document(every, machine={"cpu": name, name: name}, scenarios=described)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_a_name(name: str) -> None:
    found = named(name)
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in named("harmless").elements}
    assert not any(key.startswith("on") for _, attributes in found.elements for key in attributes)
    # A NUL is no character of a page: every browser shows the replacement.
    assert name.replace("\x00", "\ufffd") in "".join(found.words).replace("\x00", "\ufffd")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_does_not_leave_its_cell_of_the_markdown(name: str) -> None:
    source = text(document([ours(scenario=name, load=name), ours("rate-1000-c4")]))
    assert "<script" not in source
    assert "<img" not in source
    assert not re.search(r"(?<!\\)\]\(", source)
    for block in re.findall(r"(?:^\|.*\n)+", source, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


# Plots


def test_plots_are_there_when_their_data_are() -> None:
    found = full_plots()
    assert {"cpu", "sweep", "memory", "bulk", "syscalls"} <= set(found)
    assert sum(name.startswith("latency-") for name in found) == 2
    assert set(drawn(document([ours(memory={}, added_us={})]))) == {"cpu"}
    assert drawn(document([direct()])) == {}


def test_a_plot_is_readable_without_seeing_it() -> None:
    for plot in full_plots().values():
        root = ET.fromstring(plot.svg)  # noqa: S314 - our own
        namespace = "{http://www.w3.org/2000/svg}"
        title, words = root.find(f"{namespace}title"), root.find(f"{namespace}desc")
        assert root.get("role") == "img"
        assert title is not None
        assert words is not None
        assert root.get("aria-labelledby") == f"{title.get('id')} {words.get('id')}"
        assert "ambient-l4" in (words.text or "")
    words_of_cpu = full_plots()["cpu"].svg.split("<desc", 1)[1].split("</desc>", 1)[0]
    assert "1,000 requests/s over 4 connections, CPU, us/request: ambient-l4 100; envoy-hbone 200" in words_of_cpu
    assert "envoy-waypoint-1 250 + 100 beside" in words_of_cpu


def test_text_is_text_and_axes_have_units() -> None:
    found = {name: set(re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)) for name, plot in full_plots().items()}
    assert {"CPU, us/request", "ambient-l4", "1,000 requests/s over 4 connections"} <= found["cpu"]
    assert {"requests/s", "vCPU, all proxies of the scenario"} <= found["sweep"]
    assert {"CPU, s/GB", "Gbit/s"} <= found["bulk"]
    assert "MB (PSS)" in found["memory"]
    assert "system calls per request" in found["syscalls"]


def test_what_must_not_be_used_is_marked_in_the_plots() -> None:
    broken = [ours(f"rate-{rate}-c4", rate=float(rate), noisy=rate == 1000) for rate in SWEEP]
    found = drawn(document(broken))
    assert "100  unusable: noisy" in found["cpu"].svg
    assert "(unusable: noisy)" in found["sweep"].svg
    assert "A hollow point is unusable." in found["sweep"].caption
    latency = next(plot.svg for name, plot in found.items() if name.startswith("latency-"))
    assert ">ambient-l4 (unusable)</text>" in latency
    assert "P99.9 0.900 ms (unusable: noisy)" in latency


def test_a_scenario_has_one_colour_everywhere() -> None:
    styles = palette.styles(["envoy-hbone", "new", "ambient-l4"])
    alone = palette.styles(["ambient-l4"])
    assert styles["ambient-l4"] == alone["ambient-l4"]
    assert styles["new"].variable not in {style.variable for name, style in styles.items() if name != "new"}
    for plot in full_plots().values():
        assert f"var({alone['ambient-l4'].variable})" in plot.svg
        assert palette.SCENARIOS["ambient-l4"].light not in plot.svg


def test_more_unknown_scenarios_than_colours_still_make_a_page() -> None:
    found = Page(html(document([ours(scenario=f"new-{number}") for number in range(12)])))
    assert {"new-0", "new-11"} <= {row[0] for row in found.rows if row}


def linear(colour: str) -> list[float]:
    levels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]


def contrast(first: str, second: str) -> float:
    light = sorted(
        sum(x * y for x, y in zip(linear(each), (0.2126, 0.7152, 0.0722), strict=True)) for each in (first, second)
    )
    return (light[1] + 0.05) / (light[0] + 0.05)


def oklab(levels: Iterable[float]) -> list[float]:
    """Linear RGB in a space where distances are those of the eye (Ottosson 2020)."""
    to_cones = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.63))
    to_lab = ((0.2105, 0.7936, -0.0041), (1.978, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087))
    clipped = [min(1.0, max(0.0, level)) for level in levels]
    cones = [sum(x * y for x, y in zip(row, clipped, strict=True)) ** (1 / 3) for row in to_cones]
    return [sum(x * y for x, y in zip(row, cones, strict=True)) for row in to_lab]


# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
EYES = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.052)),
    "deutan": ((0.3673, 0.8606, -0.228), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9689)),
    "tritan": ((1.2555, -0.0767, -0.1788), (-0.0784, 0.9308, 0.1476), (0.0047, 0.6914, 0.3039)),
}


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("eye", EYES)
def test_colours_differ_for_every_eye_and_stand_out_from_the_page(mode: str, eye: str) -> None:
    seen = {}
    for name, both in palette.SCENARIOS.items():
        colour = getattr(both, mode)
        assert contrast(colour, getattr(palette.PAGE, mode)) >= 3, name
        levels = linear(colour)
        seen[name] = oklab(sum(x * y for x, y in zip(row, levels, strict=True)) for row in EYES[eye])
    for first, second in itertools.combinations(seen, 2):
        distance = sum((x - y) ** 2 for x, y in zip(seen[first], seen[second], strict=True)) ** 0.5
        assert distance > 0.07, (first, second)


# Markdown


def test_the_markdown_has_the_comparison_and_the_main_figures() -> None:
    source = text(full())
    assert (
        "| ztunnel, CPU | 0.06 vCPU | 0.0600 [0.0540-0.0660] vCPU | 0.100 [0.0900-0.110] vCPU | 1.00 x | 0.600 x "
        "| Istio performance page, release 1.24 |"
    ) in source
    assert "### 1,000 requests/s over 4 connections (rate-1000-c4)" in source
    assert (
        "| ambient-l4 | 100 [90.0-110] | 10,000 [9,091-11,111] | 0.100 [0.0900-0.110] | 1,000 [999-1,001]/s "
        "| 90.0 / 240 / 900 | 24.0 / - |"
    ) in source
    assert "CPU, traffic: rate x CPU per request of a pair of ztunnels = 70,000/s x 100 us = 7.00 vCPU" in source
    assert "not measured: ambient-waypoint under rate-1000-c4" in source


def test_ranges_and_names_stay_readable_in_markdown() -> None:
    assert markdown.text("0.73 [0.61-0.78] load_before") == "0.73 [0.61-0.78] load_before"
    assert markdown.text("a|b *c* _d_ `e` $5") == "a\\|b \\*c\\* \\_d\\_ \\`e\\` \\$5"


# The command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command.report_command, [str(each) for each in arguments])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "run-1.json"
    results.write(path, full())
    return path


def test_the_command_writes_both_and_says_where(stored: Path, tmp_path: Path) -> None:
    done = run(stored, "--out", tmp_path / "new" / "place", "--rate", 35_000, "--price", 100, "--price-gb", 10)
    assert (done.exit_code, done.stderr) == (0, "")
    page_file, text_file = map(Path, done.stdout.split())
    assert page_file == tmp_path / "new" / "place" / "report.html"
    assert "35,000/s x 100 us" in Page(page_file.read_text()).text
    assert "3.5 x $100.00" in Page(page_file.read_text()).text.replace("3.500", "3.5")
    assert text_file.read_text().startswith("5 scenarios under 6 loads")
    assert sorted(each.name for each in page_file.parent.iterdir()) == ["report.html", "report.md"]


def test_the_same_results_make_the_same_page(stored: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        assert run(stored, "--out", tmp_path / name).exit_code == 0
        pages.append((tmp_path / name / "report.html").read_text())
    assert pages[0] == pages[1]


def test_without_a_file_the_newest_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    for number, age in ((1, 300), (2, 100), (3, 200)):
        path = tmp_path / f"run-{number}.json"
        results.write(path, document([ours()]))
        os.utime(path, ns=(0, 10**18 - age * 10**9))
    (tmp_path / "other.json").write_text("{}")
    assert command.newest(tmp_path).name == "run-2.json"
    assert run("--out", tmp_path / "out").exit_code == 0
    assert "(run-2.json)" in (tmp_path / "out" / "report.md").read_text()


def test_without_any_run_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "nowhere")
    done = run()
    assert done.exit_code == 2
    assert done.stderr.startswith("ambient bench: error: there is no run-*.json in ")
    assert "ambient bench run" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no result of"),
        ("[]", "is no result of"),
        ('{"format": 1}', "format 1 is not 2"),
        ('{"format": 2, "machine": {}, "noise_limit": 0.1, "scenarios": [], "measured": [{}]}', "$.measured[0]"),
        ('{"format": 2, "machine": {}, "noise_limit": "x", "scenarios": [], "measured": []}', "$.noise_limit"),
    ],
)
def test_a_file_that_is_no_result_is_named_with_the_field(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run-9.json"
    if content is not None:
        path.write_text(content)
    done = run(path, "--out", tmp_path)
    assert done.exit_code == 2
    assert str(path) in done.stderr
    assert said in done.stderr
    assert done.exception.__class__ is SystemExit
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_named(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"report\.html cannot be written: Not a directory"):
        command.report([stored], tmp_path / "file" / "below")


def test_different_machines_are_a_warning_on_the_terminal_too(stored: Path, tmp_path: Path) -> None:
    other = tmp_path / "run-2.json"
    results.write(other, document([ours()], machine=dict(MACHINE) | {"kernel": "6.1.0"}))
    done = run(stored, other, "--out", tmp_path)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: DIFFERENT MACHINES: run-1.json and run-2.json differ in kernel")


@pytest.mark.parametrize("wrong", [("--rate", "0"), ("--price", "-1"), ("--nodes", "0"), ("--rate", "many")])
def test_a_wrong_option_is_a_usage_error(wrong: tuple[str, str], stored: Path, tmp_path: Path) -> None:
    done = run(stored, *wrong, "--out", tmp_path)
    assert done.exit_code == 2
    assert wrong[0] in done.stderr


def test_the_help_teaches() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "ambient bench report base.json waypoint.json" in done.stdout
    assert "70,000" in done.stdout


def test_a_rate_that_was_not_held_is_a_flaw() -> None:
    assert readings.flaws(ours(rate=981.0)) == []
    assert readings.flaws(ours(rate=979.0)) == ["rate not held: 979/s of 1,000/s"]
    assert readings.flaws(ours("closed-64", rate=1.0)) == []
