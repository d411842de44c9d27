"""Pods that are not, or no longer, members of the mesh; and the moment in which they become members."""

from __future__ import annotations

import time

from ambient.demo.admin import log_size
from ambient.demo.capture import Capture, Stream
from ambient.demo.mesh import Mesh
from ambient.demo.scenarios.base import Scenario, marker, ms, require
from ambient.demo.topology import FRONTEND, HTTP, NODE_LINK, WEB_2
from ambient.demo.traffic import Reply


def request_in_clear(mesh: Mesh) -> tuple[Reply, list[Stream]]:
    """One request from frontend to web-2 -> (reply, the streams on the node link that carried it in clear)."""
    text = marker()
    with Capture(mesh.net.path("node-1"), NODE_LINK) as capture:
        reply = mesh.curl(FRONTEND, f"http://{WEB_2.ip}:{HTTP}/{text}")
    require(reply.ok, f"frontend -> web-2: {reply}")
    require(text in reply.body, f"web-2 answered something else: {reply.body!r}")
    return reply, capture.seen.holding(text.encode())


def not_enrolled(mesh: Mesh) -> str:
    reply, streams = request_in_clear(mesh)
    require(len(streams) == 2, f"{reply}, payload in clear in {len(streams)} streams on the node link, not in both")
    return f"{reply} from {reply.pod}; payload readable on the node link both ways, {streams[0]}"


def enrolled_without_restart(mesh: Mesh) -> str:
    nginx = mesh.process(f"nginx-{WEB_2.name}")
    before = (nginx.pid, nginx.started)
    first, clear = request_in_clear(mesh)
    require(clear, f"{first} before enrolment, but nothing of it on the node link")
    older = mesh.client(FRONTEND, "watch", WEB_2.ip, str(HTTP), "/load")
    try:
        require(older.await_first(5.0).get("open"), f"no connection before the enrolment: {older.latest}")
        began = time.monotonic()
        mesh.enrol(True)
        took = time.monotonic() - began
        offset = log_size(mesh.log_of("ztunnel-1"))
        second, clear = request_in_clear(mesh)
        require(not clear, f"{second} after enrolment, still in clear on the node link")
        line = mesh.await_access(
            "ztunnel-1",
            offset,
            lambda entry: entry["src.addr"] == f"{FRONTEND.ip}:{second.local_port}",
            "the request over HBONE",
        )
        sent = f"{line['dst.hbone_addr']} by {line['dst.addr']}"
        require(sent == f"{WEB_2.ip}:{HTTP} by {WEB_2.ip}:15008", f"ztunnel-1 sent it to {sent}")
        require(not older.latest.get("final"), f"a connection from before the enrolment ended: {older.latest}")
    finally:
        older.close()
    require((nginx.pid, nginx.started) == before and nginx.exit_status is None, "nginx of web-2 was restarted")
    return f"{second}, now by {line['dst.addr']}; took {ms(took)}, nginx still pid {nginx.pid}, open connection kept"


def un_enrolled(mesh: Mesh) -> str:
    nginx = mesh.process(f"nginx-{WEB_2.name}")
    before = (nginx.pid, nginx.started)
    first, clear = request_in_clear(mesh)
    require(not clear, f"{first} before, and already in clear on the node link")
    began = time.monotonic()
    mesh.enrol(False)
    took = time.monotonic() - began
    reply, streams = request_in_clear(mesh)
    require(len(streams) == 2, f"{reply}, payload in clear in {len(streams)} streams on the node link, not in both")
    tables = mesh.processes.run(["nft", "list", "tables"], netns=mesh.net.path(WEB_2.name)).stdout.split("\n")
    left = [table for table in tables if "istio" in table]
    require(not left, f"{reply} in clear, but rules were left in web-2: {', '.join(left)}")
    require((nginx.pid, nginx.started) == before and nginx.exit_status is None, "nginx of web-2 was restarted")
    return f"{reply}, payload readable again on the node link; no rule left in web-2, un-enrolled in {ms(took)}"


BEFORE = (
    Scenario("not-enrolled", "Pods outside the mesh talk in clear", not_enrolled, enrolled=False),
    Scenario("enrolled", "A running pod joins without a restart", enrolled_without_restart, enrolled=False),
)
AFTER = (Scenario("un-enrolled", "Pods leave the mesh and talk in clear again", un_enrolled),)
