"""Who calls, and which identity the caller may be given.

Order, later may use earlier: `callers`, `pods` < `tokens`, `kubernetes`, `grants`.
"""

from __future__ import annotations

from istiod.auth.callers import Authenticator, Caller, TokenMethod
from istiod.auth.grants import Authorizer
from istiod.auth.kubernetes import KubernetesTokens, ReviewResult, TokenReviewer
from istiod.auth.pods import Place, PodIndex
from istiod.auth.tokens import BootstrapTokens, TokenKey

__all__ = [
    "Authenticator",
    "Authorizer",
    "BootstrapTokens",
    "Caller",
    "KubernetesTokens",
    "Place",
    "PodIndex",
    "ReviewResult",
    "TokenKey",
    "TokenMethod",
    "TokenReviewer",
]
