"""Annotations of Istio: whether they exist, stand on the right kind, and say something that is understood."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from istiod.analyze.message import Message, message
from istiod.analyze.world import TEMPLATES, World, Written, pod_of
from istiod.translate.waypoints import CANARY_WEIGHT, INBOUND_BINDING, MANAGED, WAYPOINT_FOR
from istiod.validate.field import Field

ANY: Final = "every kind"
HINTS_MAX: Final = 10
"""Suggestions per object: each compares a name with all that there are, and a hostile object may hold any number."""
HINT_CHARS_MAX: Final = 64


class Rule(NamedTuple):
    """`wanted` describes the right values, `accepts` tells them; `state` is "", "alpha" or "deprecated"."""

    kinds: tuple[str, ...]
    accepts: Callable[[str], bool] = lambda _: True
    wanted: str = ""
    state: str = ""
    instead: str = ""


def _one_of(*values: str) -> tuple[Callable[[str], bool], str]:
    return (lambda text: text in values), f"it can be {', '.join(values)}"


def _matches(pattern: str, wanted: str) -> tuple[Callable[[str], bool], str]:
    compiled = re.compile(pattern)
    return (lambda text: compiled.fullmatch(text) is not None), wanted


_BOOL: Final = _one_of("true", "false")
_POD: Final = ("Pod",)
_SERVICES: Final = ("Service", "ServiceEntry", "Namespace")
_PORTS: Final = _matches(r"(\*|[0-9]+(,[0-9]+)*)?", "it is a list of port numbers, or *")
_BLOCKS: Final = _matches(r"(\*|[0-9a-fA-F:./, ]+)?", "it is a list of address blocks, or *")
_PERCENT: Final = _matches("0*([0-9]|[1-9][0-9]|100)", "it is a number from 0 to 100")
_BINDING: Final = _matches("(PROXY|NONE)(/[0-9]+)?", "it is PROXY or NONE, with /PORT where the pod listens elsewhere")

ANNOTATIONS: Final[Mapping[str, Rule]] = {
    "alpha.istio.io/canonical-serviceaccounts": Rule(("Service",), state="deprecated"),
    "alpha.istio.io/identity": Rule(_POD, state="deprecated"),
    "alpha.istio.io/kubernetes-serviceaccounts": Rule(("Service",), state="deprecated"),
    "ambient.istio.io/bypass-inbound-capture": Rule(_POD, *_BOOL, state="alpha"),
    "ambient.istio.io/dns-capture": Rule(_POD, *_BOOL),
    "ambient.istio.io/redirection": Rule(_POD, *_one_of("enabled", "disabled", "pending")),
    INBOUND_BINDING: Rule(("Gateway", "GatewayClass"), *_BINDING),
    "galley.istio.io/analyze-suppress": Rule((ANY,)),
    "gateway.istio.io/controller-version": Rule(("Gateway",)),
    "gateway.istio.io/name-override": Rule(("Gateway",)),
    "gateway.istio.io/service-account": Rule(("Gateway",)),
    "inject.istio.io/templates": Rule(_POD),
    "istio.io/autoRegistrationGroup": Rule(("WorkloadEntry",)),
    "istio.io/connect-strategy": Rule(
        ("ServiceEntry",), *_one_of("DEFAULT", "FIRST_HEALTHY_RACE", "RACE_FIRST_TCP_CONNECT")
    ),
    "istio.io/connectedAt": Rule(("WorkloadEntry",)),
    "istio.io/disconnectedAt": Rule(("WorkloadEntry",)),
    "istio.io/dry-run": Rule(("AuthorizationPolicy",), *_BOOL),
    "istio.io/ignore-policy-attachment": Rule(("DestinationRule",), *_BOOL),
    "istio.io/reroute-virtual-interfaces": Rule(_POD),
    "istio.io/rev": Rule(_POD),
    CANARY_WEIGHT: Rule(_SERVICES, *_PERCENT),
    "istio.io/workloadController": Rule(("WorkloadEntry",)),
    "networking.istio.io/address-type": Rule(("Gateway",), *_one_of("IPAddress", "Hostname")),
    "networking.istio.io/exportTo": Rule(("Service",)),
    "networking.istio.io/service-type": Rule(("Gateway",), *_one_of("ClusterIP", "NodePort", "LoadBalancer")),
    "networking.istio.io/traffic-distribution": Rule(
        _SERVICES, *_one_of("PreferClose", "PreferSameZone", "PreferSameNode", "Any")
    ),
    "prometheus.istio.io/merge-metrics": Rule(_POD, *_BOOL),
    "proxy.istio.io/config": Rule(_POD),
    "proxy.istio.io/overrides": Rule(_POD, state="alpha"),
    "readiness.status.sidecar.istio.io/applicationPorts": Rule(_POD, *_PORTS),
    "readiness.status.sidecar.istio.io/failureThreshold": Rule(_POD),
    "readiness.status.sidecar.istio.io/initialDelaySeconds": Rule(_POD),
    "readiness.status.sidecar.istio.io/periodSeconds": Rule(_POD),
    "sidecar.istio.io/agentLogLevel": Rule(_POD),
    "sidecar.istio.io/bootstrapOverride": Rule(_POD),
    "sidecar.istio.io/componentLogLevel": Rule(_POD),
    "sidecar.istio.io/controlPlaneAuthPolicy": Rule(_POD, state="deprecated"),
    "sidecar.istio.io/discoveryAddress": Rule(_POD, state="deprecated"),
    "sidecar.istio.io/enableCoreDump": Rule(_POD, *_BOOL),
    "sidecar.istio.io/extraStatTags": Rule(_POD),
    "sidecar.istio.io/inject": Rule(_POD, *_BOOL, state="deprecated", instead="the label of the same name"),
    "sidecar.istio.io/interceptionMode": Rule(_POD, *_one_of("REDIRECT", "TPROXY", "NONE")),
    "sidecar.istio.io/logLevel": Rule(_POD),
    "sidecar.istio.io/nativeSidecar": Rule(_POD, *_BOOL),
    "sidecar.istio.io/proxyCPU": Rule(_POD),
    "sidecar.istio.io/proxyCPULimit": Rule(_POD),
    "sidecar.istio.io/proxyImage": Rule(_POD),
    "sidecar.istio.io/proxyImageType": Rule(_POD),
    "sidecar.istio.io/proxyMemory": Rule(_POD),
    "sidecar.istio.io/proxyMemoryLimit": Rule(_POD),
    "sidecar.istio.io/rewriteAppHTTPProbers": Rule(_POD, *_BOOL),
    "sidecar.istio.io/statsHistogramBuckets": Rule(_POD),
    "sidecar.istio.io/statsInclusionPrefixes": Rule(_POD, state="deprecated", instead="proxy.istio.io/config"),
    "sidecar.istio.io/statsInclusionRegexps": Rule(_POD, state="deprecated", instead="proxy.istio.io/config"),
    "sidecar.istio.io/statsInclusionSuffixes": Rule(_POD, state="deprecated", instead="proxy.istio.io/config"),
    "sidecar.istio.io/status": Rule(_POD),
    "sidecar.istio.io/userVolume": Rule(_POD),
    "sidecar.istio.io/userVolumeMount": Rule(_POD),
    "status.sidecar.istio.io/port": Rule(_POD),
    "topology.istio.io/controlPlaneClusters": Rule(("Namespace",)),
    "traffic.istio.io/nodeSelector": Rule(("Service",)),
    "traffic.sidecar.istio.io/excludeInboundPorts": Rule(_POD, *_PORTS),
    "traffic.sidecar.istio.io/excludeInterfaces": Rule(_POD),
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": Rule(_POD, *_BLOCKS),
    "traffic.sidecar.istio.io/excludeOutboundPorts": Rule(_POD, *_PORTS),
    "traffic.sidecar.istio.io/includeInboundPorts": Rule(_POD, *_PORTS),
    "traffic.sidecar.istio.io/includeOutboundIPRanges": Rule(_POD, *_BLOCKS),
    "traffic.sidecar.istio.io/includeOutboundPorts": Rule(_POD, *_PORTS),
    "traffic.sidecar.istio.io/kubevirtInterfaces": Rule(_POD),
}

_BINDABLE: Final = ("Namespace", "Service", "ServiceEntry", "Pod", "WorkloadEntry")
LABELS: Final[Mapping[str, Rule]] = {
    "istio.io/dataplane-mode": Rule(("Namespace", "Pod", "Gateway"), *_one_of("ambient", "none")),
    WAYPOINT_FOR: Rule(("Gateway", "GatewayClass"), *_one_of("service", "workload", "all", "none")),
    "istio.io/ingress-use-waypoint": Rule(_SERVICES, *_BOOL),
    "istio.io/use-waypoint": Rule(_BINDABLE),
    "istio.io/use-waypoint-namespace": Rule(_BINDABLE),
    "istio.io/use-waypoint-canary": Rule(_SERVICES),
    "istio.io/use-waypoint-canary-namespace": Rule(_SERVICES),
    "networking.istio.io/enable-autoallocate-ip": Rule(("ServiceEntry",), *_BOOL),
}
"""Labels that ambient goes by. Any object may carry any other."""

_OURS: Final = re.compile(r"(?:[a-z0-9-]+\.)*istio\.io/.*")
_PRIVATE: Final = ("install.operator.istio.io/", "internal.istio.io/", "operator.istio.io/")
"""What Istio's own installers leave behind."""


