"""RequestAuthentication of security.istio.io."""

from __future__ import annotations

from istiod.objects.base import ConditionedStatus, Meta, Object, Selector, TargetRef


class JwtHeader(Object, frozen=True):
    name: str = ""
    prefix: str = ""


class ClaimToHeader(Object, frozen=True):
    header: str = ""
    claim: str = ""


class JwtRule(Object, frozen=True):
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[JwtHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    forward_original_token: bool = False
    timeout: str = ""
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthenticationSpec(Object, frozen=True):
    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()


class RequestAuthentication(Object, frozen=True):
    metadata: Meta
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: ConditionedStatus = ConditionedStatus()
