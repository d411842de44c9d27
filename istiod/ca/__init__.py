"""The certificate authority: where its key comes from, what it signs, and how trust in it is handed out.

Order, later may use earlier: `pem` < `crl` < `material` < `authority`, `sources` < `manager`, `distribution`.
"""

from __future__ import annotations

from istiod.ca.authority import Authority, Lifetimes, node_of, node_san
from istiod.ca.manager import CertificateAuthority, self_signed
from istiod.ca.material import BACKDATE, Material, SelfSigned
from istiod.ca.sources import (
    CACERTS_NAME,
    SELF_SIGNED_NAME,
    PluggedIn,
    Secret,
    SecretConflict,
    SecretSource,
    SecretStore,
    Source,
    StateDirectory,
)

__all__ = [
    "BACKDATE",
    "CACERTS_NAME",
    "SELF_SIGNED_NAME",
    "Authority",
    "CertificateAuthority",
    "Lifetimes",
    "Material",
    "PluggedIn",
    "Secret",
    "SecretConflict",
    "SecretSource",
    "SecretStore",
    "SelfSigned",
    "Source",
    "StateDirectory",
    "node_of",
    "node_san",
    "self_signed",
]
