"""Outbound: where a connection captured on 15001 goes.

The order of the two lookups differs on purpose, as upstream's does: to tell whether a *service* is
addressed, a workload of that address wins; to pick who answers, the service wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from meshcore import identity
from meshcore.errors import IdentityError
from meshcore.model import GatewayAddress, LbMode, Service, TunnelProtocol, Workload
from meshcore.records import Action, AuthorityKind, Endpoint, Mask, Protocol, Upcall, Verdict, VerdictFlag, ip_text
from ztunnel import baggage, labels
from ztunnel.balance import ENDPOINTS_MAX, Choice, Pick, Want, pick_service, pick_upstream, pick_workload, scale, spread
from ztunnel.decision import (
    HBONE_LISTENER_PORT,
    RECURSIVE_CALL,
    LocalPod,
    Refused,
    Settings,
    View,
    address_text,
    is_loopback,
)
from ztunnel.ids import IdSource
from ztunnel.labels import NOBODY, LabelSet, Party, Target


class Outbound:
    """One decision in the making. `mask` grows with what is read of the upcall."""

    def __init__(self, upcall: Upcall, pod: LocalPod, view: View, ids: IdSource, settings: Settings) -> None:
        self._upcall = upcall
        self._pod = pod
        self._view = view
        self._ids = ids
        self._settings = settings
        self.mask = Mask.DST_IP

    def run(self) -> Verdict | None:
        """The verdict; None if the pod's own record is missing. Raises Refused."""
        ip = self._upcall.dst_ip
        if is_loopback(ip):
            self._refuse_own_ports()
        source = self._view.local()
        if source is None:
            return None
        if ip in source.addresses:
            self._refuse_own_ports()  # the pod itself, by its address: the same loop

        service = self._addressed_service(source)
        if service is not None:
            waypoints = self._service_waypoints(source, service)
            if waypoints:
                return self._tunnel_to_waypoint(source, service, waypoints)

        pick = pick_upstream(self._view, source, source.network, self._want())
        if pick is not None and not pick.passthrough:
            self.mask |= Mask.DST_PORT
        if pick is None or not pick.choices:
            return self._without_upstream(source, service, pick)
        if service is None:
            return self._balance(source, pick.service, self._via_workload_waypoints(source, pick))
        return self._balance(source, service, [(choice, False) for choice in pick.choices])

    def _refuse_own_ports(self) -> None:
        self.mask |= Mask.DST_PORT
        if self._upcall.dst_port in self._settings.illegal_ports:
            raise Refused(RECURSIVE_CALL)

    def _want(self) -> Want:
        return Want(self._upcall.dst_ip, self._upcall.dst_port)

    def _addressed_service(self, source: Workload) -> Service | None:
        network, ip = self._view.network, self._upcall.dst_ip
        if self._view.workload_at(network, ip) is not None:
            return None
        return self._view.service_at(network, ip, source.namespace)

    def _without_upstream(self, source: Workload, service: Service | None, pick: Pick | None) -> Verdict:
        if pick is not None and pick.remote is not None:
            raise Refused(
                f"no valid routing destination for workload: {pick.remote.name} is on network "
                f"{pick.remote.network!r}, and connections across networks are not supported"
            )
        if pick is not None and pick.unresolved is not None and service is not None:
            raise Refused(f"no ip addresses were resolved for workload: {pick.unresolved.name}")
        if service is not None and not _is_passthrough(service):
            self.mask |= Mask.DST_PORT
            raise Refused(f"no healthy upstream: {address_text(self._upcall.dst_ip, self._upcall.dst_port)}")
        label = LabelSet("source", Party.of(source, ""), NOBODY, Target(), mutual_tls=False)
        return Verdict(Action.PASSTHROUGH, self.mask, self._ids.labels.intern(label))

    # Waypoints

    def _service_waypoints(self, source: Workload, service: Service) -> tuple[Choice, ...]:
        """The waypoint workloads to choose from; empty if the service has no waypoint.

        A weighted set of which one member cannot be resolved uses the others: they are waypoints of this service too.
        If none can, the connection is refused; a waypoint is never bypassed.
        """
        weighted = [w for w in service.weighted_waypoints if w.weight]
        if not weighted:
            return () if service.waypoint is None else self._resolve_waypoint(source, service.waypoint)
        groups, failure = [], None
        for waypoint in weighted:
            try:
                groups.append((waypoint.weight, self._resolve_waypoint(source, waypoint.destination)))
            except Refused as error:
                failure = error
        if failure is not None and not groups:
            raise failure
        return spread(groups)

    def _resolve_waypoint(self, source: Workload, reference: GatewayAddress) -> tuple[Choice, ...]:
        pick = self._look_up_waypoint(source, reference)
        if pick is not None and pick.choices:
            return pick.choices
        if pick is not None and pick.remote is not None:
            raise Refused(
                f"no valid routing destination for workload: waypoint {_reference_text(reference)} is on network "
                f"{pick.remote.network!r}, and connections across networks are not supported"
            )
        if pick is not None and pick.unresolved is not None:
            raise Refused(f"no ip addresses were resolved for workload: {pick.unresolved.name}")
        raise Refused(f"unknown waypoint: {_reference_text(reference)}")

    def _look_up_waypoint(self, source: Workload, reference: GatewayAddress) -> Pick | None:
        port = reference.hbone_mtls_port
        if reference.address is not None:
            target = reference.address
            return pick_upstream(self._view, source, target.network, Want(target.address, port, waypoint=True))
        if reference.hostname is None:
            return None
        want = Want(self._upcall.dst_ip, port, waypoint=True)
        name = reference.hostname
        service = self._view.service(f"{name.namespace}/{name.hostname}")
        if service is not None:
            return pick_service(self._view, source, service, want)
        workload = self._view.workload_by_host(name.namespace, name.hostname)
        return None if workload is None else pick_workload(source, workload, want)

    def _via_workload_waypoints(self, source: Workload, pick: Pick) -> Iterator[tuple[Choice, bool]]:
        """Replace every choice that has a waypoint by that waypoint's workloads, unless the source is one of them."""
        for choice in pick.choices:
            reference = choice.workload.waypoint
            if reference is None or self._is_waypoint(source, reference):
                yield choice, False
            else:
                found = self._resolve_waypoint(source, reference)
                for waypoint in spread([(1, found)]):
                    yield waypoint._replace(weight=waypoint.weight * choice.weight), True

    def _is_waypoint(self, source: Workload, reference: GatewayAddress) -> bool:
        """Same identity as a workload behind the reference, and the client's address is one of that workload's."""
        for workload in self._behind(source, reference):
            if labels.principal(workload) == labels.principal(source):
                self.mask |= Mask.SRC_IP
                if self._upcall.src_ip in workload.addresses:
                    return True
        return False

    def _behind(self, source: Workload, reference: GatewayAddress) -> Iterator[Workload]:
        service, workload = None, None
        if reference.address is not None:
            target = reference.address
            service = self._view.service_at(target.network, target.address, source.namespace)
            workload = None if service else self._view.workload_at(target.network, target.address)
        elif reference.hostname is not None:
            name = reference.hostname
            service = self._view.service(f"{name.namespace}/{name.hostname}")
            workload = None if service else self._view.workload_by_host(name.namespace, name.hostname)
        if service is not None:
            yield from self._view.endpoints(service)
        if workload is not None:
            yield workload

    # Verdicts

    def _tunnel_to_waypoint(self, source: Workload, service: Service, waypoints: tuple[Choice, ...]) -> Verdict:
        self.mask |= Mask.DST_PORT
        return self._balance(source, service, [(choice, True) for choice in waypoints])

    def _balance(self, source: Workload, service: Service | None, choices: Iterable[tuple[Choice, bool]]) -> Verdict:
        """`choices` are pairs: where to, and whether that is a waypoint."""
        hops = list(islice(choices, ENDPOINTS_MAX))
        weights = scale([choice.weight for choice, _ in hops])
        render = _Endpoints(self._ids, source, service, self._upcall.dst_port)
        endpoints = tuple(
            render.endpoint(choice, weight, waypoint=waypoint)
            for (choice, waypoint), weight in zip(hops, weights, strict=True)
        )
        return Verdict(
            Action.BALANCE,
            self.mask,
            endpoints[0].label_id,
            cert_id=self._pod.cert_id,
            flags=VerdictFlag.SERVICE if service is not None else VerdictFlag(0),
            endpoints=endpoints,
            baggage=baggage.render(source),
            host=service.hostname.encode() if service is not None else b"",
        )


