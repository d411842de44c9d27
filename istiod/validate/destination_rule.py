"""Checks of DestinationRule."""

from __future__ import annotations

from collections.abc import Iterator

from istiod.problem import Problem
from istiod.validate.common import each, export_to, is_ip, labels, port_number, required, selected_labels, unique
from istiod.validate.field import Field
from istiod.validate.names import host, is_part_name
from istiod.validate.traffic_policy import port_policy, traffic_policy


def destination_rule(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    namespace = obj["metadata"]["namespace"].text
    yield from required(spec["host"])
    if spec["host"] and not is_ip(spec["host"].text):
        yield from host(spec["host"])
    if spec["trafficPolicy"].given:
        yield from _policy(spec["trafficPolicy"], namespace)
    yield from each(spec["subsets"], lambda subset: _subset(subset, namespace))
    yield from unique((subset["name"] for subset in spec["subsets"]), "the subset")
    yield from export_to(spec["exportTo"], namespace)
    if spec["workloadSelector"].given:
        yield from selected_labels(spec["workloadSelector"]["matchLabels"])
        for place in spec["exportTo"].texts():
            if place.text not in (".", namespace):
                yield place.error("a rule with a workloadSelector is for its own namespace; write '.', or leave it out")


def _policy(policy: Field, namespace: str) -> Iterator[Problem]:
    yield from traffic_policy(policy, namespace)
    yield from each(policy["portLevelSettings"], lambda settings: _port(settings, namespace))


def _port(settings: Field, namespace: str) -> Iterator[Problem]:
    number = settings["port"]["number"]
    if not number:
        yield number.error("missing: it says for which port the settings are")
    else:
        yield from port_number(number)
    yield from port_policy(settings, namespace)


def _subset(subset: Field, namespace: str) -> Iterator[Problem]:
    name = subset["name"]
    yield from required(name)
    if name.text and not is_part_name(name.text):
        yield name.error(f"{name} is not the name of a subset: letters, digits and '-' only")
    yield from labels(subset["labels"])
    if subset["trafficPolicy"].given:
        yield from _policy(subset["trafficPolicy"], namespace)
