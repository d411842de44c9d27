"""Policies and telemetry: what they are attached to, which providers they name, and whether anybody follows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from istiod.analyze.message import Message, message
from istiod.analyze.selectors import Selecting, selecting
from istiod.analyze.virtual_services import claims, gateways_of, key_of
from istiod.analyze.world import Workload, World
from istiod.meshfile import CONFIG_MAP
from istiod.objects import AuthorizationPolicy, ConfigMap, IstioGateway, PeerAuthentication, Telemetry, VirtualService
from istiod.objects.telemetry import ProviderRef
from istiod.translate.conditions import authentication_status, policy_status, telemetry_status
from istiod.translate.indexes import GATEWAY_NAME
from istiod.translate.l7.mesh import mesh_l7
from istiod.translate.statuses import StatusPatch
from istiod.translate.waypoints import waypoint
from meshcore.manifests import Key
from meshcore.yamldoc import Path

_BUILT_IN: Final = frozenset({"prometheus", "envoy", "otel", "stackdriver"})
"""Providers of telemetry that need no entry in MeshConfig."""
_MISSING: Final = "TargetNotFound"
_ADVICE: Final = "Attach it to a service or a waypoint with spec.targetRefs."


def attached(world: World) -> Iterator[Message]:
    """What istiod would write into the status of a policy, where it is nothing good."""
    derivations = (
        ("AuthorizationPolicy", policy_status),
        ("RequestAuthentication", authentication_status),
        ("Telemetry", telemetry_status),
    )
    for kind, derive in derivations:
        for found in selecting(world, kind):
            if found.targeted or (kind == "AuthorizationPolicy" and not _for_gateways(world, found)):
                _, namespace, name = found.one.key
                patches = derive(world.view, namespace, name)
                yield from _verdicts(world, found, patches)


def _verdicts(world: World, found: Selecting, patches: Mapping[str, StatusPatch]) -> Iterator[Message]:
    path: Path = ("spec", "targetRefs") if found.one.spec["targetRefs"] else ("spec", "targetRef")
    for patch in patches.values():
        for condition in patch.status["conditions"]:
            yield from _verdict(world, found, condition, path if found.targeted else ("spec",))


def _verdict(world: World, found: Selecting, condition: Mapping[str, Any], path: Path) -> Iterator[Message]:
    reason, text = condition["reason"], condition["message"]
    if reason == "Accepted":
        return
    if found.targeted and _unseen(world):
        return
    if reason == _MISSING:
        what = "target"
        names = [ref["name"].text for ref in (*found.one.spec["targetRefs"], found.one.spec["targetRef"]) if ref]
        yield message("IST0101", found.one.key, path, text, what=what, name=", ".join(names))
    else:
        yield message("IST0167", found.one.key, path, "" if found.targeted else _ADVICE, text=text)


def _unseen(world: World) -> bool:
    return bool(world.unseen.intersection(("Service", "ServiceEntry", "Gateway", "GatewayClass")))


def _is_gateway(world: World, pod: Workload, selectors: list[Mapping[str, str]]) -> bool:
    """A gateway, but no waypoint: it follows policies by selector and namespace."""
    name = pod.labels.get(GATEWAY_NAME)
    if name:
        return waypoint(world.view, pod.key[1], name) is None
    return any(selector.items() <= pod.labels.items() for selector in selectors)


def _for_gateways(world: World, found: Selecting) -> bool:
    """Whether all that a policy selects are gateways, as far as that is known."""
    pods = world.selected(found.scope(world), found.labels)
    selectors = _gateway_selectors(world)
    if not pods:
        return bool(found.labels) and any(found.labels.items() <= selector.items() for selector in selectors)
    return all(_is_gateway(world, pod, selectors) for pod in pods)


def _gateway_selectors(world: World) -> list[Mapping[str, str]]:
    return [one.spec.selector for one in world.store.of(IstioGateway).values() if one.spec.selector]


def nobody_follows(world: World) -> Iterator[Message]:
    """Policies without targetRefs that only gateways follow, where there are no gateways."""
    if not world.knows_workloads:
        return
    selectors = _gateway_selectors(world)
    for kind, what in (("RequestAuthentication", "checks no tokens"), ("Telemetry", "follows no Telemetry")):
        for found in selecting(world, kind):
            if found.targeted or (kind == "Telemetry" and not found.labels):
                continue  # Telemetry of a namespace holds for its waypoints
            pods = world.selected(found.scope(world), found.labels)
            if pods and not any(_is_gateway(world, pod, selectors) for pod in pods):
                text = f"it selects workloads behind ztunnel, which {what}, and no gateway"
                yield message("IST0167", found.one.key, found.path if found.labels else ("spec",), _ADVICE, text=text)


def peer_authentication(world: World) -> Iterator[Message]:
    for (namespace, name), setting in world.store.of(PeerAuthentication).items():
        key: Key = ("PeerAuthentication", namespace, name)
        spec = setting.spec
        if namespace == world.settings.root_namespace and spec.selector is not None and spec.selector.match_labels:
            text = "a selector has no effect in the root namespace"
            yield message("IST0167", key, ("spec", "selector"), text=text)
        if spec.mtls.mode == "DISABLE":
            yield message("IST0167", key, ("spec", "mtls", "mode"), text=_disabled("DISABLE"))
        for port, mtls in spec.port_level_mtls.items():
            if mtls.mode == "DISABLE":
                yield message("IST0167", key, ("spec", "portLevelMtls", port, "mode"), text=_disabled(f"port {port}"))


def _disabled(what: str) -> str:
    return f"{what}: ztunnel always accepts mutual TLS, so DISABLE means the same as PERMISSIVE"


def trust_domains(world: World) -> Iterator[Message]:
    """ztunnel compares no trust domains: such a source is empty there, and matches nothing."""
    for (namespace, name), policy in world.store.of(AuthorizationPolicy).items():
        if policy.spec.target_ref is not None or policy.spec.target_refs:
            continue
        for number, rule in enumerate(policy.spec.rules):
            for index, one in enumerate(rule.from_):
                if one.source.trust_domains or one.source.not_trust_domains:
                    field = "trustDomains" if one.source.trust_domains else "notTrustDomains"
                    path: Path = ("spec", "rules", number, "from", index, "source", field)
                    text = "ztunnel does not compare trust domains"
                    yield message("IST0167", ("AuthorizationPolicy", namespace, name), path, _ADVICE, text=text)


def _knows_mesh_config(world: World) -> bool:
    """In files MeshConfig is often left out: then nothing is known of its providers."""
    if "ConfigMap" in world.unseen:
        return False
    return world.live or world.store.get(ConfigMap, world.settings.root_namespace, CONFIG_MAP) is not None


def authorizers(world: World) -> Iterator[Message]:
    """Providers of external authorization that MeshConfig does not have: what they should judge is denied."""
    if not _knows_mesh_config(world):
        return
    known = {one.name for one in world.view.ask(mesh_l7).extension_providers}
    for (namespace, name), policy in world.store.of(AuthorizationPolicy).items():
        wanted = policy.spec.provider.name if policy.spec.provider is not None else ""
        if wanted and wanted not in known:
            path: Path = ("spec", "provider", "name")
            hint = "All requests that match the policy are denied."
            key: Key = ("AuthorizationPolicy", namespace, name)
            yield message("IST0101", key, path, hint, what="extension provider of MeshConfig", name=wanted)


def telemetry_providers(world: World) -> Iterator[Message]:
    if not _knows_mesh_config(world):
        return
    mesh = world.view.ask(mesh_l7)
    known = {one.name for one in mesh.extension_providers} | _BUILT_IN
    has_log = bool(mesh.default_providers.access_logging or mesh.access_log_file)
    for (namespace, name), found in world.store.of(Telemetry).items():
        key: Key = ("Telemetry", namespace, name)
        spec = found.spec
        blocks: list[tuple[str, int, tuple[ProviderRef, ...]]] = [
            *(("metrics", number, one.providers) for number, one in enumerate(spec.metrics)),
            *(("accessLogging", number, one.providers) for number, one in enumerate(spec.access_logging)),
            *(("tracing", number, one.providers) for number, one in enumerate(spec.tracing)),
        ]
        for field, number, providers in blocks:
            for index, ref in enumerate(providers):
                if ref.name and ref.name not in known:
                    path: Path = ("spec", field, number, "providers", index, "name")
                    text = f"MeshConfig has no extension provider {ref.name!r}"
                    yield message("IST0157", key, path, text=text)
        for number, log in enumerate(spec.access_logging):
            if not log.providers and not has_log and not log.disabled:
                text = "names no provider, and MeshConfig has no default one: nothing is logged"
                yield message("IST0157", key, ("spec", "accessLogging", number), text=text)


def claim_routes(world: World) -> Iterator[Message]:
    """Routing by the claims of a token that nobody verified."""
    checked = list(selecting(world, "RequestAuthentication"))
    for found in world.store.of(VirtualService).values():
        for name, path in claims(found):
            for place, gateway, _ in gateways_of(found):
                selected = world.store.get(IstioGateway, place, gateway)
                if selected is None or _verified(world, selected.spec.selector, checked):
                    continue
                yield message("IST0149", key_of(found), path, claim=name, gateway=f"{place}/{gateway}")


def _verified(world: World, selector: Mapping[str, str], checked: list[Selecting]) -> bool:
    pods = world.selected("", selector)
    labels = [pod.labels for pod in pods] or [selector]
    places = {pod.key[1] for pod in pods}
    for found in checked:
        scope = found.scope(world)
        if scope and places and scope not in places:
            continue
        if any(found.labels.items() <= one.items() for one in labels):
            return True
    return False
