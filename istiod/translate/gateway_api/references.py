"""References from one object to another: whether they may be made, and whether what they name can be used."""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from istiod.objects import ConfigMap, Secret
from istiod.objects.gateway_api import ObjectRef
from istiod.resources import CORE, GATEWAY_API
from istiod.translate.gateway_api.indexes import GRANTS_BY_NAMESPACE
from istiod.translate.graph import View
from istiod.translate.statuses import Verdict

CA_KEYS: Final = ("ca.crt", "cacert")
_KEY_PAIRS: Final = (("tls.crt", "tls.key"), ("cert", "key"))
RESOLVED: Final = Verdict(ok=True, reason="ResolvedRefs", message="every reference is resolved")
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What cryptography raises for PEM of others; TypeError is that of an encrypted key."""
_FORBIDDEN: Final = "RefNotPermitted"


class Referrer(NamedTuple):
    """Who refers; its group is that of the Gateway API."""

    kind: str
    namespace: str


class Certificates(NamedTuple):
    """What references to certificates came to: `namespace/name` of the usable ones, and the first fault."""

    secrets: tuple[str, ...]
    config_maps: tuple[str, ...]
    verdict: Verdict


def permitted(view: View, referrer: Referrer, group: str, kind: str, namespace: str, name: str) -> bool:
    """Within a namespace always, otherwise if a ReferenceGrant in the namespace of the target says so."""
    if referrer.namespace == namespace:
        return True
    for grant in view.find(GRANTS_BY_NAMESPACE, (namespace,)):
        spec = grant.spec
        if any((one.group, one.kind, one.namespace) == (GATEWAY_API, *referrer) for one in spec.from_) and any(
            (one.group, one.kind) == (group, kind) and one.name in ("", name) for one in spec.to
        ):
            return True
    return False


def key_pair_fault(view: View, namespace: str, name: str) -> str:
    """Why a Secret cannot serve as certificate and key; empty if it can."""
    secret = view.get(Secret, namespace, name)
    if secret is None:
        return f"the secret {namespace}/{name} does not exist"
    for certificate_key, private_key in _KEY_PAIRS:
        chain, key = secret.value(certificate_key), secret.value(private_key)
        if chain and key:
            fault = _pair_fault(chain, key)
            return f"the secret {namespace}/{name} cannot be used: {fault}" if fault else ""
    return f"the secret {namespace}/{name} lacks tls.crt or tls.key"


def authorities_fault(view: View, kind: str, namespace: str, name: str) -> str:
    """Why a ConfigMap or Secret cannot serve as a bundle of certificate authorities; empty if it can."""
    title = f"the {'secret' if kind == 'Secret' else 'config map'} {namespace}/{name}"
    if kind == "Secret":
        secret = view.get(Secret, namespace, name)
        found = secret is not None
        bundle = next((text for key in CA_KEYS if (text := secret.value(key))), b"") if secret is not None else b""
    else:
        config_map = view.get(ConfigMap, namespace, name)
        found = config_map is not None
        bundle = config_map.data.get(CA_KEYS[0], "").encode() if config_map is not None else b""
    if not found:
        return f"{title} does not exist"
    if not bundle:
        return f"{title} has nothing under {CA_KEYS[0]}"
    try:
        x509.load_pem_x509_certificates(bundle)
    except _UNREADABLE:
        return f"{title} holds no PEM certificate under {CA_KEYS[0]}"
    return ""


def key_pairs(view: View, referrer: Referrer, refs: tuple[ObjectRef, ...], reason: str) -> Certificates:
    """Resolve references to Secrets with certificate and key; `reason` is that of one that is no good."""
    usable: list[str] = []
    fault: Verdict | None = None
    for ref in refs:
        namespace = ref.namespace or referrer.namespace
        if (ref.group, ref.kind) != (CORE, "Secret"):
            verdict = Verdict(ok=False, reason=reason, message=f"{_kind(ref)} is no Secret")
        elif not permitted(view, referrer, CORE, "Secret", namespace, ref.name):
            verdict = forbidden(referrer, "Secret", namespace, ref.name)
        elif text := view.ask(key_pair_fault, namespace, ref.name):
            verdict = Verdict(ok=False, reason=reason, message=text)
        else:
            usable.append(f"{namespace}/{ref.name}")
            continue
        fault = fault or verdict
    return Certificates(tuple(usable), (), fault or RESOLVED)


def authorities(view: View, referrer: Referrer, refs: tuple[ObjectRef, ...], kind_reason: str) -> Certificates:
    """Resolve references to ConfigMaps and Secrets with certificate authorities."""
    secrets: list[str] = []
    config_maps: list[str] = []
    fault: Verdict | None = None
    for ref in refs:
        namespace = ref.namespace or referrer.namespace
        if ref.group != CORE or ref.kind not in ("ConfigMap", "Secret"):
            text = f"{_kind(ref)} is neither ConfigMap nor Secret"
            verdict = Verdict(ok=False, reason=kind_reason, message=text)
        elif not permitted(view, referrer, CORE, ref.kind, namespace, ref.name):
            verdict = forbidden(referrer, ref.kind, namespace, ref.name)
        elif text := view.ask(authorities_fault, ref.kind, namespace, ref.name):
            verdict = Verdict(ok=False, reason="InvalidCACertificateRef", message=text)
        else:
            (secrets if ref.kind == "Secret" else config_maps).append(f"{namespace}/{ref.name}")
            continue
        fault = fault or verdict
    return Certificates(tuple(secrets), tuple(config_maps), fault or RESOLVED)


def forbidden(referrer: Referrer, kind: str, namespace: str, name: str) -> Verdict:
    text = (
        f"{kind} {namespace}/{name} is in another namespace, and no ReferenceGrant there "
        f"lets a {referrer.kind} of {referrer.namespace} refer to it"
    )
    return Verdict(ok=False, reason=_FORBIDDEN, message=text)


def _kind(ref: ObjectRef) -> str:
    return f"{ref.group}/{ref.kind} {ref.name}" if ref.group else f"{ref.kind} {ref.name}"


def _pair_fault(chain: bytes, key: bytes) -> str:
    try:
        public = x509.load_pem_x509_certificates(chain)[0].public_key()
    except _UNREADABLE:
        return "its certificate is no PEM, or of an unknown kind"
    try:
        own = serialization.load_pem_private_key(key, password=None).public_key()
    except _UNREADABLE:
        return "its key is no PEM, of an unknown kind, or encrypted"
    if own != public:
        return "its key does not belong to its certificate"
    return ""
