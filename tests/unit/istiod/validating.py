"""What the checks say about a snippet of YAML, for the tables of the validation tests."""

from __future__ import annotations

from typing import NamedTuple

from istiod.problem import Problem
from istiod.resources import BY_STORE_KIND
from istiod.validate import problems
from meshcore import yamldoc
from meshcore.manifests import dotted


class Case(NamedTuple):
    """`spec` gives exactly one problem: at `field`, with `words` in it."""

    spec: str
    field: str
    words: str
    warning: bool = False
    code: str = ""


def error(spec: str, field: str, words: str) -> Case:
    return Case(spec, field, words, code="IST0106")


def warning(spec: str, field: str, words: str, code: str = "IST0133") -> Case:
    return Case(spec, field, words, True, code)


def said(kind: str, spec: str, metadata: str = "{name: x, namespace: here}") -> list[Problem]:
    """All problems of an object with this spec."""
    resource = BY_STORE_KIND[kind]
    text = f"apiVersion: {resource.api_version}\nkind: {resource.kind}\nmetadata: {metadata}\nspec: {spec}"
    return problems(resource, next(yamldoc.parse(text)).data)


def expect(kind: str, case: Case) -> None:
    found = [(dotted(p.path), p.message, p.warning, p.code) for p in said(kind, case.spec)]
    assert [(field, warned, code) for field, _, warned, code in found] == [(case.field, case.warning, case.code)], found
    assert case.words in found[0][1]


def short(case: Case) -> str:
    """The name of a case in reports."""
    return f"{case.spec[:70]} -> {case.words[:30]}"
