"""Every code of `istioctl analyze`, whether it is given here or why not, and the codes of our own (AMB).

Codes, names and levels are upstream's, so that a message can be looked up, suppressed and counted as there.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Level(enum.IntEnum):
    INFO = 0
    WARNING = 1
    ERROR = 2

    @property
    def title(self) -> str:
        """As output and options spell it."""
        return self.name.title()


LEVELS: Final = {level.title: level for level in Level}


class Code(NamedTuple):
    """`text` is a template; `absent` says why a code is never given, and is empty for those that are."""

    id: str
    level: Level
    name: str
    text: str
    absent: str = ""

    @property
    def url(self) -> str:
        """Upstream's page about it; there is none for codes of our own."""
        if not self.id.startswith("IST"):
            return ""
        return f"https://istio.io/latest/docs/reference/config/analysis/{self.id.lower()}/"


_E, _W, _I = Level.ERROR, Level.WARNING, Level.INFO
_SIDECAR: Final = "about sidecars and their injection; this mesh has none"
_REMOTE: Final = "about several clusters or a control plane outside of the cluster"
_UPGRADE: Final = "about moving between versions of Istio's own control plane"

_TABLE: Final = (
    Code("IST0001", _E, "InternalError", "BUG: the analyzer {analyzer} failed: {error}"),
    Code("IST0002", _W, "Deprecated", "{text}"),
    Code("IST0101", _E, "ReferencedResourceNotFound", "{what} {name!r} does not exist"),
    Code("IST0102", _I, "NamespaceNotInjected", "", _SIDECAR),
    Code("IST0103", _W, "PodMissingProxy", "", _SIDECAR),
    Code("IST0106", _E, "SchemaValidationError", "{text}"),
    Code("IST0107", _W, "MisplacedAnnotation", "the annotation {name} means nothing here: it belongs to {kinds}"),
    Code("IST0108", _W, "UnknownAnnotation", "Istio has no annotation {name}"),
    Code(
        "IST0109",
        _E,
        "ConflictingMeshGatewayVirtualServiceHosts",
        "{others} define routes for the host {host} inside the mesh as well: which one counts is not certain",
    ),
    Code(
        "IST0110",
        _E,
        "ConflictingSidecarWorkloadSelectors",
        "{others} select {workload} as well: a workload can have one Sidecar",
    ),
    Code(
        "IST0111",
        _E,
        "MultipleSidecarsWithoutWorkloadSelectors",
        "{others} have no workloadSelector either: a namespace can have one such Sidecar",
    ),
    Code(
        "IST0112",
        _E,
        "VirtualServiceDestinationPortSelectorRequired",
        "the host {host} has several ports ({ports}): say which one is meant",
    ),
    Code(
        "IST0116",
        _W,
        "DeploymentAssociatedToMultipleServices",
        "the services {services} send to port {port} of it with different protocols: {protocols}",
    ),
    Code(
        "IST0118",
        _I,
        "PortNameIsNotUnderNamingConvention",
        "the name {name!r} of port {port} tells no protocol: it is taken for plain TCP",
    ),
    Code(
        "IST0123",
        _W,
        "NamespaceMultipleInjectionLabels",
        "has both istio-injection and istio.io/rev: only istio-injection is followed",
    ),
    Code("IST0125", _W, "InvalidAnnotation", "the annotation {name} has the value {value!r}: {wanted}"),
    Code("IST0126", _E, "UnknownMeshNetworksServiceRegistry", "", _REMOTE),
    Code("IST0127", _W, "NoMatchingWorkloadsFound", "no workload has the labels {labels}"),
    Code(
        "IST0128",
        _W,
        "NoServerCertificateVerificationDestinationLevel",
        "TLS mode {mode} without caCertificates: the certificate of {host} is held against the system's "
        "authorities only",
    ),
    Code(
        "IST0129",
        _W,
        "NoServerCertificateVerificationPortLevel",
        "TLS mode {mode} without caCertificates: the certificate of {host} at port {port} is held against the "
        "system's authorities only",
    ),
    Code("IST0130", _W, "VirtualServiceUnreachableRule", "{text}"),
    Code("IST0131", _I, "VirtualServiceIneffectiveMatch", "{text}"),
    Code("IST0132", _W, "VirtualServiceHostNotFoundInGateway", "{gateway} serves none of the hosts {hosts}"),
    Code("IST0133", _W, "SchemaWarning", "{text}"),
    Code("IST0134", _W, "ServiceEntryAddressesRequired", "{text}"),
    Code("IST0135", _I, "DeprecatedAnnotation", "the annotation {name} is deprecated{instead}"),
    Code("IST0136", _I, "AlphaAnnotation", "the annotation {name} is alpha: it may change or go"),
    Code(
        "IST0137",
        _W,
        "DeploymentConflictingPorts",
        "the services {services} send to its port {target} from different ports: {ports}",
    ),
    Code(
        "IST0138",
        _W,
        "GatewayDuplicateCertificate",
        "{others} serve the certificate {credential} as well: a client that reuses an HTTP/2 connection may get 404",
    ),
    Code("IST0139", _E, "InvalidWebhook", "", _SIDECAR),
    Code(
        "IST0140",
        _W,
        "IngressRouteRulesNotAffected",
        "the subsets that {other} sends {host} to do not hold for what comes through {gateway}",
    ),
    Code("IST0141", _E, "InsufficientPermissions", "{text}"),
    Code("IST0142", _E, "UnsupportedKubernetesVersion", "", "about the installation of Istio's own control plane"),
    Code("IST0143", _E, "LocalhostListener", "", "needs to ask proxies inside of pods, which ambient does not have"),
    Code(
        "IST0144",
        _W,
        "InvalidApplicationUID",
        "runs as user 1337, which is that of Istio's proxies: sidecars and waypoints exempt its traffic",
    ),
    Code(
        "IST0145",
        _E,
        "ConflictingGateways",
        "{others} bind port {port} of the same pods for {hosts} as well",
    ),
    Code("IST0146", _W, "ImageAutoWithoutInjectionWarning", "", _SIDECAR),
    Code("IST0147", _E, "ImageAutoWithoutInjectionError", "", _SIDECAR),
    Code("IST0148", _I, "NamespaceInjectionEnabledByDefault", "", _SIDECAR),
    Code(
        "IST0149",
        _E,
        "JwtClaimBasedRoutingWithoutRequestAuthN",
        "matches the claim {claim}, but no RequestAuthentication holds at {gateway}: it never matches",
    ),
    Code(
        "IST0150",
        _W,
        "ExternalNameServiceTypeInvalidPortName",
        "the name {name!r} of port {port} is not that of an HTTP or TLS protocol: an ExternalName service has no "
        "address that plain TCP could be told apart by",
    ),
    Code("IST0151", _W, "EnvoyFilterUsesRelativeOperation", "{text}"),
    Code(
        "IST0152",
        _E,
        "EnvoyFilterUsesReplaceOperationIncorrectly",
        "REPLACE works for filters only: for applyTo {target} it does nothing",
    ),
    Code(
        "IST0153",
        _E,
        "EnvoyFilterUsesAddOperationIncorrectly",
        "ADD does nothing when applyTo is {target}",
    ),
    Code(
        "IST0154",
        _E,
        "EnvoyFilterUsesRemoveOperationIncorrectly",
        "REMOVE does nothing when applyTo is {target}",
    ),
    Code(
        "IST0155",
        _W,
        "EnvoyFilterUsesRelativeOperationWithProxyVersion",
        "{operation} is relative to another filter, and proxyVersion limits it to some proxies: without priority the "
        "order may differ between them",
    ),
    Code(
        "IST0156",
        _E,
        "UnsupportedGatewayAPIVersion",
        "serves {served} only; this mesh reads {wanted}: install newer Gateway API definitions",
    ),
    Code("IST0157", _W, "InvalidTelemetryProvider", "{text}"),
    Code("IST0158", _W, "PodsIstioProxyImageMismatchInNamespace", "", _SIDECAR),
    Code(
        "IST0159",
        _E,
        "ConflictingTelemetryWorkloadSelectors",
        "{others} select {workload} as well: only the oldest holds",
    ),
    Code(
        "IST0160",
        _E,
        "MultipleTelemetriesWithoutWorkloadSelectors",
        "{others} hold for the whole namespace as well: only the oldest holds",
    ),
    Code("IST0161", _E, "InvalidGatewayCredential", "the Secret {name!r} cannot be served: {fault}"),
    Code(
        "IST0162",
        _W,
        "GatewayPortNotDefinedOnService",
        "port {port} is no port of a Service in front of the pods with {labels}",
    ),
    Code("IST0163", _W, "InvalidExternalControlPlaneConfig", "", _REMOTE),
    Code("IST0164", _I, "ExternalControlPlaneAddressIsNotAHostname", "", _REMOTE),
    Code(
        "IST0165",
        _W,
        "ReferencedInternalGateway",
        "{name!r} is made from a Gateway of the Gateway API: routes of Istio's own API do not attach to it",
    ),
    Code(
        "IST0166",
        _W,
        "IneffectiveSelector",
        "selects pods of the Gateway {gateway}: use targetRefs for it",
    ),
    Code("IST0167", _W, "IneffectivePolicy", "{text}"),
    Code("IST0168", _W, "UnknownUpgradeCompatibility", "", _UPGRADE),
    Code("IST0169", _W, "UpdateIncompatibility", "", _UPGRADE),
    Code("IST0170", _W, "MultiClusterInconsistentService", "", _REMOTE),
    Code("IST0171", _W, "NegativeConditionStatus", "its condition {type} is {status}: {reason}"),
    Code("IST0172", _W, "GatewayAPIVersionSoonUnsupported", "", "no version that is read is about to be dropped"),
    Code(
        "IST0173", _E, "DestinationRuleSubsetNotSelectPods", "the subset {name!r} ({labels}) selects no pod of {host}"
    ),
    Code("IST0174", _W, "UnknownDestinationRuleHost", "no service or ServiceEntry has the host {host!r}"),
    Code("IST0175", _W, "UnrestrictedJWKSFetch", "", "depends on the environment of istiod, which is not in objects"),
    Code("IST0176", _W, "GatewayAPIVersionBelowMinimum", "", "IST0156 says which versions of a kind are not readable"),
    Code(
        "IST0177",
        _W,
        "ConflictingServiceEntryPorts",
        "port {port} of {host} is {protocol} here and {theirs} in {other}",
    ),
    Code("AMB0001", _I, "FieldNotUsed", "recognised, but not used by this mesh: {fields}"),
    Code("AMB0002", _I, "KindNotUsed", "objects of the kind {kind} are recognised, but not used by this mesh"),
    Code("AMB0003", _W, "WaypointNotUsable", "{text}"),
    Code("AMB0004", _W, "InvalidLabel", "the label {name} has the value {value!r}: {wanted}"),
    Code(
        "AMB0005",
        _W,
        "RouteWithoutWaypoint",
        "no waypoint stands in front of {host}, so nothing follows these routes: ztunnel reads no HTTP",
    ),
)

_FREE: Final = "(what is found wrong, in words of its own)"

CODES: Final = {code.id: code for code in _TABLE}


def listing() -> str:
    """The table as `ambient analyze --list-codes` prints it."""
    lines = []
    for code in _TABLE:
        text = _FREE if code.text == "{text}" else code.text
        meaning = f"not given: {code.absent}" if code.absent else text
        lines.append(f"{code.id}  {code.level.title:<7}  {code.name}\n    {meaning}\n")
    return "".join(lines)
