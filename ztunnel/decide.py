"""The one question a worker asks: what to do with this flow. Pure: the same cluster gives the same answer."""

from __future__ import annotations

from typing import Final

from meshcore.records import Action, Direction, Mask, Upcall, Verdict
from ztunnel.decision import HTTP_UNAVAILABLE, NO_LOCAL_WORKLOAD, Decision, LocalPod, Pending, Refused, Settings, View
from ztunnel.ids import IdSource
from ztunnel.inbound import Inbound
from ztunnel.outbound import Outbound
from ztunnel.state import ClusterState

_DEFAULTS: Final = Settings()
_ALL: Final = Mask(sum(Mask))
_REASON_MAX: Final = 1024  # bytes; names in a reason come from the cluster's objects


def decide(
    upcall: Upcall, pod: LocalPod, state: ClusterState, ids: IdSource, settings: Settings = _DEFAULTS
) -> Decision | Pending:
    """Answer an upcall of `pod`. Never raises for what a cluster or a peer may say.

    The numbers in the verdict come from `ids` and are not retained: whoever keeps the verdict does that.
    """
    view = View(state, pod)
    if upcall.direction is Direction.OUTBOUND:
        outbound = Outbound(upcall, pod, view, ids, settings)
        try:
            verdict = outbound.run()
        except Refused as error:
            verdict = _refusal(error, upcall, outbound.mask)
        return Pending(frozenset(view.deps)) if verdict is None else Decision(verdict, frozenset(view.deps))
    inbound = Inbound(upcall, pod, view, ids, settings)
    try:
        verdict = inbound.run()
    except Refused as error:
        verdict = _refusal(error, upcall, inbound.mask)
    if verdict is None:
        return Pending(frozenset(view.deps))
    return Decision(verdict, frozenset(view.deps), inbound.notes)


def timed_out(upcall: Upcall) -> Verdict:
    """The answer when the pod's own record did not come in time. For this upcall alone: not to be cached."""
    return _refusal(Refused(NO_LOCAL_WORKLOAD, status=HTTP_UNAVAILABLE), upcall, _ALL)._replace(ttl_ms=1)


def _refusal(error: Refused, upcall: Upcall, mask: Mask) -> Verdict:
    """Early denials have label 0 and flag NONE: a line in the log, no metrics."""
    return Verdict(
        Action.DENY,
        mask,
        0,
        status=error.status if upcall.direction is Direction.INBOUND_HBONE else 0,
        flag=error.flag,
        reason=str(error).encode()[:_REASON_MAX],
    )