class _Endpoints:
    """Turns the choices of one verdict into its endpoints; what is the same for all of them is made once."""

    def __init__(self, ids: IdSource, source: Workload, service: Service | None, dst_port: int) -> None:
        self._ids = ids
        self._plain_source = Party.of(source, "")
        self._source = Party.of(source, labels.principal(source))
        self._target = Target.of(service)
        self._dst_port = dst_port

    def endpoint(self, choice: Choice, weight: int, *, waypoint: bool) -> Endpoint:
        workload, ip, port = choice.workload, choice.ip, choice.port
        hbone = waypoint or workload.tunnel_protocol is TunnelProtocol.HBONE
        principal = labels.principal(workload)
        source = self._source if hbone else self._plain_source
        label = LabelSet("source", source, Party.of(workload, principal), self._target, mutual_tls=hbone)
        label_id = self._ids.labels.intern(label)
        if not hbone:
            return Endpoint(ip, port, port, Protocol.TCP, AuthorityKind.ENDPOINT, weight, 0, label_id)
        sans_id = self._ids.sans.intern(_expected(choice.service, principal))
        if waypoint:
            target, authority = self._dst_port, AuthorityKind.ORIGINAL
        else:
            port, target, authority = HBONE_LISTENER_PORT, port, AuthorityKind.ENDPOINT
        return Endpoint(ip, port, target, Protocol.HBONE, authority, weight, sans_id, label_id)


def _is_passthrough(service: Service) -> bool:
    return service.load_balancing is not None and service.load_balancing.mode is LbMode.PASSTHROUGH


def _expected(service: Service | None, principal: str) -> tuple[str, ...]:
    """Identities the peer may present: its service's alternative names that are SPIFFE identities, and its own."""
    if service is None or not service.subject_alt_names:
        return (principal,)
    names = []
    for name in service.subject_alt_names:
        try:
            names.append(str(identity.parse(name)))
        except IdentityError:
            continue  # a name that no peer can present; the control plane may list others for other proxies
    return tuple(dict.fromkeys([*names, principal]))


def _reference_text(reference: GatewayAddress) -> str:
    if reference.hostname is not None:
        return f"{reference.hostname.namespace}/{reference.hostname.hostname}"
    if reference.address is not None:
        return f"{reference.address.network}/{ip_text(reference.address.address)}"
    return ""
