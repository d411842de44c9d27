"""Inbound: whether a CONNECT stream of 15008 or a connection captured on 15006 may reach the pod, and where in it."""

from __future__ import annotations

from meshcore import identity
from meshcore.errors import IdentityError
from meshcore.identity import Identity
from meshcore.model import GatewayAddress, Service, TunnelTarget, Workload
from meshcore.records import (
    Action,
    AuthorityKind,
    Direction,
    Endpoint,
    Flag,
    Mask,
    Protocol,
    Upcall,
    UpcallFlag,
    Verdict,
    VerdictFlag,
    ip_text,
)
from ztunnel import baggage, labels
from ztunnel.balance import service_port
from ztunnel.decision import (
    HTTP_BAD_REQUEST,
    HTTP_UNAUTHORIZED,
    HTTP_UNAVAILABLE,
    RECURSIVE_CALL,
    LocalPod,
    Refused,
    Settings,
    View,
    service_name,
)
from ztunnel.ids import IdSource
from ztunnel.labels import NOBODY, LabelSet, Party, Target
from ztunnel.policy import Connection, evaluate

_LOOPBACK_4 = b"\x7f\0\0\1"
_LOOPBACK_6 = b"\0" * 15 + b"\1"


class Inbound:
    """One decision in the making. `mask` grows with what is read of the upcall."""

    def __init__(self, upcall: Upcall, pod: LocalPod, view: View, ids: IdSource, settings: Settings) -> None:
        self._upcall = upcall
        self._pod = pod
        self._view = view
        self._ids = ids
        self._settings = settings
        self._hbone = upcall.direction is Direction.INBOUND_HBONE
        self.mask = Mask(0)
        self.notes: tuple[str, ...] = ()

    def run(self) -> Verdict | None:
        """The verdict; None if the pod's own record is missing. Raises Refused."""
        return self._run_hbone() if self._hbone else self._run_plain()

    def _run_plain(self) -> Verdict | None:
        upcall = self._upcall
        self.mask = Mask.DST_IP | Mask.DST_PORT
        if upcall.dst_port in self._settings.illegal_ports:
            raise Refused(RECURSIVE_CALL)
        local = self._view.local()
        if local is None:
            return None
        label_id = self._label(local, None, upcall.dst_port)
        denial = self._authorize(local, None, upcall.dst_ip, upcall.dst_port, Mask.DST_IP, label_id)
        return denial or self._deliver((self._endpoint(upcall.dst_ip, upcall.dst_port, label_id),), label_id)

    def _run_hbone(self) -> Verdict | None:
        upcall = self._upcall
        self.mask = Mask.HOST | Mask.DST_IP | Mask.LOCAL_IP
        local = self._view.local()
        if local is None:
            return None
        service = self._route(local)
        self.mask |= Mask.DST_PORT
        port = upcall.dst_port
        if service is not None:
            port = service_port(local, service, upcall.dst_port)
            if not port:
                raise Refused(
                    f"no service or workload for hostname: {upcall.host} has no port {upcall.dst_port} at {local.name}",
                    status=HTTP_UNAVAILABLE,
                )
        if port in self._settings.illegal_ports:
            raise Refused(RECURSIVE_CALL, status=HTTP_UNAVAILABLE)
        ip = upcall.local_ip
        targets: tuple[tuple[bytes, int], ...] = ()
        tunnel = local.application_tunnel
        if tunnel is not None:
            port = tunnel.port or port
            if tunnel.protocol is TunnelTarget.PROXY:
                targets = (self._proxy_target(service),)
                if self._settings.localhost_app_tunnel:
                    ip = _LOOPBACK_4 if len(ip) == 4 else _LOOPBACK_6
        peer = self._peer()
        label_id = self._label(local, peer, port)
        denial = self._authorize(local, peer, upcall.local_ip, port, Mask.LOCAL_IP, label_id)
        if denial is not None:
            return denial
        where = self._endpoint(ip, port, label_id)
        proxied = tuple(self._endpoint(*target, label_id, weight=0) for target in targets)
        return self._deliver(
            (where, *proxied),
            label_id,
            header=baggage.render(local) if self._settings.response_baggage else b"",
            spoof=ip == upcall.local_ip,
        )

    # Routing

    def _route(self, local: Workload) -> Service | None:
        """Check the authority; gives the service if it is a hostname, None if it is an address of ours."""
        upcall = self._upcall
        if upcall.host:
            service = self._view.service_by_host(upcall.host, local.namespace)
            if service is None:
                raise Refused(f"no service or workload for hostname: {upcall.host}", status=HTTP_UNAVAILABLE)
            return service
        if upcall.dst_ip != upcall.local_ip and local.application_tunnel is None and not self._is_waypoint_of(local):
            raise Refused(
                f"ip mismatch: {ip_text(upcall.dst_ip)} != {ip_text(upcall.local_ip)}", status=HTTP_BAD_REQUEST
            )
        return None

    def _is_waypoint_of(self, local: Workload) -> bool:
        """Whether what stands at the authority's address names this pod as its waypoint."""
        view, ip = self._view, self._upcall.dst_ip
        target: Workload | Service | None = view.workload_at(view.network, ip)
        if target is None:
            target = view.service_at(view.network, ip, local.namespace)
        return target is not None and target.waypoint is not None and self._is_behind(local, target.waypoint)

    def _is_behind(self, local: Workload, reference: GatewayAddress) -> bool:
        view = self._view
        if reference.hostname is not None:
            name = reference.hostname
            service = view.service(f"{name.namespace}/{name.hostname}")
            workload = None if service else view.workload_by_host(name.namespace, name.hostname)
        elif reference.address is not None:
            target = reference.address
            workload = view.workload_at(target.network, target.address)
            service = None if workload else view.service_at(target.network, target.address, local.namespace)
        else:
            return False
        if service is not None:
            return service_name(service) in local.services
        return workload is not None and self._upcall.local_ip in workload.addresses

    def _proxy_target(self, service: Service | None) -> tuple[bytes, int]:
        """Destination in the PROXY header: the authority, or the VIP of its service (same network, then IPv4)."""
        if service is None:
            return self._upcall.dst_ip, self._upcall.dst_port
        bits = {4: 32, 16: 128}
        vips = [v for v in service.addresses if v.length in (None, bits[len(v.address)])]
        if not vips:
            raise Refused(
                f"no service or workload for hostname: {self._upcall.host} has no address", status=HTTP_UNAVAILABLE
            )
        best = min(vips, key=lambda vip: (vip.network != self._view.network, len(vip.address)))
        return best.address, self._upcall.dst_port

    # Authorization and telemetry

    def _peer(self) -> Identity:
        self.mask |= Mask.PEER
        try:
            return identity.parse(self._upcall.peer)
        except IdentityError as error:
            raise Refused(f"identity error: {error}", status=HTTP_UNAUTHORIZED, flag=Flag.IDENTITY_ERROR) from None

    def _authorize(
        self, local: Workload, peer: Identity | None, ip: bytes, port: int, ip_field: Mask, label_id: int
    ) -> Verdict | None:
        """The denying verdict, or None. `ip_field` is where the destination address of the policies comes from."""
        outcome = evaluate(self._view.policies(local), Connection(peer, self._upcall.src_ip, ip, port))
        self.notes = outcome.dry_run
        consulted = outcome.consulted
        if consulted & Mask.DST_IP:
            consulted = consulted & ~Mask.DST_IP | ip_field
        if not self._hbone:
            consulted &= ~Mask.PEER  # there is none, by direction
        self.mask |= consulted
        if outcome.allowed:
            return None
        return Verdict(
            Action.DENY,
            self.mask,
            label_id,
            status=HTTP_UNAUTHORIZED if self._hbone else 0,
            flag=Flag.DENY,
            reason=f"connection closed due to policy rejection: {outcome.reason}".encode(),
        )

    def _label(self, local: Workload, peer: Identity | None, port: int) -> int:
        principal = "" if peer is None else str(peer)
        label = LabelSet(
            "destination",
            self._source(principal),
            Party.of(local, labels.principal(local)),
            Target.of(self._service_guess(local, port)),
            mutual_tls=peer is not None,
        )
        return self._ids.labels.intern(label)

    def _source(self, principal: str) -> Party:
        """The client by its address; by its baggage if the address is unknown, or is that of a gateway."""
        upcall = self._upcall
        if not upcall.flags & UpcallFlag.GATEWAY:
            self.mask |= Mask.SRC_IP
            workload = self._view.workload_at(self._view.network, upcall.src_ip)
            if workload is not None:
                return Party.of(workload, principal)
        if not self._hbone or not self._settings.response_baggage:
            return NOBODY._replace(principal=principal)
        self.mask |= Mask.BAGGAGE
        return Party.of_baggage(baggage.parse(upcall.baggage), principal)

    def _service_guess(self, local: Workload, port: int) -> Service | None:
        """The service the client meant: the forwarded host if it is one of ours, else the first with that port."""
        if not local.services:
            return None
        if self._hbone:
            self.mask |= Mask.FORWARDED
            for key in local.services if self._upcall.forwarded else ():
                if key.partition("/")[2] == self._upcall.forwarded:
                    service = self._view.service(key)
                    if service is not None:
                        return service
        for key, ports in local.services.items():
            service = self._view.service(key)
            if service is not None and port in {p.target_port for p in (*service.ports, *ports)}:
                return service
        return None

    # Verdicts

    def _endpoint(self, ip: bytes, port: int, label_id: int, *, weight: int = 1) -> Endpoint:
        return Endpoint(ip, port, port, Protocol.TCP, AuthorityKind.ENDPOINT, weight, 0, label_id)

    def _deliver(
        self, endpoints: tuple[Endpoint, ...], label_id: int, *, header: bytes = b"", spoof: bool = True
    ) -> Verdict:
        """`endpoints[1]`, if there, is the destination that the PROXY header names."""
        flags = VerdictFlag.SPOOF if self._pod.spoof and spoof else VerdictFlag(0)
        if len(endpoints) > 1:
            flags |= VerdictFlag.PROXY_PROTOCOL
        return Verdict(Action.DELIVER, self.mask, label_id, flags=flags, endpoints=endpoints, baggage=header)
