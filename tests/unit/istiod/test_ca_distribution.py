"""Trust handed out: which ConfigMaps there should be, and that drift is corrected."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod import ca
from istiod.ca import distribution as d
from istiod.ca.material import from_files
from meshcore.errors import DeadlineExceeded, MeshError, Unavailable
from tests.unit.istiod.ca_support import DAY, LIFETIMES, Corp, ca_files

ROOT = Corp("root")
MID = ROOT.issue("mid")
PLAIN = ca.Authority(from_files(ca_files(MID, [], [ROOT]), "d"), LIFETIMES)
WITH_CRL = ca.Authority(from_files(ca_files(MID, [], [ROOT], MID.crl(1)), "d"), LIFETIMES)


class Cluster:
    """ConfigMaps as the API server keeps them: server-side apply leaves alone what it is not given."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Mapping[str, str]] = {"default": {}, "kube-system": {}, "kube-public": {}}
        self.held: dict[tuple[str, str], d.ConfigMap] = {}
        self.applied: list[tuple[str, str]] = []
        self.faults: dict[str, MeshError] = {}

    async def list(self, name: str) -> Iterable[d.ConfigMap]:
        if name in self.faults:
            raise self.faults[name]
        return [found for (_, held), found in self.held.items() if held == name]

    async def apply(self, wanted: d.ConfigMap) -> None:
        await asyncio.sleep(0)
        if wanted.namespace in self.faults:
            raise self.faults[wanted.namespace]
        key = (wanted.namespace, wanted.name)
        old = self.held.get(key, d.ConfigMap(*key, {}, {}))
        self.held[key] = d.ConfigMap(*key, old.data | wanted.data, old.labels | wanted.labels)
        self.applied.append(key)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def distributor(cluster: Cluster, authority: ca.Authority = PLAIN, **options: Any) -> d.Distributor:
    return d.Distributor(cluster, lambda: cluster.namespaces, lambda: authority, **options)


def test_what_is_wanted() -> None:
    names = ("default", "kube-system", "kube-public", "kube-node-lease", "local-path-storage")
    found = d.wanted({name: {} for name in names}, "ROOTS")
    assert found.keys() == {("default", "istio-ca-root-cert"), ("kube-system", "istio-ca-root-cert")}
    assert found["default", "istio-ca-root-cert"].data == {"root-cert.pem": "ROOTS"}
    with_crl = d.wanted({"default": {}}, "ROOTS", "LISTS")
    assert with_crl["default", "istio-ca-crl"].data == {"ca-crl.pem": "LISTS"}


DATA = st.dictionaries(st.sampled_from(("root-cert.pem", "other")), st.sampled_from(("a", "b")))


@given(st.dictionaries(st.sampled_from(("a", "b", "kube-public")), DATA), st.sets(st.sampled_from(("a", "b", "c"))))
def test_whatever_there_was_is_in_order_afterwards_and_nothing_more_is_written(
    held: dict[str, dict[str, str]], namespaces: set[str]
) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.namespaces = {namespace: {} for namespace in namespaces}
        for namespace, data in held.items():
            cluster.held[namespace, d.ROOT_CONFIG_MAP] = d.ConfigMap(namespace, d.ROOT_CONFIG_MAP, data, {})
        made = distributor(cluster)
        assert await made.reconcile() == len(namespaces)
        assert {namespace for namespace, _ in cluster.applied} == namespaces
        for namespace in namespaces:
            found = cluster.held[namespace, d.ROOT_CONFIG_MAP].data
            assert found == held.get(namespace, {}) | {"root-cert.pem": PLAIN.root_pem}
        assert await made.reconcile() == 0

    run(scenario())


def test_drift_is_corrected_where_it_is() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        made = distributor(cluster, WITH_CRL)
        assert await made.reconcile() == 4
        del cluster.held["default", d.ROOT_CONFIG_MAP]
        key = ("kube-system", d.CRL_CONFIG_MAP)
        cluster.held[key] = d.ConfigMap(*key, {"ca-crl.pem": "forged"}, cluster.held[key].labels)
        cluster.applied.clear()
        assert await made.reconcile() == 2
        assert sorted(cluster.applied) == [("default", d.ROOT_CONFIG_MAP), key]
        assert cluster.held[key].data == {"ca-crl.pem": WITH_CRL.crl_pem}

    run(scenario())


def test_revocations_can_be_kept_back() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        assert await distributor(cluster, WITH_CRL, publish_crl=False).reconcile() == 2
        assert {name for _, name in cluster.held} == {d.ROOT_CONFIG_MAP}

    run(scenario())


def test_a_namespace_that_cannot_be_written_does_not_keep_the_others_from_theirs() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.faults = {"default": Unavailable("no")}
        with pytest.raises(Unavailable):
            await distributor(cluster).reconcile()
        assert cluster.applied == [("kube-system", d.ROOT_CONFIG_MAP)]

    run(scenario())


def test_an_api_server_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Cluster):
        async def list(self, name: str) -> Iterable[d.ConfigMap]:
            await asyncio.sleep(20)
            return []

    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded, match="istio-ca-root-cert"):
            await distributor(Silent()).reconcile()

    monkeypatch.setattr(d, "CALL_TIMEOUT_S", 0.02)
    run(scenario())


@contextlib.asynccontextmanager
async def running(made: d.Distributor) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a write, which sets no event
            await asyncio.sleep(0.005)


def test_a_new_namespace_a_failure_and_drift_that_nobody_tells_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.faults = {"default": Unavailable("not now")}
        made = distributor(cluster, resync=0.05, retry=0.02, quiet=0.0)
        async with running(made):
            await until(lambda: caplog.text.count("not now") >= 2)
            cluster.faults = {}
            await until(lambda: ("default", d.ROOT_CONFIG_MAP) in cluster.held)
            cluster.namespaces["new"] = {}
            await until(lambda: ("new", d.ROOT_CONFIG_MAP) in cluster.held)
            cluster.held.clear()
            await until(lambda: len(cluster.held) == 3)

    run(scenario())


def test_a_burst_of_triggers_is_one_reading() -> None:
    async def scenario() -> None:
        class Counted(Cluster):
            readings = 0

            async def list(self, name: str) -> Iterable[d.ConfigMap]:
                self.readings += 1
                return await super().list(name)

        cluster = Counted()
        made = distributor(cluster, resync=60, quiet=0.1)
        async with running(made):
            await until(lambda: len(cluster.held) == 2)
            for number in range(20):
                cluster.namespaces[f"n{number}"] = {}
                made.trigger()
                await asyncio.sleep(0)
            await until(lambda: len(cluster.held) == 22)
        assert cluster.readings == 2

    run(scenario())


def test_a_change_of_the_ca_is_handed_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = ca.StateDirectory(str(tmp_path), ca.SelfSigned("cluster.local", DAY))
        authority = ca.CertificateAuthority(source, source.read(), LIFETIMES)
        cluster = Cluster()
        made = d.Distributor(cluster, lambda: cluster.namespaces, lambda: authority.current, resync=60, quiet=0.0)
        authority.on_change(lambda _: made.trigger())
        async with running(made):
            await until(lambda: len(cluster.held) == 2)
            source._rules = ca.SelfSigned("cluster.local", LIFETIMES.longest, 1.0)
            assert await authority.refresh()
            wanted = {"root-cert.pem": authority.current.root_pem}
            await until(lambda: all(found.data == wanted for found in cluster.held.values()))

    run(scenario())