def known_annotations(world: World) -> Iterator[Message]:
    for one in world.written.values():
        yield from _of(one, one.kind, one.root["metadata"]["annotations"])
        if one.kind in TEMPLATES:
            yield from _of(one, "Pod", pod_of(one)["metadata"]["annotations"])


def known_labels(world: World) -> Iterator[Message]:
    """Labels of ambient with a value, or on a kind, that has no effect."""
    for one in world.written.values():
        found = one.root["metadata"]["labels"]
        if found[MANAGED]:
            continue  # what is deployed for a Gateway repeats the Gateway's labels
        yield from _labels(one, one.kind, found)
        if one.kind in TEMPLATES:
            yield from _labels(one, "Pod", pod_of(one)["metadata"]["labels"])


def _of(one: Written, kind: str, found: Field) -> Iterator[Message]:
    hints = HINTS_MAX
    for name, value in found.members():
        if _OURS.fullmatch(name) is None or name.startswith(_PRIVATE):
            continue
        rule = ANNOTATIONS.get(name)
        if rule is None:
            hint = _hint(name) if hints else ""
            hints = max(0, hints - 1)
            yield message("IST0108", one.key, value.path, hint, name=name)
        elif kind not in rule.kinds and ANY not in rule.kinds:
            yield message("IST0107", one.key, value.path, name=name, kinds=" and ".join(rule.kinds))
        else:
            yield from _value(one, name, value, rule)


