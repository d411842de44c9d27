"""Which pods are enrolled: labels and namespaces say yes, a few facts always say no."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from meshcore.zds import WorkloadInfo

MODE_LABEL: Final = "istio.io/dataplane-mode"
REDIRECTION: Final = "ambient.istio.io/redirection"
NETNS: Final = "cni.ambient.mesh/netns"
SIDECAR_STATUS: Final = "sidecar.istio.io/status"
BYPASS_INBOUND: Final = "ambient.istio.io/bypass-inbound-capture"
DNS_CAPTURE: Final = "ambient.istio.io/dns-capture"
VIRTUAL_INTERFACES: Final = "istio.io/reroute-virtual-interfaces"

ENABLED: Final = "enabled"
PENDING: Final = "pending"

_TRUE: Final = frozenset({"1", "t", "true"})  # as Go's strconv.ParseBool, in lower case
_FALSE: Final = frozenset({"0", "f", "false"})
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")  # IFNAMSIZ - 1; no `*`, which nft takes as a wildcard


class Scope(msgspec.Struct, frozen=True):
    """What the agent was told about the mesh as a whole."""

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    system_namespace: str = "istio-system"


class Pod(msgspec.Struct, frozen=True):
    """What the agent needs of a Pod object."""

    uid: str
    info: WorkloadInfo
    netns: str
    ips: tuple[str, ...]
    ready_to_run: bool
    """False once the pod has finished (phase Succeeded or Failed)."""

    bypass_inbound: bool = False
    dns_capture: bool | None = None
    virtual_interfaces: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"Pod {self.info.namespace}/{self.info.name}"


def _metadata(obj: Mapping[str, Any], field: str) -> Mapping[str, str]:
    return (obj.get("metadata") or {}).get(field) or {}


def refusal(pod: Mapping[str, Any], namespace: Mapping[str, Any] | None, scope: Scope) -> str | None:
    """None when the pod is to be enrolled, otherwise the reason why it is not.

    `pod` and `namespace` are Kubernetes objects; a namespace that nobody wrote down has no labels.
    """
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    labels = _metadata(pod, "labels")
    where = meta.get("namespace") or "default"
    phase = (pod.get("status") or {}).get("phase")
    checks = (
        (bool(spec.get("hostNetwork")), "it uses the host's network"),
        (SIDECAR_STATUS in _metadata(pod, "annotations"), "it has a sidecar"),
        (where in scope.excluded_namespaces, f"namespace {where} is excluded"),
        (where == scope.system_namespace and labels.get("app") == "ztunnel", "it is a ztunnel"),
        (phase in ("Succeeded", "Failed"), f"it has finished ({phase})"),
    )
    for applies, reason in checks:
        if applies:
            return reason
    mode = labels.get(MODE_LABEL)
    if mode == "ambient":
        return None
    if mode == "none":
        return f"its label {MODE_LABEL} is none"
    if _metadata(namespace or {}, "labels").get(MODE_LABEL) == "ambient":
        return None
    return f"neither it nor namespace {where} has the label {MODE_LABEL}=ambient"


def describe(obj: Mapping[str, Any]) -> Pod:
    """Take out of a Pod object what enrolment needs. Absent or odd fields count as not set."""
    meta, spec, status = obj.get("metadata") or {}, obj.get("spec") or {}, obj.get("status") or {}
    notes = _metadata(obj, "annotations")
    name, namespace = str(meta.get("name")), str(meta.get("namespace") or "default")
    return Pod(
        # YAML written by hand has no uid; the name is as unique among the pods of one node.
        uid=str(meta.get("uid") or f"{namespace}/{name}"),
        info=WorkloadInfo(name, namespace, str(spec.get("serviceAccountName") or "default")),
        netns=str(notes.get(NETNS) or ""),
        ips=_addresses(status),
        ready_to_run=status.get("phase") not in ("Succeeded", "Failed"),
        bypass_inbound=_boolean(notes.get(BYPASS_INBOUND)) or False,
        dns_capture=_boolean(notes.get(DNS_CAPTURE)),
        virtual_interfaces=_interfaces(notes.get(VIRTUAL_INTERFACES) or ""),
    )


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    entries = status.get("podIPs")
    texts = [entry.get("ip") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    found: dict[str, None] = {}
    for text in [*texts, status.get("podIP")]:
        try:
            found[str(ipaddress.ip_address(text or ""))] = None
        except ValueError:
            continue
    return tuple(found)


def _boolean(text: str | None) -> bool | None:
    value = (text or "").strip().lower()
    return True if value in _TRUE else False if value in _FALSE else None


def _interfaces(text: str) -> tuple[str, ...]:
    names = dict.fromkeys(name.strip() for name in text.split(","))
    return tuple(name for name in names if _INTERFACE.fullmatch(name))
