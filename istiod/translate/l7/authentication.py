"""RequestAuthentication to JWT rules."""

from __future__ import annotations

from collections.abc import Iterable

from istiod.objects import RequestAuthentication
from istiod.objects.request_authentication import JwtRule
from istiod.translate.l7.units import milliseconds
from meshcore import l7

DEFAULT_HEADERS = (("authorization", "Bearer "),)
DEFAULT_PARAMS = ("access_token",)
_ALWAYS_LISTS = ("scope", "permission")
_TIMEOUT_MS = 5_000


def jwt_rules(policies: Iterable[RequestAuthentication]) -> tuple[l7.JwtRule, ...]:
    """The rules of all policies, in order; the same rule twice counts once."""
    return tuple(dict.fromkeys(jwt_rule(rule) for policy in policies for rule in policy.spec.jwt_rules))


def jwt_rule(rule: JwtRule) -> l7.JwtRule:
    """A rule that names no place for the token means the usual two. Without keys they are found through the issuer
    (OpenID discovery), which both fields being empty says.
    """
    nowhere = not (rule.from_headers or rule.from_params or rule.from_cookies)
    return l7.JwtRule(
        issuer=rule.issuer,
        audiences=rule.audiences,
        keys=rule.jwks,
        keys_url="" if rule.jwks else rule.jwks_uri,
        from_headers=DEFAULT_HEADERS if nowhere else tuple((one.name.lower(), one.prefix) for one in rule.from_headers),
        from_params=DEFAULT_PARAMS if nowhere else rule.from_params,
        from_cookies=rule.from_cookies,
        payload_header=rule.output_payload_to_header.lower(),
        claim_headers=tuple((one.header.lower(), one.claim) for one in rule.output_claim_to_headers),
        forward_token=rule.forward_original_token,
        timeout_ms=milliseconds(rule.timeout) or _TIMEOUT_MS,
        space_delimited=tuple(dict.fromkeys((*_ALWAYS_LISTS, *rule.space_delimited_claims))),
    )