def _value(one: Written, name: str, value: Field, rule: Rule) -> Iterator[Message]:
    if not rule.accepts(value.text):
        yield message("IST0125", one.key, value.path, name=name, value=value.text, wanted=rule.wanted)
    if rule.state == "deprecated":
        instead = f": use {rule.instead}" if rule.instead else ""
        yield message("IST0135", one.key, value.path, name=name, instead=instead)
    elif rule.state == "alpha":
        yield message("IST0136", one.key, value.path, name=name)


def _labels(one: Written, kind: str, found: Field) -> Iterator[Message]:
    for name, value in found.members():
        rule = LABELS.get(name)
        if rule is None:
            continue
        if kind not in rule.kinds:
            wanted = f"it has an effect on {', '.join(rule.kinds)} only"
            yield message("AMB0004", one.key, value.path, name=name, value=value.text, wanted=wanted)
        elif not rule.accepts(value.text):
            yield message("AMB0004", one.key, value.path, name=name, value=value.text, wanted=rule.wanted)


def _hint(name: str) -> str:
    if name in LABELS:
        return f"{name} is a label: move it to metadata.labels"
    near = difflib.get_close_matches(name[:HINT_CHARS_MAX], ANNOTATIONS, n=1)
    return f"Did you mean {near[0]}?" if near else ""
