"""Our HBONE pair: a client-side worker and a server-side worker, mTLS and HTTP/2 CONNECT between them.

As in a mesh: SPIFFE identities verified on both sides, a verdict for every flow, timers, counters and access log on,
settings at ztunnel's defaults. What the origin is depends on the address that the client dials.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench import certs, config
from bench.certs import Authority
from bench.subjects.base import Address, await_answer, truncate
from bench.subjects.control import BUNDLE_ID, CERT_ID, WorkerNode, listen
from meshcore import records
from meshcore.records import Action, AuthorityKind, Direction, Endpoint, Flag, Mask, Protocol, Upcall, Verdict

_SERVER: Final = "127.0.0.2"  # the pod behind the far worker
_HBONE: Final = 15008
_OUTBOUND: Final = 15001
_TARGETS: Final = {  # what the client dials -> the application's port
    socket.inet_aton("127.1.0.1"): config.HTTP_PORT,
    socket.inet_aton("127.1.0.2"): config.BULK_PORT,
    socket.inet_aton("127.1.0.3"): config.SINK_PORT,
}
_SANS_ID: Final = 1
_OUT_LABEL: Final = 5
_IN_LABEL: Final = 6
_DENY_LABEL: Final = 7
_BAGGAGE: Final = (
    b"k8s.cluster.name=Kubernetes,k8s.namespace.name=bench,k8s.pod.name=client-0,service.name=client,service.version=v1"
)
_SOURCE: Final = (
    b'src.workload="client-0" src.namespace="bench" src.identity="spiffe://cluster.local/ns/bench/sa/client"'
)
_TARGET: Final = b'dst.service="web.bench.svc.cluster.local" dst.workload="web-0" dst.namespace="bench" direction="%s"'


def _outbound(upcall: Upcall) -> tuple[Verdict, list[bytes]]:
    """Where a captured connection goes; what is not a target is refused, which `verdicts.py` relies on."""
    mask = Mask.DST_IP | Mask.DST_PORT
    port = _TARGETS.get(upcall.dst_ip)
    if upcall.direction is not Direction.OUTBOUND or port is None:
        label = records.encode_label(_DENY_LABEL, _SOURCE, _TARGET % b"outbound")
        return Verdict(Action.DENY, mask, _DENY_LABEL, flag=Flag.DENY, reason=b"no such destination"), [label]
    endpoint = Endpoint(
        socket.inet_aton(_SERVER), _HBONE, port, Protocol.HBONE, AuthorityKind.ENDPOINT, 1, _SANS_ID, _OUT_LABEL
    )
    verdict = Verdict(
        Action.BALANCE,
        mask,
        _OUT_LABEL,
        cert_id=CERT_ID,
        endpoints=(endpoint,),
        baggage=_BAGGAGE,
        host=b"web.bench.svc.cluster.local",
    )
    return verdict, [
        records.encode_sans(_SANS_ID, (certs.spiffe("server"),)),
        records.encode_label(_OUT_LABEL, _SOURCE, _TARGET % b"outbound"),
    ]


def _inbound(upcall: Upcall) -> tuple[Verdict, list[bytes]]:
    """The server's policy allows the client's identity and nobody else; the fields consulted are ztunnel's."""
    mask = Mask.HOST | Mask.DST_IP | Mask.LOCAL_IP | Mask.DST_PORT | Mask.PEER | Mask.BAGGAGE
    label = records.encode_label(_IN_LABEL, _SOURCE, _TARGET % b"inbound")
    if upcall.peer != certs.spiffe("client"):
        verdict = Verdict(Action.DENY, mask, _IN_LABEL, status=401, flag=Flag.DENY, reason=b"not allowed")
    else:
        endpoint = Endpoint(
            socket.inet_aton(config.ORIGIN),
            upcall.dst_port,
            upcall.dst_port,
            Protocol.TCP,
            AuthorityKind.ENDPOINT,
            1,
            0,
            _IN_LABEL,
        )
        verdict = Verdict(Action.DELIVER, mask, _IN_LABEL, endpoints=(endpoint,), baggage=_BAGGAGE)
    return verdict, [label]


class Ours:
    """Two workers. `http`, `bulk` and `sink` share a listener: the address dialled says which is meant."""

    name = "ours"

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        settings: Mapping[str, str] | None = None,
        node: type[WorkerNode] = WorkerNode,
    ) -> None:
        self._authority = authority
        self.client = node("client", directory, _outbound, settings)
        self.server = node("server", directory, _inbound, settings)

    http = Address("127.1.0.1", _OUTBOUND)
    bulk = Address("127.1.0.2", _OUTBOUND)
    sink = Address("127.1.0.3", _OUTBOUND)
    outbound_port = _OUTBOUND

    @property
    def processes(self) -> dict[str, int]:
        return {"client": self.client.pid, "server": self.server.pid}

    def start(self) -> None:
        self.launch()
        await_answer(self.http, "our pair of workers")

    def launch(self) -> None:
        """Start both workers; nothing has gone through them yet, and nothing need stand at the origin."""
        for node in (self.client, self.server):
            node.start()
            leaf = self._authority.issue(node.name)
            node.send(records.encode_bundle(BUNDLE_ID, self._authority.pem))
            node.send(records.encode_cert(CERT_ID, BUNDLE_ID, leaf.chain, leaf.key))
        # Any address reaches the outbound listener, as redirection inside a pod makes it do.
        self.client.add_pod([listen("0.0.0.0", _OUTBOUND), listen(config.ORIGIN), listen(config.ORIGIN)])
        self.server.add_pod([listen(_SERVER), listen(_SERVER), listen(_SERVER, _HBONE)])

    def stop(self) -> None:
        self.client.stop()
        self.server.stop()

    def trim(self) -> None:
        truncate(self.client.log)
        truncate(self.server.log)
