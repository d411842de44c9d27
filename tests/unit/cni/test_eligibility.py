"""Who is enrolled: the table of labels, and the facts that always say no."""

from __future__ import annotations

from typing import Any

import pytest

from cni.eligibility import Pod, Scope, describe, refusal
from meshcore.zds import WorkloadInfo

MODE = "istio.io/dataplane-mode"


def pod(mode: str | None = None, namespace: str = "shop", **extra: Any) -> dict[str, Any]:
    labels = {} if mode is None else {MODE: mode}
    meta = {"name": "web", "namespace": namespace, "labels": labels | extra.pop("labels", {})}
    meta["annotations"] = extra.pop("annotations", {})
    return {"kind": "Pod", "metadata": meta, "spec": extra.pop("spec", {}), "status": extra.pop("status", {})}


def namespace(mode: str | None) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": "shop", "labels": {} if mode is None else {MODE: mode}}}


@pytest.mark.parametrize(
    "of_pod, of_namespace, enrolled",
    [
        (None, None, False),
        (None, "ambient", True),
        (None, "none", False),
        ("ambient", None, True),
        ("ambient", "ambient", True),
        ("ambient", "none", True),
        ("none", None, False),
        ("none", "ambient", False),
        ("", "ambient", True),
        ("other", None, False),
        ("other", "ambient", True),
    ],
)
def test_labels(of_pod: str | None, of_namespace: str | None, enrolled: bool) -> None:
    assert (refusal(pod(of_pod), namespace(of_namespace), Scope()) is None) is enrolled


@pytest.mark.parametrize(
    "obj, reason",
    [
        (pod("ambient", spec={"hostNetwork": True}), "host's network"),
        (pod("ambient", annotations={"sidecar.istio.io/status": "{}"}), "sidecar"),
        (pod("ambient", namespace="kube-system"), "namespace kube-system is excluded"),
        (pod("ambient", namespace="istio-system", labels={"app": "ztunnel"}), "is a ztunnel"),
        (pod("ambient", status={"phase": "Succeeded"}), "has finished"),
        (pod("ambient", status={"phase": "Failed"}), "has finished"),
    ],
)
def test_some_pods_are_never_enrolled(obj: dict[str, Any], reason: str) -> None:
    assert reason in (refusal(obj, namespace("ambient"), Scope()) or "")


def test_the_exclusions_are_no_wider_than_they_say() -> None:
    assert refusal(pod("ambient", labels={"app": "ztunnel"}), None, Scope()) is None  # another namespace
    assert refusal(pod("ambient", namespace="istio-system"), None, Scope()) is None  # another app
    assert refusal(pod("ambient", status={"phase": "Pending"}), None, Scope()) is None
    assert refusal(pod("ambient", namespace="kube-system"), None, Scope(frozenset())) is None


def test_a_namespace_nobody_wrote_has_no_labels() -> None:
    assert refusal(pod("ambient"), None, Scope()) is None
    assert refusal(pod(), None, Scope()) is not None


def test_describe_takes_what_is_there() -> None:
    notes = {
        "cni.ambient.mesh/netns": "/run/netns/web",
        "ambient.istio.io/bypass-inbound-capture": "true",
        "ambient.istio.io/dns-capture": "False",
        "istio.io/reroute-virtual-interfaces": "vm0, vm1,,vm0,a-name-that-is-too-long,vm*,a/b",
    }
    obj = pod(annotations=notes, spec={"serviceAccountName": "sa"})
    obj["metadata"]["uid"] = "u-1"
    obj["status"] = {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00:0::1"}, {"ip": "nonsense"}, {}]}
    assert describe(obj) == Pod(
        uid="u-1",
        info=WorkloadInfo("web", "shop", "sa"),
        netns="/run/netns/web",
        ips=("10.0.0.1", "fd00::1"),
        ready_to_run=True,
        bypass_inbound=True,
        dns_capture=False,
        virtual_interfaces=("vm0", "vm1"),
    )


def test_describe_survives_a_bare_object() -> None:
    assert describe({"metadata": {"name": "web", "annotations": None}, "spec": None, "status": None}) == Pod(
        uid="default/web", info=WorkloadInfo("web", "default", "default"), netns="", ips=(), ready_to_run=True
    )


@pytest.mark.parametrize("text, value", [("1", True), ("T", True), ("false", False), ("yes", None), ("", None)])
def test_booleans_are_read_as_upstream_reads_them(text: str, value: bool | None) -> None:
    assert describe(pod(annotations={"ambient.istio.io/dns-capture": text})).dns_capture is value
