"""Each code is given where it should be, and not where things are in order."""

from __future__ import annotations

import pytest

from istiod.analyze import CODES, Level
from istiod.analyze.analyzers import ANALYZERS
from tests.unit.istiod.analyze.cases_rest import REST
from tests.unit.istiod.analyze.cases_traffic import TRAFFIC
from tests.unit.istiod.analyze.support import Case, messages

CASES = (*TRAFFIC, *REST)
ELSEWHERE = {"IST0001", "IST0141"}  # a fault of ours, and of the cluster: see test_run.py and test_cluster.py


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {case.words[:40] or case.resource}")
def test_a_code_is_given_for_the_mistake_alone(case: Case) -> None:
    found = [(m.code.id, m.resource, m.field, m.text) for m in messages(case.bad, live=case.live)]
    mine = [one for one in found if one[:3] == (case.code, case.resource, case.field) and case.words in one[3]]
    assert len(mine) == 1, found
    after = [(m.code.id, m.resource, m.field, m.text) for m in messages(case.good, live=case.live)]
    assert [one for one in after if one[0] == case.code] == []
    assert "IST0001" not in {one[0] for one in (*found, *after)}


def test_every_code_that_is_given_has_an_example() -> None:
    given = {code.id for code in CODES.values() if not code.absent}
    assert {case.code for case in CASES} | ELSEWHERE == given


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {case.words[:40] or case.resource}")
def test_what_is_right_has_no_errors_at_all(case: Case) -> None:
    errors = [m for m in messages(case.good, live=case.live) if m.code.level is Level.ERROR]
    assert errors == [], errors


def test_analyzers_have_names_of_their_own() -> None:
    names = [(analyzer.__module__, analyzer.__name__) for analyzer in ANALYZERS]
    assert len(set(names)) == len(names)
