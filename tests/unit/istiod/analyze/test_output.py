"""What people and programs read."""

from __future__ import annotations

import msgspec
import yaml

from istiod.analyze import CODES, Level
from istiod.analyze.codes import listing
from istiod.analyze.message import message
from istiod.analyze.output import FORMATS

FOUND = [
    message(
        "IST0101", ("VirtualService", "default", "a"), ("spec", "gateways", 0), "Write it.", what="gateway", name="g"
    ).at("a.yaml", 7),
    message("IST0123", ("Namespace", "", "a")),
    message("IST0106", None, text="is not UTF-8 text").at("b.yaml", 1),
    message("AMB0002", ("Gateway.networking.istio.io", "default", "a"), kind="X"),
]


def test_a_line_has_level_code_object_and_place() -> None:
    assert FORMATS["log"](FOUND).splitlines() == [
        "Error [IST0101] (VirtualService default/a a.yaml:7) spec.gateways[0]: gateway 'g' does not exist",
        "    Write it.",
        "Warning [IST0123] (Namespace a) has both istio-injection and istio.io/rev: only istio-injection is followed",
        "Error [IST0106] (b.yaml:1) is not UTF-8 text",
        "Info [AMB0002] (Gateway default/a) objects of the kind X are recognised, but not used by this mesh",
    ]


def test_json_and_yaml_say_the_same_under_the_names_of_upstream() -> None:
    records = msgspec.json.decode(FORMATS["json"](FOUND))
    assert records == yaml.safe_load(FORMATS["yaml"](FOUND))
    assert records[0] == {
        "code": "IST0101",
        "name": "ReferencedResourceNotFound",
        "level": "Error",
        "origin": "VirtualService a.default",
        "reference": "a.yaml:7",
        "field": "spec.gateways[0]",
        "message": "gateway 'g' does not exist",
        "suggestion": "Write it.",
        "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0101/",
    }
    assert "documentationUrl" not in records[3]


def test_without_messages_programs_still_get_a_list() -> None:
    assert msgspec.json.decode(FORMATS["json"]([])) == yaml.safe_load(FORMATS["yaml"]([])) == []


def test_the_table_has_every_code_with_its_meaning_or_why_it_is_not_given() -> None:
    text = listing()
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == list(CODES)
    assert all(bool(code.text) is not bool(code.absent) for code in CODES.values())
    numbers = {int(code[3:]) for code in CODES if code.startswith("IST")}
    assert numbers >= {1, 2, *range(101, 104), *range(106, 113), 116, 118, 123, *range(125, 178)}
    assert CODES["IST0167"].level is Level.WARNING
