"""What the checks say about an object, as it stands in the object's status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from istiod.problem import Problem
from istiod.translate.statuses import StatusPatch, Verdict, condition
from meshcore.manifests import Key, dotted

MANAGER: Final = "istio-analysis"
VALID: Final = "istio.io/Valid"
MESSAGES_MAX: Final = 50
MESSAGE_CHARS_MAX: Final = 4096


def status_messages(key: Key, problems: Sequence[Problem], *, kept: bool) -> StatusPatch:
    """`status.validationMessages` (level and code of each, istio.analysis.v1alpha1) and a condition with the texts.

    `kept`: an earlier version of the object is in force instead of this one.
    """
    messages: list[dict[str, Any]] = [
        {"type": {"code": problem.code}, "level": "WARNING" if problem.warning else "ERROR"} for problem in problems
    ]
    errors = [problem for problem in problems if not problem.warning]
    texts = "; ".join(f"{dotted(problem.path)}: {problem.message}" for problem in errors or problems)
    if not errors:
        verdict = Verdict(True, "Warnings", texts)
    elif kept:
        verdict = Verdict(False, "Invalid", f"the previous version stays in force: {texts}")
    else:
        verdict = Verdict(False, "Invalid", f"not in force: {texts}")
    said = condition(VALID, verdict._replace(message=verdict.message[:MESSAGE_CHARS_MAX]), 0)
    del said["observedGeneration"]
    return StatusPatch(*key, MANAGER, {"validationMessages": messages[:MESSAGES_MAX], "conditions": [said]})
