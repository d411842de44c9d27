"""Rules and matches of a VirtualService that can never be chosen, because an earlier one takes everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from istiod.problem import INEFFECTIVE_MATCH, UNREACHABLE_RULE, Problem
from istiod.validate.field import Field

_NOT_CONDITIONS: Final = frozenset({"name", "statPrefix"})


def rules(field: Field) -> Iterator[Problem]:
    """The list of rules of one protocol; the first that matches is taken."""
    catch_all: Field | None = None
    seen: dict[str, Field] = {}
    prefixes: dict[str, Field] = {}
    lengths: set[int] = set()
    for rule in field:
        if not rule.given:
            continue
        if catch_all is not None:
            text = f"is never reached: rule {catch_all.path[-1]} matches everything"
            yield rule.warn(text, code=UNREACHABLE_RULE)
            continue
        repeated = 0
        matches = [match for match in rule["match"] if match.given]
        for match in matches:
            own = _conditions(match)
            before = seen.get(own)
            if before is None:
                uri = _uri(match)
                before = next((prefixes[uri[:n]] for n in lengths if n <= len(uri) and uri[:n] in prefixes), None)
            if before is not None:
                repeated += 1
                text = f"has no effect: {_place(before)} is reached first by every request that matches here"
                yield match.warn(text, code=INEFFECTIVE_MATCH)
                continue
            seen[own] = match
            if (prefix := _prefix_alone(match)) is not None:
                prefixes.setdefault(prefix, match)
                lengths.add(len(prefix))
        if matches and repeated == len(matches):
            yield rule.warn("is never reached: earlier rules match all of it", code=UNREACHABLE_RULE)
        if not rule["match"] or any(own == "{}" or own == _EVERY_PATH for own in map(_conditions, matches)):
            catch_all = rule


def _conditions(match: Field) -> str:
    """What a match asks for, as a key."""
    asked = {key: value for key, value in match.members() if key not in _NOT_CONDITIONS and value.given}
    return json.dumps({key: value.value for key, value in asked.items()}, sort_keys=True)


_EVERY_PATH: Final = json.dumps({"uri": {"prefix": "/"}})


def _prefix_alone(match: Field) -> str | None:
    """The prefix of a match that asks for nothing else."""
    prefix = match["uri"]["prefix"].text
    return prefix if prefix and _conditions(match) == json.dumps({"uri": {"prefix": prefix}}) else None


def _uri(match: Field) -> str:
    """What every path that matches starts with; nothing if that is not said literally."""
    uri = match["uri"]
    return "" if match["ignoreUriCase"] else uri["exact"].text or uri["prefix"].text


def _place(match: Field) -> str:
    *_, rule, _, index = match.path
    return f"match {index} of rule {rule}"
