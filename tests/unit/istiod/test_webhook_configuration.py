"""The configuration of the webhook, and how it is kept right."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections import Counter
from typing import Any

import pytest

from istiod.kube.errors import Conflict, ServerFailure
from istiod.webhook_configuration import (
    CONFLICTS_MAX,
    Reconciler,
    for_revision,
    for_unlabelled,
    patched,
    revision_name,
)
from meshcore import yamldoc
from tests.support.build import ROOT
from tests.unit.istiod.kube.support import DEADLINE_S

CA = b"-----BEGIN CERTIFICATE-----\n"
OTHER = b"-----BEGIN CERTIFICATE-----\nother"

Json = dict[str, Any]


class Kept:
    """Configurations in memory; the next writes fail as told."""

    def __init__(self, *configurations: Json) -> None:
        self.held = {one["metadata"]["name"]: one for one in configurations}
        self.failures: list[Exception] = []
        self.counted: Counter[str] = Counter()
        self.written = asyncio.Event()

    async def get(self, name: str) -> Json | None:
        return copy.deepcopy(self.held.get(name))

    async def replace(self, name: str, obj: Json) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.held[name] = obj
        self.written.set()

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        del labels
        self.counted[name] += int(amount)


def state(configuration: Json) -> tuple[bytes, str]:
    webhook = configuration["webhooks"][0]
    return base64.b64decode(webhook["clientConfig"]["caBundle"]), webhook["failurePolicy"]


def keeper(kept: Kept, *, serving: bool = True, names: tuple[str, ...] = (), retry: float = 0.01) -> Reconciler:
    async def reached() -> bool:
        return serving

    return Reconciler(kept, names or tuple(kept.held), lambda: OTHER, reached, kept, retry=retry)


def test_the_configuration_is_that_of_upstream() -> None:
    found = for_revision("blue", "istio-system", "istiod-blue", CA)
    assert found["metadata"]["name"] == "istio-validator-blue-istio-system"
    (webhook,) = found["webhooks"]
    assert webhook["name"] == "rev.validation.istio.io"
    assert webhook["clientConfig"]["service"] == {
        "name": "istiod-blue",
        "namespace": "istio-system",
        "path": "/validate",
    }
    assert state(found) == (CA, "Ignore")
    assert webhook["objectSelector"]["matchExpressions"] == [
        {"key": "istio.io/rev", "operator": "In", "values": ["blue"]}
    ]
    assert set(webhook["rules"][0]["apiGroups"]) == {
        f"{group}.istio.io" for group in ("security", "networking", "telemetry", "extensions")
    }
    assert webhook["rules"][0]["operations"] == ["CREATE", "UPDATE"]
    assert revision_name("default", "istio-system") == "istio-validator-istio-system"


def test_objects_without_a_revision_have_a_configuration_of_their_own() -> None:
    found = for_unlabelled("default", "istio-system", "istiod", CA)
    assert found["metadata"]["name"] == "istiod-default-validator"
    assert found["webhooks"][0]["name"] == "validation.istio.io"
    assert found["webhooks"][0]["objectSelector"]["matchExpressions"][0]["operator"] == "DoesNotExist"


def test_a_configuration_becomes_strict_once_the_webhook_serves_and_stays_so() -> None:
    first = for_unlabelled("default", "istio-system", "istiod", CA)
    waiting = patched(first, OTHER, serving=False)
    assert waiting is not None
    assert state(waiting) == (OTHER, "Ignore")
    assert state(first) == (CA, "Ignore")
    strict = patched(waiting, OTHER, serving=True)
    assert strict is not None
    assert state(strict) == (OTHER, "Fail")
    assert patched(strict, OTHER, serving=True) is None
    assert patched(strict, OTHER, serving=False) is None


def test_a_webhook_elsewhere_is_left_alone() -> None:
    found = {"metadata": {"name": "x"}, "webhooks": [{"clientConfig": {"url": "https://a.example"}}]}
    assert patched(found, CA, serving=True) is None


def test_conflicts_are_tried_again_with_what_is_there_now() -> None:
    kept = Kept(for_unlabelled("default", "istio-system", "istiod", CA))
    kept.failures = [Conflict("changed")] * (CONFLICTS_MAX - 1)
    assert asyncio.run(keeper(kept).once()) is True
    assert state(kept.held["istiod-default-validator"]) == (OTHER, "Fail")
    assert kept.counted == {"galley_validation_config_updates": 1}
    assert asyncio.run(keeper(kept).once()) is True
    assert kept.counted == {"galley_validation_config_updates": 1}


def test_conflicts_without_end_are_an_error() -> None:
    kept = Kept(for_unlabelled("default", "istio-system", "istiod", CA))
    kept.failures = [Conflict("changed")] * CONFLICTS_MAX
    with pytest.raises(Conflict):
        asyncio.run(keeper(kept).once())


def test_a_configuration_that_is_not_there_is_not_made() -> None:
    kept = Kept()
    assert asyncio.run(keeper(kept, names=("gone",)).once()) is True
    assert kept.held == {}


def test_failures_are_counted_and_a_new_bundle_is_brought_at_once() -> None:
    kept = Kept(for_unlabelled("default", "istio-system", "istiod", CA))
    kept.failures = [ServerFailure("away"), ServerFailure("away")]

    async def until(wanted: tuple[bytes, str]) -> None:
        while state(kept.held["istiod-default-validator"]) != wanted:
            kept.written.clear()
            await kept.written.wait()

    async def test() -> None:
        reconciler = keeper(kept)
        stop = asyncio.Event()
        async with asyncio.timeout(DEADLINE_S):
            task = asyncio.create_task(reconciler.run(stop))
            await until((OTHER, "Fail"))
            kept.held["istiod-default-validator"] = for_unlabelled("default", "istio-system", "istiod", CA)
            reconciler.trigger()
            await until((OTHER, "Fail"))
            stop.set()
            await task

    asyncio.run(test())
    assert kept.counted == {"galley_validation_config_update_error": 2, "galley_validation_config_updates": 2}


def test_what_is_installed_is_what_is_wanted() -> None:
    installed = [document.data for document in yamldoc.parse((ROOT / "deploy/istiod/webhook.yaml").read_text())]
    assert installed == [make("default", "istio-system", "istiod", b"") for make in (for_revision, for_unlabelled)]
