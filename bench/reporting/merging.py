"""Several documents as one: a later one replaces what an earlier one says of the same scenario under the same load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import results
from bench.errors import BenchError
from bench.results import Document, Measured, Scenario

_MACHINE: Final = ("cpu", "cores", "memory_gb", "kernel")
"""What makes a machine the same one."""
_OF_ONE_RUN: Final = frozenset({"date", "load_before", "rounds", "quick"})
"""What may differ between runs without a word."""


class Merged(NamedTuple):
    """The documents as one, where each result came from, and what a reader must know about it."""

    document: Document
    files: list[str]
    """Names of the files, in the order they were given."""
    dates: list[str]
    origins: dict[tuple[str, str], int]
    """(scenario, load) -> index of its file."""
    warnings: list[str]

    def together(self, load: str, *scenarios: str) -> bool:
        """Were these scenarios measured in one run? Otherwise a ratio also holds what the machine did."""
        return len({self.origins.get((each, load)) for each in scenarios}) == 1


def read(paths: Sequence[Path]) -> Merged:
    """Read and merge. Raises BenchError that names the file and the field."""
    if not paths:
        raise BenchError("no result file was given")
    return merge([(path.name, results.read(path)) for path in paths])


def merge(named: Sequence[tuple[str, Document]]) -> Merged:
    """Merge documents by the names of their files; at least one."""
    measured: dict[tuple[str, str], Measured] = {}
    origins: dict[tuple[str, str], int] = {}
    scenarios: dict[str, Scenario] = {}
    for index, (_, document) in enumerate(named):
        scenarios |= {each.name: each for each in document.scenarios}
        for one in document.measured:
            measured[one.scenario, one.load] = one
            origins[one.scenario, one.load] = index
    last = named[-1][1]
    documents = [document for _, document in named]
    merged = Document(
        format=last.format,
        machine=last.machine,
        noise_limit=max(document.noise_limit for document in documents),
        scenarios=list(scenarios.values()),
        measured=list(measured.values()),
    )
    dates = list(dict.fromkeys(str(document.machine.get("date", "an unknown date")) for document in documents))
    return Merged(merged, [name for name, _ in named], dates, origins, _warnings(named))


def _warnings(named: Sequence[tuple[str, Document]]) -> list[str]:
    first_name, first = named[0]
    found = []
    for name, document in named[1:]:
        differing = [key for key in _MACHINE if first.machine.get(key) != document.machine.get(key)]
        if differing:
            found.append(
                f"DIFFERENT MACHINES: {first_name} and {name} differ in {_differences(first, document, differing)}; "
                "figures of one must not be compared with figures of the other"
            )
        keys = {*first.machine, *document.machine} - {*_MACHINE, *_OF_ONE_RUN}
        others = sorted(key for key in keys if first.machine.get(key) != document.machine.get(key))
        if others:
            found.append(f"{first_name} and {name} differ in {_differences(first, document, others)}")
        if first.noise_limit != document.noise_limit:
            found.append(
                f"{first_name} and {name} differ in what counts as noise: "
                f"{first.noise_limit:g} and {document.noise_limit:g} cores"
            )
    quick = [name for name, document in named if document.machine.get("quick")]
    if quick:
        found.append(f"{', '.join(quick)}: short slices, a look and not a result")
    return found


def _differences(first: Document, second: Document, keys: Sequence[str]) -> str:
    def value(machine: dict[str, Any], key: str) -> str:
        return str(machine.get(key, "unknown"))

    return ", ".join(f"{key} ({value(first.machine, key)} / {value(second.machine, key)})" for key in keys)
