"""PeerAuthentication to DENY policies: ztunnel has no mTLS mode, a connection without identity is denied instead.

DISABLE and PERMISSIVE mean the same here: plaintext is accepted. The oldest setting of a level wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from istiod.objects import PeerAuthentication
from istiod.translate.common import selects
from istiod.translate.graph import View
from istiod.translate.indexes import MTLS_BY_LABEL, MTLS_OF_NAMESPACE
from meshcore.model import Authorization, Clause, Match, PolicyAction, PolicyScope, Rule, StringMatch

STATIC_STRICT: Final = "istio_converted_static_strict"
CONVERTED_PREFIX: Final = "converted_peer_authentication_"
_NO_IDENTITY: Final = Clause((Match(not_principals=(StringMatch(presence=True),)),))


def static_strict(view: View) -> Mapping[str, Authorization]:
    """The policy of STRICT without exceptions; it is there as soon as there is any setting."""
    root = view.settings.root_namespace
    policy = Authorization(
        STATIC_STRICT, root, PolicyScope.WORKLOAD_SELECTOR, PolicyAction.DENY, (Rule((_NO_IDENTITY,)),)
    )
    return {f"{root}/{STATIC_STRICT}": policy}


def converted(view: View, namespace: str, name: str) -> Mapping[str, Authorization]:
    """The policy of one setting with ports; empty if it overrides nothing, or nothing strict remains."""
    setting = view.get(PeerAuthentication, namespace, name)
    if setting is None or namespace == view.settings.root_namespace or not _labels(setting):
        return {}
    base = _resolve(setting.spec.mtls.mode, view.ask(namespace_mode, namespace))
    overridden = _overridden(setting, base)
    if not overridden:
        return {}
    if base == "STRICT":
        exempt = (Clause((Match(not_destination_ports=(port,)),)) for port in overridden)
        rules: tuple[Rule, ...] = (Rule((_NO_IDENTITY, *exempt)),)
    else:
        rules = tuple(Rule((_NO_IDENTITY, Clause((Match(destination_ports=(port,)),)))) for port in overridden)
    policy = Authorization(CONVERTED_PREFIX + name, namespace, PolicyScope.WORKLOAD_SELECTOR, PolicyAction.DENY, rules)
    return {f"{namespace}/{policy.name}": policy}


def namespace_mode(view: View, namespace: str) -> str:
    """STRICT or PERMISSIVE where no selector says otherwise."""
    root = view.settings.root_namespace
    inherited = view.ask(namespace_mode, root) if namespace != root else "PERMISSIVE"
    settings = view.find(MTLS_OF_NAMESPACE, (namespace,))
    return _resolve(min(settings, key=_age).spec.mtls.mode, inherited) if settings else inherited


def mtls_policies(view: View, namespace: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of the converted policies that hold for a workload."""
    root = view.settings.root_namespace
    base = view.ask(namespace_mode, namespace)
    setting = None if namespace == root else _selected(view, namespace, labels)
    if setting is not None:
        base = _resolve(setting.spec.mtls.mode, base)
        if _overridden(setting, base):
            return tuple(view.ask(converted, namespace, setting.metadata.name))
    return (f"{root}/{STATIC_STRICT}",) if base == "STRICT" else ()


def _selected(view: View, namespace: str, labels: Mapping[str, str]) -> PeerAuthentication | None:
    found = {
        setting.metadata.name: setting
        for key, value in labels.items()
        for setting in view.find(MTLS_BY_LABEL, (namespace, key, value))
        if selects(_labels(setting), labels)
    }
    return min(found.values(), key=_age) if found else None


def _labels(setting: PeerAuthentication) -> Mapping[str, str]:
    return setting.spec.selector.match_labels if setting.spec.selector is not None else {}


def _age(setting: PeerAuthentication) -> tuple[str, str]:
    return (setting.metadata.creation_timestamp, setting.metadata.name)


def _resolve(mode: str, inherited: str) -> str:
    if mode == "UNSET":
        return inherited
    return "STRICT" if mode == "STRICT" else "PERMISSIVE"


def _overridden(setting: PeerAuthentication, base: str) -> list[int]:
    """Ports whose mode differs from the base mode, in order."""
    ports: Iterable[tuple[str, str]] = ((port, mtls.mode) for port, mtls in setting.spec.port_level_mtls.items())
    return sorted(int(port) for port, mode in ports if _resolve(mode, base) != base)
