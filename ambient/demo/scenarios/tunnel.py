"""What goes over the tunnel: encrypted, between verified identities, with the client's address kept."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ambient.demo.admin import LogLine, log_size
from ambient.demo.capture import Capture
from ambient.demo.handshake import HBONE
from ambient.demo.mesh import Mesh
from ambient.demo.processes import wait_until
from ambient.demo.scenarios.base import Scenario, marker, require
from ambient.demo.topology import BATCH, FRONTEND, HTTP, NODE_LINK, OUTSIDER, WEB_1, WEB_2, Pod
from ambient.demo.traffic import Reply

_IMPOSTOR_TIMEOUT: Final = 3.0  # seconds
_CURVE: Final = "ec_paramgen_curve:P-256"
_S_SERVER: Final = ("openssl", "s_server", "-rev", "-tls1_3", "-alpn", "h2")
_ACCEPTED: Final = b"CONNECTION ESTABLISHED"  # what s_server prints after a whole handshake


def _logged_pair(
    mesh: Mesh, source: Pod, target: Pod, offsets: dict[str, int], reply: Reply
) -> tuple[LogLine, LogLine]:
    """The access-log lines of both ends of the request from `source` to nginx of `target` that got `reply`."""
    authority = f"{target.ip}:{HTTP}"
    outbound = mesh.await_access(
        mesh.node_ztunnel(source),
        offsets[source.node],
        lambda line: line["dst.hbone_addr"] == authority and line["src.addr"] == f"{source.ip}:{reply.local_port}",
        f"an outbound connection to {authority}",
    )
    inbound = mesh.await_access(
        mesh.node_ztunnel(target),
        offsets[target.node],
        lambda line: line["direction"] == "inbound" and authority in (line["dst.addr"], line["dst.hbone_addr"]),
        f"an inbound connection to {authority}",
    )
    return outbound, inbound


def _offsets(mesh: Mesh) -> dict[str, int]:
    return {node: log_size(mesh.log_of(name)) for node, name in mesh.ztunnels.items()}


def _require_identities(lines: tuple[LogLine, LogLine], source: Pod, target: Pod) -> None:
    for line in lines:
        pair = (line["src.identity"], line["dst.identity"])
        require(
            pair == (source.spiffe, target.spiffe),
            f"{line['direction']} was logged as {pair[0] or 'nobody'} -> {pair[1] or 'nobody'}",
        )


def only_tls_on_the_link(mesh: Mesh) -> str:
    text = marker()
    body = "x" * 20_000
    with Capture(mesh.net.path("node-1"), NODE_LINK) as capture:
        reply = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/{text}", "-H", f"X-Text: {text}", "-d", text + body)
        require(reply.ok and text in reply.body, f"frontend -> web-2: {reply}")
    seen = capture.seen
    streams = seen.between(FRONTEND.ip, WEB_2.ip)
    require(streams, f"{reply}, but nothing between the pods crossed the link: the capture saw {seen.packets} packets")
    found = seen.holding(text.encode())
    require(not found, f"{reply}, payload in clear in {', '.join(map(str, found))}")
    for stream in streams:
        require(HBONE in (stream.source.port, stream.target.port), f"{reply}, but {stream} is not on port {HBONE}")
        require(stream.tls_records is not None, f"{reply}, but {stream} is not TLS: {stream.data[:16].hex(' ')}")
    octets, records = sum(len(each.data) for each in streams), sum(each.tls_records or 0 for each in streams)
    require(octets > len(body), f"{reply}, but only {octets} bytes crossed the link")
    return f"{reply}; {octets} bytes on the link, all in {records} TLS records on port {HBONE}, the payload in none"


def identities_verified(mesh: Mesh) -> str:
    offsets = _offsets(mesh)
    reply = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/{marker()}")
    require(reply.ok, f"frontend -> web-2: {reply}")
    _require_identities(_logged_pair(mesh, FRONTEND, WEB_2, offsets, reply), FRONTEND, WEB_2)
    shown = mesh.shake(OUTSIDER, WEB_2)
    require(shown.san == WEB_2.spiffe, f"port {HBONE} of web-2 shows a certificate for {shown.san}")
    require(shown.verified, f"the certificate of web-2 does not verify against the root of the mesh: {shown}")
    require(shown.refused, f"port {HBONE} of web-2 does not refuse a client without a certificate: {shown}")
    return (
        f"both ztunnels logged {FRONTEND.principal} -> {WEB_2.principal}; openssl read the latter from the handshake, "
        "verified by the mesh's root, "
        f"and without a certificate was refused: {shown.refused}"
    )


class Impostor(NamedTuple):
    """A server at the address of outsider with a certificate for `identity`, by the mesh's CA or by its own."""

    what: str
    identity: str
    by_mesh_ca: bool
    refused: bool = True


_IMPOSTORS: Final = (
    Impostor("right name, foreign CA", OUTSIDER.spiffe, by_mesh_ca=False),
    Impostor("wrong name, mesh CA", BATCH.spiffe, by_mesh_ca=True),
    # Without this one a refusal could have any other reason.
    Impostor("right name, mesh CA", OUTSIDER.spiffe, by_mesh_ca=True, refused=False),
)


