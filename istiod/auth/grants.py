"""Which identity a caller may be given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from istiod.auth.callers import REASON_CHARS_MAX, Authenticator, Caller
from istiod.auth.pods import PodIndex
from meshcore.errors import AuthorizationError, IdentityError, Unavailable
from meshcore.identity import Identity, parse

log = logging.getLogger("istiod.auth")

_OPAQUE: Final = "the caller may not have this identity"


class Authorizer:
    """Decides which identity a caller may be given. Pods by cluster id; the empty id is istiod's own cluster."""

    def __init__(self, pods: Mapping[str, PodIndex], authenticator: Authenticator, trust_domain: str) -> None:
        self._pods = pods
        self._authenticator = authenticator
        self._trust_domain = trust_domain

    def grant(self, caller: Caller, wanted: str) -> Identity:
        """The caller's own identity, or for a node proxy that of a pod on its node; else AuthorizationError.

        A node proxy whose node is not known yet gets nothing, not even its own identity, but Unavailable: a certificate
        that is bound to no node would be of no use to it for as long as it lasts.
        """
        identity = caller.identity
        if wanted:
            try:
                identity = parse(wanted)
            except IdentityError as exc:
                raise _denied(caller, wanted, str(exc)) from None
        if identity == caller.identity:
            if caller.account in self._authenticator.node_accounts and not caller.node:
                raise Unavailable(f"the node of {caller.account} is not known: its pod has not been seen, or is gone")
            return identity
        if identity.trust_domain != self._trust_domain:
            raise _denied(caller, wanted, "another trust domain")
        if not self._authenticator.is_node(caller):
            raise _denied(caller, wanted, "the caller is no node proxy, or not bound to a node by a pod that is known")
        pods = self._pods.get(caller.cluster)
        if pods is None or not pods.running(caller.node, identity.namespace, identity.service_account):
            raise _denied(caller, wanted, f"no running pod on {caller.node} uses this service account")
        return identity


def _denied(caller: Caller, wanted: str, reason: str) -> AuthorizationError:
    log.warning(
        "%s on node %r asked for %r: refused: %s",
        caller.identity,
        caller.node,
        wanted[:REASON_CHARS_MAX],
        reason[:REASON_CHARS_MAX],
    )
    return AuthorizationError(_OPAQUE)
