"""Services: balancing over their pods, and pods that come and go."""

from __future__ import annotations

import time
from typing import Any

from ambient.demo.admin import log_size
from ambient.demo.mesh import Mesh
from ambient.demo.processes import wait_until
from ambient.demo.scenarios.base import Scenario, ms, require
from ambient.demo.topology import FRONTEND, HTTP, WEB, WEB_1, WEB_2, WEB_3

_REQUESTS = 200
_SHARE_MIN = 0.25
"""Least share of either of two pods: 200 fair coin tosses fall below it once in 10^12 runs."""


def balanced(mesh: Mesh) -> str:
    offset = log_size(mesh.log_of("ztunnel-1"))
    with mesh.load(FRONTEND, WEB.vip, WEB.port, rate=200) as load:
        load.wait_for_more(_REQUESTS)
    result = load.result
    require(not result.failures, f"{result.ok} answered, {result.kinds()}")
    counts = {pod: count for pod, (count, _, _) in sorted(result.answers.items())}
    shares = ", ".join(f"{pod} {count} ({count / result.ok:.0%})" for pod, count in counts.items())
    require(set(counts) == {WEB_1.name, WEB_2.name}, f"{result.ok} connections to {WEB.vip}: {shares}")
    require(min(counts.values()) >= _SHARE_MIN * result.ok, f"{result.ok} connections to {WEB.vip}: {shares}")
    line = mesh.await_access("ztunnel-1", offset, lambda entry: bool(entry["dst.service"]), "the name of the service")
    require(line["dst.service"] == WEB.hostname, f"logged as {line['dst.service']}, not as {WEB.hostname}")
    return f"{result.ok} connections to {WEB.vip}:{WEB.port} ({WEB.hostname}): {shares}, 0 failed"


def _is_out(dump: dict[str, Any]) -> bool:
    """Whether a ztunnel knows that web-3 must get no new connection."""
    return all(each["status"] == "Unhealthy" for each in dump["workloads"] if each["name"] == WEB_3.name)


def pod_deleted(mesh: Mesh) -> str:
    mesh.add_pods(WEB_3)
    there = True
    try:
        mesh.await_members()
        with mesh.load(FRONTEND, WEB.vip, WEB.port, rate=200) as load:
            wait_until(lambda: load.now.answers.get(WEB_3.name, (0,))[0] > 10, "answers of the new pod web-3", 10.0)
            deleted = time.monotonic()
            mesh.delete_pod(WEB_3)
            mesh.await_dumps(lambda _, dump: _is_out(dump), "web-3 to be taken out of service")
            followed = time.monotonic()
            # The application is still there: a request that reached it would be answered, and counted.
            load.wait_for_more(100)
            there = False
            mesh.end_pod(WEB_3)
            load.wait_for_more(100)
    finally:
        if there:
            mesh.end_pod(WEB_3)
    result = load.result
    count, _, last = result.answers[WEB_3.name]
    after = max(0.0, last - deleted)
    require(last <= followed, f"web-3 was used {ms(after)} after its deletion, known after {ms(followed - deleted)}")
    require(not result.failures, f"{result.ok} answered, {result.kinds()}")
    direct = mesh.curl(FRONTEND, f"http://{WEB_3.ip}:{HTTP}/", timeout=1.0)
    require(not direct.ok, f"web-3 answers although it is gone: {direct}")
    return (
        f"web-3 came and answered {count} requests, the last one begun {ms(after)} after its deletion; "
        f"{result.ok} answered in all, 0 failed"
    )


SCENARIOS = (
    Scenario("service", "A service address balances over two pods", balanced),
    Scenario("pod-deleted", "Traffic leaves a deleted pod at once", pod_deleted),
)
