"""The listeners of a gateway, its own and those of listener sets, each with what is right and wrong about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from istiod.objects import Gateway, ListenerSet, Namespace
from istiod.objects.gateway_api import FrontendValidation, LabelSelector, Listener
from istiod.resources import GATEWAY_API
from istiod.translate.common import matches
from istiod.translate.gateway_api.classes import controller
from istiod.translate.gateway_api.indexes import SETS_BY_GATEWAY
from istiod.translate.gateway_api.references import RESOLVED, Referrer, authorities, key_pairs
from istiod.translate.graph import View
from istiod.translate.statuses import Verdict
from istiod.translate.waypoints import EAST_WEST_CONTROLLER, REMOTE_CONTROLLER, WAYPOINT_CONTROLLER
from meshcore import l7

TERMINATE_MODE: Final = "gateway.istio.io/tls-terminate-mode"
CIPHER_SUITES: Final = "gateway.istio.io/tls-cipher-suites"
LISTENER_PROTOCOL: Final = "gateway.istio.io/listener-protocol"
AUTO_PASSTHROUGH: Final = "auto-passthrough"
CERTIFICATES_MAX: Final = 2
"""One for each kind of key, as upstream."""

_MESH_CONTROLLERS: Final = frozenset({WAYPOINT_CONTROLLER, EAST_WEST_CONTROLLER, REMOTE_CONTROLLER})
_FAMILIES: Final = {"HTTPS": "TLS"}
"""Protocols that may share a port with another, because a server name tells their connections apart."""
_MESH_PROTOCOLS: Final = frozenset({"HBONE", "istio.io/PROXY"})
_HTTP_ROUTES: Final = ("HTTPRoute", "GRPCRoute")
_SIMPLE: Final = "SIMPLE"
_CLIENT_AUTH: Final = {"MUTUAL": l7.ClientAuth.REQUIRED, "OPTIONAL_MUTUAL": l7.ClientAuth.OPTIONAL}
_MESH_CERTIFICATE: Final = {"ISTIO_MUTUAL": l7.ClientAuth.REQUIRED, "ISTIO_SIMPLE": l7.ClientAuth.NONE}

ACCEPTED: Final = Verdict(ok=True, reason="Accepted", message="accepted")
NO_CONFLICT: Final = Verdict(ok=True, reason="NoConflicts", message="no other listener is in the way")


class ListenerInfo(msgspec.Struct, frozen=True):
    """A listener as it stands in its owner (`Gateway` or `ListenerSet`, `namespace`, `parent`).

    `kinds` are the routes it takes. `tls` is set if it ends TLS. `insecure`: client certificates need not be valid.
    """

    owner: str
    namespace: str
    parent: str
    spec: Listener
    kinds: tuple[str, ...]
    accepted: Verdict = ACCEPTED
    conflict: Verdict = NO_CONFLICT
    resolved: Verdict = RESOLVED
    tls: l7.ListenerTls | None = None
    insecure: bool = False

    @property
    def programmed(self) -> Verdict:
        if self.accepted.ok and (self.resolved.ok or self.resolved.reason == "InvalidRouteKinds"):
            return Verdict(ok=True, reason="Programmed", message="the gateway has its configuration")
        fault = self.resolved if self.accepted.ok else self.accepted
        return Verdict(ok=False, reason="Invalid", message=fault.message)

    @property
    def host(self) -> str:
        return self.spec.hostname or "*"


class SetParent(msgspec.Struct, frozen=True):
    """The gateway that a listener set joins; without a name it means none of ours."""

    namespace: str = ""
    name: str = ""
    verdict: Verdict = ACCEPTED


def set_parent(view: View, namespace: str, name: str) -> SetParent:
    """Where a listener set belongs, and whether the gateway lets it in."""
    found = view.get(ListenerSet, namespace, name)
    if found is None:
        return SetParent()
    ref = found.spec.parent_ref
    place = ref.namespace or namespace
    if (ref.group, ref.kind) != (GATEWAY_API, "Gateway") or not view.ask(controller, place, ref.name):
        return SetParent()
    gateway = view.get(Gateway, place, ref.name)
    rule = gateway.spec.allowed_listeners.namespaces if gateway is not None else None
    if rule is not None and in_scope(view, rule.from_, rule.selector, place, namespace):
        return SetParent(place, ref.name)
    text = f"the gateway {place}/{ref.name} takes no listener sets of the namespace {namespace} (allowedListeners)"
    return SetParent(place, ref.name, Verdict(ok=False, reason="NotAllowed", message=text))


def joined_sets(view: View, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
    """The listener sets of a gateway that it lets in, the oldest first."""
    found = []
    for one in view.find(SETS_BY_GATEWAY, (namespace, name)):
        meta = one.metadata
        parent = view.ask(set_parent, meta.namespace, meta.name)
        if parent.name and parent.verdict.ok:
            found.append((meta.creation_timestamp, meta.namespace, meta.name))
    return tuple((place, title) for _, place, title in sorted(found))


def listeners(view: View, namespace: str, name: str) -> tuple[ListenerInfo, ...]:
    """Every listener of a gateway of ours, in order of precedence: its own, then those of its listener sets."""
    gateway = view.get(Gateway, namespace, name)
    ours = view.ask(controller, namespace, name)
    if gateway is None or not ours:
        return ()
    found = [_judge(view, gateway, ours, "Gateway", namespace, name, one) for one in gateway.spec.listeners]
    for place, title in view.ask(joined_sets, namespace, name):
        joined = view.get(ListenerSet, place, title)
        if joined is not None:
            found += (_judge(view, gateway, ours, "ListenerSet", place, title, one) for one in joined.spec.listeners)
    return tuple(_without_conflicts(found))


def in_scope(view: View, scope: str, selector: LabelSelector | None, home: str, namespace: str) -> bool:
    """Whether `namespace` is among those that an object in `home` admits: None, Same, All or Selector."""
    if scope == "Same":
        return namespace == home
    if scope == "Selector" and selector is not None:
        return matches(selector, dict(view.ask(namespace_labels, namespace)))
    return scope == "All"


def namespace_labels(view: View, name: str) -> tuple[tuple[str, str], ...]:
    """The labels of a namespace; the one with its name is there in any case, as the API server sets it."""
    found = view.get(Namespace, "", name)
    labels = found.metadata.labels if found is not None else {}
    return tuple(sorted(({"kubernetes.io/metadata.name": name} | labels).items()))


def _judge(
    view: View, gateway: Gateway, ours: str, owner: str, namespace: str, parent: str, spec: Listener
) -> ListenerInfo:
    supported = _supported(spec, ours)
    if supported is None:
        text = f"the protocol {spec.protocol!r} is not supported by {ours}"
        fault = Verdict(ok=False, reason="UnsupportedProtocol", message=text)
        return ListenerInfo(owner, namespace, parent, spec, (), accepted=fault)
    wanted = [one.kind if one.group == GATEWAY_API else f"{one.group}/{one.kind}" for one in spec.allowed_routes.kinds]
    kinds = tuple(kind for kind in supported if kind in wanted) if wanted else supported
    info = ListenerInfo(owner, namespace, parent, spec, kinds)
    if unknown := [kind for kind in wanted if kind not in supported]:
        text = f"{spec.protocol} listeners take no routes of the kinds {', '.join(unknown)}"
        info = msgspec.structs.replace(info, resolved=Verdict(ok=False, reason="InvalidRouteKinds", message=text))
    ends_tls = spec.protocol == "HTTPS" or (spec.protocol == "TLS" and not _passthrough(spec))
    return _with_tls(view, gateway, info) if ends_tls else info


def _supported(spec: Listener, ours: str) -> tuple[str, ...] | None:
    """The kinds of routes that a protocol can carry; None if the protocol is none of ours."""
    match spec.protocol:
        case "HTTP" | "HTTPS":
            return _HTTP_ROUTES
        case "TLS":
            return ("TLSRoute",) if _passthrough(spec) else ("TLSRoute", "TCPRoute")
        case "TCP":
            return ("TCPRoute",)
    return () if spec.protocol in _MESH_PROTOCOLS and ours in _MESH_CONTROLLERS else None


def _passthrough(spec: Listener) -> bool:
    return spec.tls is not None and spec.tls.mode == "Passthrough"


def _with_tls(view: View, gateway: Gateway, info: ListenerInfo) -> ListenerInfo:
    spec = info.spec.tls
    refs = spec.certificate_refs if spec is not None else ()
    options = spec.options if spec is not None else {}
    mode = options.get(TERMINATE_MODE, _SIMPLE)
    if mode not in (_SIMPLE, *_CLIENT_AUTH, *_MESH_CERTIFICATE):
        known = ", ".join((_SIMPLE, *_CLIENT_AUTH, *_MESH_CERTIFICATE))
        text = f"the option {TERMINATE_MODE} {mode!r} is not one of {known}"
        return msgspec.structs.replace(info, accepted=Verdict(ok=False, reason="UnsupportedValue", message=text))
    ciphers = tuple(part.strip() for part in options.get(CIPHER_SUITES, "").split(",") if part.strip())
    if mode in _MESH_CERTIFICATE:
        tls = l7.ListenerTls(client=_MESH_CERTIFICATE[mode], ciphers=ciphers, mesh=True)
        return msgspec.structs.replace(info, tls=tls)
    if not refs or len(refs) > CERTIFICATES_MAX:
        text = "TLS is to be ended, but no certificateRefs say with which certificate"
        if refs:
            text = f"{len(refs)} certificateRefs: at most {CERTIFICATES_MAX} can be used"
        return msgspec.structs.replace(info, resolved=Verdict(ok=False, reason="InvalidCertificateRef", message=text))
    found = key_pairs(view, Referrer(info.owner, info.namespace), refs, "InvalidCertificateRef")
    if not found.verdict.ok:
        info = msgspec.structs.replace(info, resolved=found.verdict)
    tls = l7.ListenerTls(keys=tuple(l7.KeyPair(secret) for secret in found.secrets), ciphers=ciphers)
    if (client := _CLIENT_AUTH.get(mode)) is not None and found.secrets:
        tls = msgspec.structs.replace(tls, client=client, trust=l7.Trust(found.secrets[:1]))
    info = msgspec.structs.replace(info, tls=tls)
    validation = frontend_validation(gateway, info.spec.port)
    return _with_client_validation(view, gateway, info, validation) if validation is not None else info


def frontend_validation(gateway: Gateway, port: int) -> FrontendValidation | None:
    """What is asked of clients on a port: its own setting, else the default."""
    frontend = gateway.spec.tls.frontend if gateway.spec.tls is not None else None
    if frontend is None:
        return None
    for one in frontend.per_port:
        if one.port == port:
            return one.tls.validation
    return frontend.default.validation


def _with_client_validation(
    view: View, gateway: Gateway, info: ListenerInfo, validation: FrontendValidation
) -> ListenerInfo:
    referrer = Referrer("Gateway", gateway.metadata.namespace)
    found = authorities(view, referrer, validation.ca_certificate_refs, "InvalidCACertificateKind")
    if not found.verdict.ok and info.resolved.ok:
        info = msgspec.structs.replace(info, resolved=found.verdict)
    trust = l7.Trust(found.secrets, found.config_maps)
    if trust == l7.Trust():
        text = f"no certificate authority for clients can be used: {found.verdict.message}"
        fault = Verdict(ok=False, reason="NoValidCACertificate", message=text)
        return msgspec.structs.replace(info, accepted=fault)
    insecure = validation.mode == "AllowInsecureFallback"
    client = l7.ClientAuth.INSECURE_FALLBACK if insecure else l7.ClientAuth.REQUIRED
    tls = msgspec.structs.replace(info.tls or l7.ListenerTls(), client=client, trust=trust)
    return msgspec.structs.replace(info, tls=tls, insecure=insecure)


def _without_conflicts(found: Sequence[ListenerInfo]) -> Iterable[ListenerInfo]:
    """Listeners of the gateway that exclude each other are all refused; sets give way to what is before them."""
    taken = _Taken()
    for info in found:
        if info.owner == "Gateway":
            taken.add(info)
    for info in found:
        own = info.owner == "Gateway"
        reason = taken.conflict(info, counted=own)
        if not reason:
            if not own:
                taken.add(info)
            yield info
            continue
        what = "the same hostname" if reason == "HostnameConflict" else "another protocol"
        fault = Verdict(ok=False, reason=reason, message=f"another listener on port {info.spec.port} has {what}")
        yield msgspec.structs.replace(info, accepted=fault, conflict=fault)


class _Taken:
    """How many listeners have a port, a protocol on it, a hostname with that."""

    def __init__(self) -> None:
        self._ports: Counter[int] = Counter()
        self._families: Counter[tuple[int, str]] = Counter()
        self._hosts: Counter[tuple[int, str, str]] = Counter()

    def add(self, info: ListenerInfo) -> None:
        if info.accepted.reason != "UnsupportedProtocol":
            port, family, host = self._keys(info)
            self._ports[port] += 1
            self._families[port, family] += 1
            self._hosts[port, family, host] += 1

    def conflict(self, info: ListenerInfo, *, counted: bool) -> str:
        """The reason if another has what this listener needs for itself; `counted`: this one was added too."""
        if info.accepted.reason == "UnsupportedProtocol":
            return ""
        port, family, host = self._keys(info)
        if self._ports[port] > self._families[port, family]:
            return "ProtocolConflict"
        return "HostnameConflict" if self._hosts[port, family, host] > counted else ""

    @staticmethod
    def _keys(info: ListenerInfo) -> tuple[int, str, str]:
        """Only HTTP and TLS have names that tell listeners of one port apart."""
        family = _FAMILIES.get(info.spec.protocol, info.spec.protocol)
        return info.spec.port, family, info.host if family in ("HTTP", "TLS") else ""
