"""Callers: certificates, tokens of Kubernetes and of the state directory, and what a node proxy may ask for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod.adapters import StorePods
from istiod.auth import (
    Authenticator,
    Authorizer,
    BootstrapTokens,
    Caller,
    KubernetesTokens,
    Place,
    ReviewResult,
    TokenKey,
)
from istiod.auth import kubernetes as k
from istiod.ca import node_san
from istiod.objects import Pod
from istiod.objects.base import Meta
from istiod.objects.core import PodSpec, PodStatus
from istiod.store import Store
from istiod.translate.indexes import INDEXES
from meshcore.errors import AuthenticationError, AuthorizationError, Unavailable
from meshcore.identity import Identity
from meshcore.stream.server import Peer

WEB = Identity("cluster.local", "default", "web")
ZTUNNEL = Identity("cluster.local", "istio-system", "ztunnel")
ACCOUNTS = ("istio-system/ztunnel",)
NOBODY = Peer("10.0.0.9")
OPAQUE = "the caller could not be authenticated"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def pod(namespace: str, name: str, node: str, account: str, uid: str = "u", phase: str = "Running") -> Pod:
    return Pod(Meta(name, namespace, uid=uid), PodSpec(node, account), PodStatus(phase))


def pods(*objects: Pod) -> StorePods:
    store = Store(INDEXES)
    for one in objects:
        store.put(("Pod", one.metadata.namespace, one.metadata.name), one)
    return StorePods(store)


HERE = pods(
    pod("istio-system", "ztunnel-1", "n1", "ztunnel", "z1"),
    pod("default", "web-1", "n1", "web"),
    pod("default", "job-1", "n1", "job", phase="Succeeded"),
    pod("default", "done-1", "n1", "done", phase="Failed"),
    pod("default", "api-1", "n2", "api"),
)
THERE = pods(pod("istio-system", "ztunnel-9", "m1", "ztunnel", "z9"), pod("default", "far-1", "m1", "far"))
NODE_PROXY = ReviewResult(
    True, "system:serviceaccount:istio-system:ztunnel", ("istio-ca",), "ztunnel-1", "z1", node_name="n1"
)
REMOTE_PROXY = ReviewResult(
    True, "system:serviceaccount:istio-system:ztunnel", ("istio-ca",), "ztunnel-9", "z9", node_name="m1"
)


class Reviewer:
    """An API server that knows some tokens."""

    def __init__(self, known: Mapping[str, ReviewResult] | None = None) -> None:
        self.known = dict(known or {})
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.most = self._busy = 0

    async def review(self, token: str, audiences: Sequence[str]) -> ReviewResult:
        self.asked.append((token, tuple(audiences)))
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            await self.gate.wait()
        finally:
            self._busy -= 1
        if self.fault is not None:
            raise self.fault
        return self.known.get(token, ReviewResult(False, error="unknown token"))


def tokens(reviewer: Reviewer, **options: Any) -> KubernetesTokens:
    values = {"trust_domain": "cluster.local", "cluster_id": "c1"} | options
    return KubernetesTokens({"": reviewer}, {"": HERE}, **values)


def bearer(token: str, cluster: str = "") -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} | ({"clusterid": cluster} if cluster else {})


def authenticator(*methods: Any, aliases: Sequence[str] = ()) -> Authenticator:
    return Authenticator("cluster.local", ACCOUNTS, methods, aliases=aliases)


# Certificates


def test_a_caller_of_an_alias_trust_domain_is_given_the_local_identity() -> None:
    made = authenticator(aliases=("old.example",))
    old = Identity("old.example", "istio-system", "ztunnel")
    assert made.certificate(Peer("a", old, (node_san("n1"),))) == Caller(ZTUNNEL, "n1")
    granted = Authorizer({"": HERE}, made, "cluster.local").grant(Caller(ZTUNNEL, "n1"), "")
    assert granted == ZTUNNEL
    with pytest.raises(AuthenticationError, match=OPAQUE):
        made.certificate(Peer("a", Identity("foreign", "a", "b")))


def test_only_a_node_accounts_certificate_is_bound_to_a_node() -> None:
    assert authenticator().certificate(Peer("a", WEB, (node_san("n1"),))) == Caller(WEB)


def test_the_first_credential_that_holds_counts_and_a_bad_one_does_not_spoil_a_good_one() -> None:
    async def scenario() -> None:
        key = TokenKey(b"k" * 32)
        reviewer = Reviewer({"good": NODE_PROXY})
        made = authenticator(tokens(reviewer), BootstrapTokens(key, "cluster.local"))
        assert await made.authenticate(Peer("a", WEB), bearer("good")) == Caller(WEB)
        assert not reviewer.asked
        over = Peer("a", WEB, not_after=datetime.now(UTC) - timedelta(seconds=1))
        assert await made.authenticate(over, bearer("good")) == Caller(ZTUNNEL, "n1")
        minted = key.mint("istio-system/ztunnel", "n7", timedelta(minutes=1))
        assert await made.authenticate(NOBODY, bearer(minted)) == Caller(ZTUNNEL, "n7")
        assert await made.authenticate(NOBODY, {"authorization": "bearer  good "}) == Caller(ZTUNNEL, "n1")

    run(scenario())


def test_every_reason_is_logged_and_none_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        made = authenticator(tokens(Reviewer()), BootstrapTokens(TokenKey(b"k" * 32), "cluster.local"))
        with pytest.raises(AuthenticationError) as caught:
            await made.authenticate(Peer("a", Identity("foreign", "a", "b")), bearer("secret-token"))
        assert str(caught.value) == OPAQUE

    run(scenario())
    assert len(caplog.records) == 1
    for reason in ("trust domain foreign", "Kubernetes token: not accepted: unknown token", "bootstrap token: token:"):
        assert reason in caplog.text
    assert "secret-token" not in caplog.text


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic good", "good", "Bearer " + "x" * 9000])
def test_without_a_usable_token_nobody_is_asked(header: str) -> None:
    async def scenario() -> None:
        reviewer = Reviewer({"good": NODE_PROXY})
        with pytest.raises(AuthenticationError, match=OPAQUE):
            await authenticator(tokens(reviewer)).authenticate(NOBODY, {"authorization": header})
        assert not reviewer.asked

    run(scenario())


# TokenReview


def result(**changes: Any) -> ReviewResult:
    values: dict[str, Any] = {name: getattr(NODE_PROXY, name) for name in NODE_PROXY.__struct_fields__}
    return ReviewResult(**(values | changes))


REFUSED = {
    "not authenticated": result(authenticated=False, error="expired"),
    "another audience": result(audiences=("vault",)),
    "no audience": result(audiences=()),
    "a user": result(username="alice"),
    "no name": result(username="system:serviceaccount:istio-system"),
    "an empty namespace": result(username="system:serviceaccount::ztunnel"),
    "too many parts": result(username="system:serviceaccount:a:b:c"),
    "a prefix": result(username="x:system:serviceaccount:a:b"),
    "a user that looks like the rest of one": result(username="istio-system:ztunnel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_review_that_does_not_name_a_service_account_for_us_is_refused(case: str) -> None:
    async def scenario() -> None:
        with pytest.raises(AuthenticationError):
            await tokens(Reviewer({"t": REFUSED[case]})).caller("t", {})

    run(scenario())


@pytest.mark.parametrize(
    ("review", "node"),
    [
        (NODE_PROXY, "n1"),
        (result(node_name=""), "n1"),  # clusters before Kubernetes 1.32 do not say it
        (result(node_name="n2"), ""),
        (result(pod_uid="of a pod before"), ""),
        (result(pod_uid=""), ""),
        (result(pod_name="gone"), ""),
        (result(pod_name=""), ""),
    ],
)
def test_a_caller_is_on_a_node_only_if_its_pod_is_there_with_the_same_uid(review: ReviewResult, node: str) -> None:
    async def scenario() -> None:
        assert await tokens(Reviewer({"t": review})).caller("t", {}) == Caller(ZTUNNEL, node)

    run(scenario())


def test_the_cluster_in_the_request_decides_which_api_server_is_asked_and_whose_pods_count() -> None:
    async def scenario() -> None:
        here, there = Reviewer({"t": NODE_PROXY}), Reviewer({"t": REMOTE_PROXY})
        method = KubernetesTokens(
            {"": here, "c2": there}, {"": HERE, "c2": THERE}, trust_domain="cluster.local", cluster_id="c1"
        )
        made = authenticator(method)
        grants = Authorizer({"": HERE, "c2": THERE}, made, "cluster.local")
        local = await made.authenticate(NOBODY, bearer("t", "c1"))
        remote = await made.authenticate(NOBODY, bearer("t", "c2"))
        assert (local, remote) == (Caller(ZTUNNEL, "n1"), Caller(ZTUNNEL, "m1", "c2"))
        assert grants.grant(local, str(WEB)) == WEB
        far = Identity("cluster.local", "default", "far")
        assert grants.grant(remote, str(far)) == far
        for caller, wanted in ((local, far), (remote, WEB)):
            with pytest.raises(AuthorizationError):
                grants.grant(caller, str(wanted))
        with pytest.raises(AuthenticationError):
            await made.authenticate(NOBODY, bearer("t", "c3"))
        assert (len(here.asked), len(there.asked)) == (1, 1)

    run(scenario())


def test_requests_with_one_token_are_one_review_for_a_while() -> None:
    async def scenario() -> None:
        reviewer = Reviewer({"t": NODE_PROXY})
        method = tokens(reviewer, cache_s=0.05, audiences=("istio-ca", "other"))
        reviewer.gate.clear()
        waiting = [asyncio.create_task(method.caller("t", {})) for _ in range(100)]
        while not reviewer.asked:  # noqa: ASYNC110 - the tasks above are what is waited for
            await asyncio.sleep(0)
        waiting[0].cancel()  # a caller that goes away disturbs nobody
        reviewer.gate.set()
        assert set(await asyncio.gather(*waiting[1:])) == {Caller(ZTUNNEL, "n1")}
        assert reviewer.asked == [("t", ("istio-ca", "other"))]
        reviewer.known = {}
        async with asyncio.timeout(5):
            while True:
                try:
                    await method.caller("t", {})
                except AuthenticationError:
                    break
                await asyncio.sleep(0.005)
        assert len(reviewer.asked) == 2

    run(scenario())


def test_the_cache_is_bounded_and_keeps_no_token() -> None:
    async def scenario() -> None:
        reviewer = Reviewer()
        method = tokens(reviewer, cache_entries=10)
        for number in range(50):
            with pytest.raises(AuthenticationError):
                await method.caller(f"secret-{number}", {})
        assert len(method._cache) == 10
        assert b"secret" not in b"".join(method._cache)
        with pytest.raises(AuthenticationError):
            await method.caller("secret-49", {})
        assert len(reviewer.asked) == 50

    run(scenario())


def test_an_api_server_that_could_not_be_asked_is_asked_again() -> None:
    async def scenario() -> None:
        reviewer = Reviewer({"t": NODE_PROXY})
        made = authenticator(tokens(reviewer))
        reviewer.fault = Unavailable("away")
        with pytest.raises(AuthenticationError, match=OPAQUE):
            await made.authenticate(NOBODY, bearer("t"))
        reviewer.fault = None
        assert await made.authenticate(NOBODY, bearer("t")) == Caller(ZTUNNEL, "n1")

    run(scenario())


def test_an_api_server_without_an_answer_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        reviewer = Reviewer({"t": NODE_PROXY})
        reviewer.gate.clear()
        with pytest.raises(AuthenticationError, match=OPAQUE):
            await authenticator(tokens(reviewer, timeout=0.02)).authenticate(NOBODY, bearer("t"))

    run(scenario())
    assert "no answer from the API server within 0.02 s" in caplog.text


def test_a_flood_of_tokens_is_no_flood_for_the_api_server() -> None:
    async def scenario() -> None:
        reviewer = Reviewer()
        method = tokens(reviewer)
        reviewer.gate.clear()
        waiting = [asyncio.create_task(method.caller(f"t{n}", {})) for n in range(200)]
        while len(reviewer.asked) < k.REVIEWS_MAX:  # noqa: ASYNC110 - the tasks above are what is waited for
            await asyncio.sleep(0)
        reviewer.gate.set()
        await asyncio.wait(waiting)
        assert all(isinstance(task.exception(), AuthenticationError) for task in waiting)
        assert reviewer.most == k.REVIEWS_MAX

    run(scenario())


def test_more_tokens_than_can_be_judged_in_time_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k, "REVIEWS_WAITING_MAX", 40)

    async def scenario() -> None:
        reviewer = Reviewer({"t": NODE_PROXY})
        method = tokens(reviewer)
        reviewer.gate.clear()
        waiting = [asyncio.create_task(method.caller(f"t{n}", {})) for n in range(45)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=1)
        assert {str(task.exception()) for task in done} == {"too many tokens wait for the API server"}
        reviewer.gate.set()
        done, _ = await asyncio.wait(waiting)
        assert sum(isinstance(task.exception(), Unavailable) for task in done) == 5
        assert await method.caller("t", {}) == Caller(ZTUNNEL, "n1")

    run(scenario())


# What a node proxy may have


GRANTS = {
    "its own": (Caller(ZTUNNEL, "n1"), "", ZTUNNEL),
    "its own by name": (Caller(WEB), str(WEB), WEB),
    "a pod on its node": (Caller(ZTUNNEL, "n1"), str(WEB), WEB),
    "a pod that succeeded": (Caller(ZTUNNEL, "n1"), "spiffe://cluster.local/ns/default/sa/job", None),
    "a pod that failed": (Caller(ZTUNNEL, "n1"), "spiffe://cluster.local/ns/default/sa/done", AuthorizationError),
    "a pod elsewhere": (Caller(ZTUNNEL, "n1"), "spiffe://cluster.local/ns/default/sa/api", AuthorizationError),
    "without a node": (Caller(ZTUNNEL), str(WEB), AuthorizationError),
    "no node account": (Caller(WEB, "n1"), str(ZTUNNEL), AuthorizationError),
    "an alias domain": (Caller(ZTUNNEL, "n1"), "spiffe://old.example/ns/default/sa/web", AuthorizationError),
    "an unknown cluster": (Caller(ZTUNNEL, "n1", "c9"), str(WEB), AuthorizationError),
    "not an identity": (Caller(ZTUNNEL, "n1"), "x" * 5000, AuthorizationError),
}


@pytest.mark.parametrize("case", GRANTS)
def test_which_identity_is_granted(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caller, wanted, expected = GRANTS[case]
    made = Authorizer({"": HERE}, authenticator(aliases=("old.example",)), "cluster.local")
    if expected is AuthorizationError:
        with pytest.raises(AuthorizationError, match=r"^the caller may not have this identity$"):
            made.grant(caller, wanted)
        assert len(caplog.text) < 1000
    else:
        assert str(made.grant(caller, wanted)) == (wanted or str(expected))


@pytest.mark.parametrize("wanted", ["", str(ZTUNNEL)])
def test_a_node_proxy_whose_node_is_not_known_yet_is_asked_to_come_back(wanted: str) -> None:
    made = Authorizer({"": HERE}, authenticator(), "cluster.local")
    with pytest.raises(Unavailable, match="its pod has not been seen"):
        made.grant(Caller(ZTUNNEL), wanted)


NAMES = st.tuples(st.sampled_from(("a", "b")), st.sampled_from(("p", "q", "r")))
STEPS = st.lists(
    st.tuples(
        NAMES,
        st.none()
        | st.tuples(
            st.sampled_from(("", "n1", "n2")),
            st.sampled_from(("", "s", "t")),
            st.sampled_from(("Running", "Pending", "Failed", "Succeeded")),
        ),
    ),
    max_size=30,
)


@given(STEPS)
def test_the_index_says_what_looking_through_all_pods_would(steps: list[tuple[tuple[str, str], Any]]) -> None:
    held: dict[tuple[str, str], Pod] = {}
    store = Store(INDEXES)
    table = StorePods(store)
    for (namespace, name), state in steps:
        held.pop((namespace, name), None)
        if state is not None:
            node, account, phase = state
            held[namespace, name] = pod(namespace, name, node, account, f"{namespace}-{name}", phase)
        store.put(("Pod", namespace, name), held.get((namespace, name)))
        uses = {
            (p.spec.node_name, p.metadata.namespace, p.spec.service_account_name or "default")
            for p in held.values()
            if p.spec.node_name and p.status.phase != "Failed"
        }
        for use in itertools.product(("n1", "n2"), ("a", "b"), ("default", "s", "t")):
            assert table.running(*use) is (use in uses)
    for key, found in held.items():
        assert table.place(*key) == Place(found.metadata.uid, found.spec.node_name)
    assert table.place("a", "nobody") is None
