"""The comparison and the main figures as Markdown, to be pasted into a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from bench.published import MESH_RATE, MESH_RATE_SOURCE
from bench.reporting import names
from bench.reporting.comparison import Cell, Row
from bench.reporting.merging import Merged
from bench.reporting.page import Content
from bench.reporting.tables import summary

_SPECIAL: Final = re.compile(r"[\\`*|$~]|\](?=[(\[])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What would be markup. A bracket is only in a link, an underscore only at the edge of a word: ranges stay readable."""
_HTML: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def text(value: str) -> str:
    """Plain text in a Markdown table or paragraph: nothing in it is markup, and it stays on one line."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())
    escaped = "".join(_HTML.get(letter, letter) for letter in flat)
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", escaped)


def render(merged: Merged, content: Content) -> str:
    """The whole text."""
    lines = [text(content.headline), "", text(content.usable), ""]
    for warning in content.warnings:
        lines += [f"**{text(warning)}**", ""]
    lines += ["## Published, ours, Envoy here", ""]
    for name, rows in content.comparison:
        lines += [f"### {text(name)}", "", *_comparison(rows), ""]
    lines += ["## Main figures", "", "Median [range over the rounds].", ""]
    for load in names.ordered(each.load for each in merged.document.measured):
        found = summary(merged.document, load)
        lines += [f"### {text(found.title)} ({text(load)})", "", *_table(found.headers, found.rows), ""]
    lines += [*_fleet(content)]
    return "\n".join(lines).rstrip() + "\n"


def _comparison(rows: Sequence[Row]) -> list[str]:
    headers = ["", "published", "ours", "Envoy here", "ours / published", "ours / Envoy", "source"]
    return _table(
        headers,
        (
            [
                Cell(f"{row.title}; {row.better}" if row.better.startswith("higher") else row.title),
                row.published,
                row.ours,
                row.envoy,
                row.over_published,
                row.over_envoy,
                Cell(row.source),
            ]
            for row in rows
        ),
    )


def _fleet(content: Content) -> list[str]:
    sizes, prices = content.sizes, content.prices
    why = f", {MESH_RATE_SOURCE}" if content.rate == MESH_RATE else ""
    fleet = (
        f"{sizes.pods:,} pods, {sizes.namespaces:,} namespaces, {sizes.nodes:,} nodes; a vCPU at "
        f"${prices.vcpu:,.2f} and a GB at ${prices.gigabyte:,.2f} a year."
    )
    lines = [
        "## The fleet",
        "",
        text(fleet),
        "",
        "What the published calculator counts (reservations, not use):",
        "",
    ]
    for option in content.reserved:
        parts = "; ".join(f"{term.label} {term.numbers} = {term.text}" for term in option.terms)
        lines.append(f"* {text(option.title)}: {text(parts)}")
    lines += ["", text(f"From measured numbers, at {content.rate:,.0f} requests/s through the whole mesh{why}:"), ""]
    for option in content.estimate.options:
        lines.append(f"* {text(option.title)}")
        for term in option.terms:
            shown = f"{term.formula} = {term.numbers} = {term.text}" if term.value is not None else term.text
            lines.append(f"  * {text(f'{term.label}: {shown}')}")
    lines += ["", *(f"* {text(remark)}" for remark in content.estimate.remarks)]
    return lines


def _table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    return [
        _line(headers),
        "|" + "---|" * len(headers),
        *(_line([cell.text for cell in row]) for row in rows),
    ]


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(map(text, texts)) + " |"
