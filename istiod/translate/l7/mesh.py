"""The mesh-wide settings of waypoints and gateways, read from MeshConfig."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, converted, document
from istiod.objects import ConfigMap
from istiod.objects.mesh_l7 import ExtensionProvider, MeshL7File
from istiod.translate.graph import View
from meshcore.errors import ConfigError
from meshcore.l7 import ClientCertificateHeader, HttpOptions, Listener, PathNormalization

DEFAULT_EXPORT: Final = ("*",)


def mesh_l7(view: View) -> MeshL7File:
    """What MeshConfig says. A field that cannot be read counts as absent, and takes no other with it; so does the whole
    if it is no YAML (`read_mesh_l7` says what is wrong, to `analyze`).
    """
    stored = view.get(ConfigMap, view.settings.root_namespace, CONFIG_MAP)
    if stored is None or CONFIG_KEY not in stored.data:
        return MeshL7File()
    try:
        data = document(stored.data[CONFIG_KEY])
    except ConfigError:
        return MeshL7File()
    return converted({name: value for name, value in data.items() if _readable({name: value})}, MeshL7File)


def _readable(data: dict[str, Any]) -> bool:
    try:
        converted(data, MeshL7File)
    except ConfigError:
        return False
    return True


def provider(view: View, name: str) -> ExtensionProvider | None:
    """An entry of MeshConfig.extensionProviders."""
    return next((one for one in view.ask(mesh_l7).extension_providers if one.name == name), None)


def http_options(view: View, *, gateway: bool) -> HttpOptions:
    """How requests are read; words that mean nothing leave the default."""
    mesh = view.ask(mesh_l7)
    default = HttpOptions()
    normalization = PathNormalization.__members__.get(mesh.path_normalization.normalization, default.normalization)
    if not gateway:
        return HttpOptions(normalization)
    topology = mesh.default_config.gateway_topology
    details = ClientCertificateHeader.__members__.get(topology.forward_client_cert_details, default.client_certificate)
    return HttpOptions(normalization, max(topology.num_trusted_proxies, 0), details)


def with_proxy_protocol(view: View, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """The listeners of a gateway, each behind the PROXY protocol if the mesh says so."""
    wanted = view.ask(mesh_l7).default_config.gateway_topology.proxy_protocol is not None
    return tuple(replace(one, proxy_protocol=True) for one in listeners) if wanted else tuple(listeners)


def exported(export_to: tuple[str, ...], default: tuple[str, ...], own: str, reader: str) -> bool:
    """Whether an object of the namespace `own` may be used by one of `reader` (exportTo)."""
    names = export_to or default or DEFAULT_EXPORT
    return "*" in names or reader in names or ("." in names and own == reader)
