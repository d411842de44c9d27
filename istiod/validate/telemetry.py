"""Checks of Telemetry."""

from __future__ import annotations

from collections.abc import Iterator

from istiod.problem import Problem
from istiod.validate.common import attachment, each, needs_one, required, selector
from istiod.validate.field import Field
from istiod.validate.texts import duration


def telemetry(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from attachment(spec)
    yield from selector(spec)
    if len(spec["tracing"]) > 1:
        yield spec["tracing"].warn("only the first entry is used")
    for section in ("tracing", "metrics", "accessLogging"):
        for entry in spec[section]:
            for provider in entry["providers"]:
                yield from required(provider["name"])
    for tracing in spec["tracing"]:
        yield from _tracing(tracing)
    for metrics in spec["metrics"]:
        yield from duration(metrics["reportingInterval"])
        yield from each(metrics["overrides"], _override)


def _tracing(tracing: Field) -> Iterator[Problem]:
    if len(tracing["providers"]) > 1:
        yield tracing["providers"].warn("only the first provider is used")
    for name, tag in tracing["customTags"].members():
        if not name:
            yield tag.error("a tag needs a name")
        if not tag.given:
            yield tag.error("is null; it needs literal, environment, header or formatter")
            continue
        yield from needs_one(tag, "literal", "environment", "header", "formatter")
        for source, part in (("literal", "value"), ("environment", "name"), ("header", "name"), ("formatter", "value")):
            if tag[source].given:
                yield from required(tag[source][part])


def _override(override: Field) -> Iterator[Problem]:
    custom = override["match"]["customMetric"]
    if custom.given and custom.value == "":
        yield custom.error("is empty; it names a metric")
    for name, tag in override["tagOverrides"].members():
        if not name:
            yield tag.error("a tag needs a name")
        if not tag.given:
            yield tag.error("is null; it needs a value, or operation REMOVE")
        elif tag["operation"].text == "REMOVE":
            if tag["value"]:
                yield tag["value"].error("operation REMOVE takes the tag away: it has no value")
        else:
            yield from required(tag["value"], "operation UPSERT sets the tag to it")