def impostor_refused(mesh: Mesh) -> str:
    """A server whose certificate does not prove the expected identity gets nothing, in clear neither."""
    mesh.write_pod(OUTSIDER, claims_hbone=True)
    try:
        mesh.await_protocol(OUTSIDER, "HBONE")
        observed = [_try_impostor(mesh, each) for each in _IMPOSTORS]
    finally:
        mesh.write_pod(OUTSIDER)
        mesh.await_protocol(OUTSIDER, "TCP")
    return "; ".join(observed)


def _try_impostor(mesh: Mesh, impostor: Impostor) -> str:
    text = marker()
    with _serving(mesh, impostor) as log:
        offset = log_size(mesh.log_of("ztunnel-1"))
        with Capture(mesh.net.path(OUTSIDER.name), "eth0") as capture:
            reply = mesh.curl(FRONTEND, f"http://{OUTSIDER.ip}:{HTTP}/{text}", timeout=_IMPOSTOR_TIMEOUT)
        line = mesh.await_access(
            "ztunnel-1", offset, lambda each: each["src.addr"] == f"{FRONTEND.ip}:{reply.local_port}", "the request"
        )
        accepted = _ACCEPTED in log.read_bytes()
    require(reply.status == 0, f"{impostor.what}: it answered: {reply}")
    streams = [each for each in capture.seen.streams if each.target.ip == OUTSIDER.ip and each.data]
    clear = [each for each in streams if each.target.port != HBONE or each.tls_records is None]
    require(not clear, f"{impostor.what}: {reply}, and something was sent in clear: {', '.join(map(str, clear))}")
    require(streams, f"{impostor.what}: {reply}, but nobody began a handshake with port {HBONE}")
    require(
        accepted != impostor.refused,
        f"{impostor.what}: ztunnel-1 {'talks to' if accepted else 'refuses'} it: {line['error'] or reply}",
    )
    return f"{impostor.what}: {'refused: ' + line['error'] if impostor.refused else 'accepted'}"


@contextlib.contextmanager
def _serving(mesh: Mesh, impostor: Impostor) -> Iterator[Path]:
    """Run `openssl s_server` as this impostor -> its log, with what clients send."""
    directory = mesh.app_dir(OUTSIDER)
    directory.mkdir(exist_ok=True)
    key, certificate = str(directory / "key.pem"), str(directory / "cert.pem")
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    subject = ["-subj", "/CN=impostor", "-addext", f"subjectAltName=URI:{impostor.identity}"]
    if impostor.by_mesh_ca:
        authority = mesh.run_dir / "istiod"
        subject += ["-CA", str(authority / "ca-cert.pem"), "-CAkey", str(authority / "ca-key.pem")]
        subject += ["-addext", "basicConstraints=critical,CA:FALSE"]
    made = mesh.processes.run([*request, *subject, "-keyout", key, "-out", certificate])
    require(made.returncode == 0, f"openssl made no certificate: {made.stderr.strip()}")
    name = f"impostor-{secrets.token_hex(2)}"
    server = mesh.processes.start(
        name,
        [
            "openssl",
            "s_server",
            "-rev",
            "-accept",
            str(HBONE),
            "-cert",
            certificate,
            "-key",
            key,
            "-tls1_3",
            "-alpn",
            "h2",
        ],
        netns=mesh.net.path(OUTSIDER.name),
    )
    try:
        wait_until(lambda: b"ACCEPT" in server.log.read_bytes(), "openssl s_server to listen", 5.0)
        yield server.log
    finally:
        server.stop()
        mesh.processes.forget(name)


def client_address_kept(mesh: Mesh) -> str:
    observed = []
    for target in (WEB_2, WEB_1):
        offsets = _offsets(mesh)
        reply = mesh.curl(FRONTEND, f"http://{target.ip}:{HTTP}/{marker()}")
        require(reply.ok, f"frontend -> {target.name}: {reply}")
        require(reply.client == FRONTEND.ip, f"nginx of {target.name} saw the client as {reply.client}")
        _logged_pair(mesh, FRONTEND, target, offsets, reply)
        observed.append(f"nginx of {target.name} ({target.node}) saw {reply.client}")
    return "; ".join(observed) + ", the address of frontend"


def same_node(mesh: Mesh) -> str:
    text = marker()
    offsets = _offsets(mesh)
    with Capture(mesh.net.path("node-1"), NODE_LINK) as capture:
        reply = mesh.curl(FRONTEND, f"http://{WEB_1.ip}:{HTTP}/{text}")
    require(reply.ok and reply.pod == WEB_1.name, f"frontend -> web-1: {reply}")
    _require_identities(_logged_pair(mesh, FRONTEND, WEB_1, offsets, reply), FRONTEND, WEB_1)
    strays = capture.seen.between(FRONTEND.ip, WEB_1.ip)
    require(not strays, f"{reply}, but it crossed the node link: {', '.join(map(str, strays))}")
    return f"{reply} from web-1 on the same node; both identities logged by ztunnel-1, nothing on the node link"


SCENARIOS = (
    Scenario("tls-only", "Nothing but TLS between the nodes", only_tls_on_the_link),
    Scenario("identities", "Both SPIFFE identities verified", identities_verified),
    Scenario("impostor", "A server that cannot prove its identity gets nothing", impostor_refused, logs=("ztunnel-1",)),
    Scenario("client-address", "The application sees the client's own address", client_address_kept),
    Scenario("same-node", "Two pods of one node", same_node, logs=("ztunnel-1",)),
)
