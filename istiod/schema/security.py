"""AuthorizationPolicy, PeerAuthentication and RequestAuthentication. Source: Istio API security.v1beta1."""

from __future__ import annotations

from typing import Final

from istiod.schema.fields import (
    AGE,
    DURATION,
    FLAG,
    TEXT,
    TEXTS,
    Column,
    Field,
    Table,
    enum,
    list_of,
    map_of,
    names,
    record,
    text,
)
from istiod.schema.shared import MATCH_LABELS, STATUS, TARGETS


def _both(*fields: str) -> dict[str, Field]:
    """Lists of values, each with its negation: `hosts` and `notHosts`."""
    return {name: TEXTS for field in fields for name in (field, f"not{field[0].upper()}{field[1:]}")}


_SERVICE_ACCOUNTS: Final = list_of(text(at_most=320), at_most=16)
_SOURCE: Final = record(
    {
        **_both("principals", "requestPrincipals", "namespaces", "ipBlocks", "remoteIpBlocks", "trustDomains"),
        "serviceAccounts": _SERVICE_ACCOUNTS,
        "notServiceAccounts": _SERVICE_ACCOUNTS,
    }
)
_RULE: Final = record(
    {
        "from": list_of(record({"source": _SOURCE})),
        "to": list_of(record({"operation": record(_both("hosts", "ports", "methods", "paths"))})),
        "when": list_of(record({"key": TEXT, **_both("values")}, required=("key",))),
    }
)
AUTHORIZATION_POLICY: Final = Table(
    record(
        {
            **TARGETS,
            "rules": list_of(_RULE),
            "action": enum("ALLOW", "DENY", "AUDIT", "CUSTOM"),
            "provider": record({"name": TEXT}),
        }
    ),
    STATUS,
    ("ap",),
    (Column("Action", ".spec.action"), AGE),
)

_MTLS: Final = record({"mode": enum("UNSET", "DISABLE", "PERMISSIVE", "STRICT")})
PEER_AUTHENTICATION: Final = Table(
    record({"selector": MATCH_LABELS, "mtls": _MTLS, "portLevelMtls": map_of(_MTLS)}),
    STATUS,
    ("pa",),
    (Column("Mode", ".spec.mtls.mode"), AGE),
)

_CLAIM: Final = text(at_least=1)
_JWT_RULE: Final = record(
    {
        **names("issuer", "jwksUri", "jwks_uri", "jwks", "outputPayloadToHeader"),
        **dict.fromkeys(("audiences", "fromParams", "fromCookies", "spaceDelimitedClaims"), list_of(_CLAIM)),
        "fromHeaders": list_of(record({"name": _CLAIM, "prefix": TEXT}, required=("name",))),
        "forwardOriginalToken": FLAG,
        "outputClaimToHeaders": list_of(record({"header": _CLAIM, "claim": _CLAIM}, required=("header", "claim"))),
        "timeout": DURATION,
    }
)
REQUEST_AUTHENTICATION: Final = Table(
    record({**TARGETS, "jwtRules": list_of(_JWT_RULE, at_most=4096)}),
    STATUS,
    ("ra",),
)
