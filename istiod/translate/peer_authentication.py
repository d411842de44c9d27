"""PeerAuthentication to DENY policies: ztunnel has no mTLS mode, a connection without identity is denied instead.

DISABLE and PERMISSIVE mean the same here: plaintext is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from istiod import objects
from istiod.translate.common import MeshConfig, selects
from meshcore.model import Authorization, Clause, Match, PolicyAction, PolicyScope, Rule, StringMatch

STATIC_STRICT: Final = "istio_converted_static_strict"
CONVERTED_PREFIX: Final = "converted_peer_authentication_"
_NO_IDENTITY: Final = Clause((Match(not_principals=(StringMatch(presence=True),)),))


class PeerAuthentications:
    """The mTLS settings of a mesh, ready to be asked about one pod."""

    def __init__(self, settings: Iterable[objects.PeerAuthentication], mesh: MeshConfig) -> None:
        self._mesh = mesh
        self._by_namespace: dict[str, list[objects.PeerAuthentication]] = {}
        self._static = f"{mesh.root_namespace}/{STATIC_STRICT}"
        self._any = False
        ordered = sorted(
            settings, key=lambda pa: (pa.metadata.creation_timestamp, pa.metadata.namespace, pa.metadata.name)
        )
        for setting in ordered:  # the oldest of a level wins
            self._any = True
            self._by_namespace.setdefault(setting.metadata.namespace, []).append(setting)
        self._mesh_mode = self._level_mode(mesh.root_namespace, "PERMISSIVE")

    def policies(self) -> list[Authorization]:
        """Every converted policy; the static one is there as soon as there is any setting."""
        found = []
        if self._any:
            root = self._mesh.root_namespace
            rules = (Rule((_NO_IDENTITY,)),)
            found.append(Authorization(STATIC_STRICT, root, PolicyScope.WORKLOAD_SELECTOR, PolicyAction.DENY, rules))
        for namespace, settings in self._by_namespace.items():
            if namespace != self._mesh.root_namespace:
                found += (policy for pa in settings if _selective(pa) and (policy := self._converted(pa)) is not None)
        return found

    def for_pod(self, namespace: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """The keys of the converted policies that hold for a pod."""
        if not self._any:
            return ()
        setting = None
        if namespace != self._mesh.root_namespace:
            setting = next(
                (pa for pa in self._by_namespace.get(namespace, ()) if _selective(pa) and selects(_labels(pa), labels)),
                None,
            )
        base = self._namespace_mode(namespace)
        if setting is not None:
            base = _resolve(setting.spec.mtls.mode, base)
            if _overridden(setting, base):
                converted = self._converted(setting)
                return () if converted is None else (f"{namespace}/{converted.name}",)
        return (self._static,) if base == "STRICT" else ()

    def _converted(self, setting: objects.PeerAuthentication) -> Authorization | None:
        """The policy of one setting with ports; None if it overrides nothing, or nothing strict remains."""
        meta = setting.metadata
        base = _resolve(setting.spec.mtls.mode, self._namespace_mode(meta.namespace))
        overridden = _overridden(setting, base)
        if not overridden:
            return None
        if base == "STRICT":
            exempt = (Clause((Match(not_destination_ports=(port,)),)) for port in overridden)
            rules: tuple[Rule, ...] = (Rule((_NO_IDENTITY, *exempt)),)
        else:
            rules = tuple(Rule((_NO_IDENTITY, Clause((Match(destination_ports=(port,)),)))) for port in overridden)
        return Authorization(
            CONVERTED_PREFIX + meta.name, meta.namespace, PolicyScope.WORKLOAD_SELECTOR, PolicyAction.DENY, rules
        )

    def _namespace_mode(self, namespace: str) -> str:
        return (
            self._level_mode(namespace, self._mesh_mode) if namespace != self._mesh.root_namespace else self._mesh_mode
        )

    def _level_mode(self, namespace: str, inherited: str) -> str:
        for setting in self._by_namespace.get(namespace, ()):
            if not _selective(setting):
                return _resolve(setting.spec.mtls.mode, inherited)
        return inherited


def _labels(setting: objects.PeerAuthentication) -> Mapping[str, str]:
    return setting.spec.selector.match_labels if setting.spec.selector is not None else {}


def _selective(setting: objects.PeerAuthentication) -> bool:
    """For some pods; a selector without labels is none."""
    return bool(_labels(setting))


def _resolve(mode: str, inherited: str) -> str:
    if mode == "UNSET":
        return inherited
    return "STRICT" if mode == "STRICT" else "PERMISSIVE"


def _overridden(setting: objects.PeerAuthentication, base: str) -> list[int]:
    """Ports whose mode differs from the base mode, in order."""
    ports = setting.spec.port_level_mtls.items()
    return sorted(int(port) for port, mtls in ports if _resolve(mtls.mode, base) != base)
