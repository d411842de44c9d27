"""SPIFFE identities: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`."""

from __future__ import annotations

from typing import NamedTuple

from meshcore.errors import IdentityError

SCHEME = "spiffe://"
DEFAULT_TRUST_DOMAIN = "cluster.local"


class Identity(NamedTuple):
    """A workload identity. `str()` gives the URI that stands in the certificate's SAN."""

    trust_domain: str
    namespace: str
    service_account: str

    @property
    def principal(self) -> str:
        """The form policies compare with: the URI without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return SCHEME + self.principal


def parse(uri: str) -> Identity:
    """Parse a SPIFFE URI; raises IdentityError unless it has exactly the mesh's five parts."""
    if not uri.startswith(SCHEME):
        raise IdentityError(f"{uri!r} is not a SPIFFE URI: it does not start with {SCHEME}")
    parts = uri[len(SCHEME) :].split("/")
    if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa" or not all(parts):
        raise IdentityError(f"{uri!r} is not of the form {SCHEME}TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")
    return Identity(parts[0], parts[2], parts[4])
