"""BackendTLSPolicy: the TLS that proxies begin to a service, and which policy has the say."""

from __future__ import annotations

from typing import Final

import msgspec

from istiod.objects import BackendTLSPolicy
from istiod.objects.gateway_api import PolicyTarget
from istiod.resources import CORE, NETWORKING
from istiod.translate.gateway_api.indexes import TLS_POLICIES_BY_TARGET
from istiod.translate.gateway_api.ports import service_ports
from istiod.translate.gateway_api.references import RESOLVED, Referrer, authorities
from istiod.translate.graph import View
from istiod.translate.l7.catalog import service_info
from istiod.translate.statuses import Verdict
from meshcore import l7

SYSTEM: Final = "System"
TARGETS: Final = {"Service": CORE, "ServiceEntry": NETWORKING}
"""What a BackendTLSPolicy may be attached to, and the group of each."""


class PolicyVerdict(msgspec.Struct, frozen=True):
    """What a BackendTLSPolicy by itself comes to; `tls` trusts nobody if it names no usable authority."""

    tls: l7.UpstreamTls
    accepted: Verdict
    resolved: Verdict = RESOLVED


def backend_tls(view: View, namespace: str, hostname: str, port: int) -> l7.UpstreamTls | None:
    """How TLS to one port of a service begins; None if no BackendTLSPolicy asks for it.

    A policy without usable authority still asks for TLS, which then fails: nothing is sent in plaintext instead.
    """
    info = view.ask(service_info, namespace, hostname)
    ports = view.ask(service_ports, namespace, hostname)
    if info is None or not ports:
        return None
    section = next((one.name for one in ports if one.number == port), "")
    for wanted in dict.fromkeys((section, "")):
        owner = view.ask(policy_in_force, info.kind, namespace, info.name, wanted)
        if owner:
            return view.ask(policy_verdict, namespace, owner).tls
    return None


def policy_in_force(view: View, kind: str, namespace: str, name: str, section: str) -> str:
    """The name of the policy that decides for a target and a port's name (empty: the whole); the oldest wins."""
    found = [
        (policy.metadata.creation_timestamp, policy.metadata.name)
        for policy in view.find(TLS_POLICIES_BY_TARGET, (kind, namespace, name))
        if any(is_target(ref, kind, name) and ref.section_name == section for ref in policy.spec.target_refs)
    ]
    return min(found)[1] if found else ""


def is_target(ref: PolicyTarget, kind: str, name: str) -> bool:
    return (ref.kind, ref.name) == (kind, name) and TARGETS.get(kind) == ref.group


def policy_verdict(view: View, namespace: str, name: str) -> PolicyVerdict:
    """The TLS that a policy asks for, whoever it is attached to."""
    policy = view.get(BackendTLSPolicy, namespace, name)
    if policy is None:
        return PolicyVerdict(l7.UpstreamTls(trust=l7.Trust()), _invalid("Invalid", "the policy does not exist"))
    wanted = policy.spec.validation
    names = tuple(one.uri if one.type == "URI" else one.hostname for one in wanted.subject_alt_names)
    tls = l7.UpstreamTls(trust=l7.Trust(system=True), names=names, sni=wanted.hostname)
    accepted = Verdict(ok=True, reason="Accepted", message="accepted")
    if wanted.well_known_ca_certificates:
        if wanted.well_known_ca_certificates != SYSTEM:
            text = f"wellKnownCACertificates {wanted.well_known_ca_certificates!r} is not known; {SYSTEM} is"
            fault = _invalid("Invalid", text)
            return PolicyVerdict(msgspec.structs.replace(tls, trust=l7.Trust()), fault)
        return PolicyVerdict(tls, accepted)
    found = authorities(view, Referrer("BackendTLSPolicy", namespace), wanted.ca_certificate_refs, "InvalidKind")
    trust = l7.Trust(found.secrets, found.config_maps)
    tls = msgspec.structs.replace(tls, trust=trust)
    if trust == l7.Trust():
        why = found.verdict.message if not found.verdict.ok else "the policy names none"
        accepted = _invalid("NoValidCACertificate", f"no certificate authority can be used: {why}")
    return PolicyVerdict(tls, accepted, found.verdict)


def _invalid(reason: str, message: str) -> Verdict:
    return Verdict(ok=False, reason=reason, message=message)
