"""Things end, are replaced or expire, while a client opens new connections all the time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from ambient.demo import manifests
from ambient.demo.admin import access_lines, log_size
from ambient.demo.errors import CheckFailed
from ambient.demo.mesh import Mesh
from ambient.demo.processes import wait_until
from ambient.demo.scenarios.base import Scenario, ms, require
from ambient.demo.topology import BATCH, FRONTEND, HTTP, NODES, OUTSIDER, WEB_2
from ambient.demo.traffic import LoadResult
from meshcore.errors import DeadlineExceeded

_RATE: Final = 300.0  # new connections a second
_BACK_WITHIN: Final = 5.0  # seconds until a killed worker must have been replaced
_DRAIN: Final = 12.0  # seconds until a ztunnel that got SIGTERM must have ended; its own deadline is 5 s
_ROTATION: Final = 25.0  # seconds; certificates of node-2 live for 30 s and are renewed at half of that
_LOGGED_WITHIN: Final = 5.0  # seconds; workers write their lines in batches
_OUTAGE_ANSWERS: Final = 400


def _summary(result: LoadResult) -> str:
    return f"{result.ok} new connections answered, {result.kinds()}, slowest {ms(result.slowest)}"


def _require_tunnelled(mesh: Mesh, offsets: dict[Path, int], count: int) -> None:
    """At least `count` connections of frontend to web-2 must have been logged as HBONE, by whichever ztunnel."""

    def logged() -> int:
        lines = [line for path in mesh.logs.glob("ztunnel-*.log") for line in access_lines(path, offsets.get(path, 0))]
        return sum(line["src.workload"] == FRONTEND.name and line["dst.hbone_addr"] != "" for line in lines)

    try:
        wait_until(lambda: logged() >= count, "the access log", _LOGGED_WITHIN, every=0.2)
    except DeadlineExceeded:
        raise CheckFailed(f"of {count} connections only {logged()} went over HBONE") from None


def _log_sizes(mesh: Mesh) -> dict[Path, int]:
    return {path: log_size(path) for path in mesh.logs.iterdir()}


def worker_killed(mesh: Mesh) -> str:
    observed = []
    sizes = _log_sizes(mesh)
    with mesh.load(FRONTEND, WEB_2.ip, HTTP, rate=_RATE) as load:
        for name in mesh.ztunnels.values():
            control = mesh.process(name)
            before = mesh.workers(name)
            require(before, f"{name} has no worker process")
            victim = before[0]
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)

            def replaced(name: str = name, before: list[int] = before, victim: int = victim) -> bool:
                now = mesh.workers(name)
                return len(now) == len(before) and victim not in now

            wait_until(replaced, f"a new worker of {name}", _BACK_WITHIN, every=0.005)
            back = time.monotonic() - killed
            load.wait_for_more(300)
            control.require_alive()
            observed.append(f"worker {victim} of {name} replaced after {ms(back)}")
    result = load.result
    # What the killed worker had in hand is lost with it. A connection that began afterwards must not be.
    refused = {kind: count for kind, count in result.failed.items() if kind not in {"reset", "closed"}}
    require(not refused, f"{'; '.join(observed)}; {_summary(result)}")
    _require_tunnelled(mesh, sizes, result.ok // 2)  # a killed worker takes its unwritten lines with it
    in_hand = result.failures
    require(in_hand <= 0.2 * _RATE, f"{'; '.join(observed)}; {_summary(result)}: more than a worker has in hand")
    lost = f"{in_hand} in its hands lost" if in_hand else "none lost"
    return (
        f"{'; '.join(observed)}; {result.ok} new connections answered, 0 refused, {lost}, slowest {ms(result.slowest)}"
    )


def upgraded(mesh: Mesh) -> str:
    observed = []
    sizes = _log_sizes(mesh)
    with mesh.load(FRONTEND, WEB_2.ip, HTTP, rate=_RATE) as load:
        for node in NODES:
            old = mesh.ztunnels[node.name]
            new = mesh.launch_ztunnel(node.name)
            mesh.await_ready(new)
            load.wait_for_more(50)
            mesh.ztunnels[node.name] = new
            process = mesh.process(old)
            began = time.monotonic()
            process.signal(signal.SIGTERM)
            load.wait_for_more(50)
            status = process.wait(_DRAIN)
            require(status == 0, f"{old} ended with status {status}")
            mesh.discard_ztunnel(old)
            load.wait_for_more(50)
            observed.append(f"{old} -> {new}, drained in {time.monotonic() - began:.1f} s")
    result = load.result
    require(not result.failures, f"{', '.join(observed)}; {_summary(result)}")
    _require_tunnelled(mesh, sizes, result.ok)
    return f"{', '.join(observed)}; {_summary(result)}"


def istiod_stopped(mesh: Mesh) -> str:
    with mesh.load(FRONTEND, WEB_2.ip, HTTP, rate=_RATE) as load:
        mesh.stop_istiod()
        load.wait_for_more(_OUTAGE_ANSWERS)
        during = load.now
        require(not during.failures, f"while istiod was away: {_summary(during)}")
        new_flow = mesh.curl(BATCH, f"http://{WEB_2.ip}:{HTTP}/")
        require(new_flow.ok, f"while istiod was away: batch -> web-2, not used before: {new_flow}")
        rule = {"from": [{"source": {"principals": [BATCH.principal]}}]}
        policy = manifests.authorization("deny-during-outage", WEB_2.namespace, "web", "DENY", [rule])
        mesh.manifests.write("policies", [policy])
        still = mesh.curl(BATCH, f"http://{WEB_2.ip}:{HTTP}/")
        require(still.ok, f"a policy was in force without istiod: {still}")
        began = time.monotonic()
        mesh.start_istiod()
        mesh.await_policies({f"{WEB_2.namespace}/deny-during-outage"})
        took = time.monotonic() - began
        refused = mesh.curl(BATCH, f"http://{WEB_2.ip}:{HTTP}/")
        require(not refused.ok, f"caught up, but the policy is not in force: batch -> web-2: {refused}")
        load.wait_for_more(50)
    result = load.result
    require(not result.failures, _summary(result))
    return (
        f"away: {during.ok} new connections and a new pair of pods answered; back: a policy written meanwhile in force "
        f"{took:.1f} s after its start; {_summary(result)}"
    )


def _leaf(dump: dict[str, Any], identity: str) -> tuple[str, str]:
    """(serial number, expiry) of the certificate that a ztunnel uses for `identity`."""
    for each in dump["certificates"]:
        if each["identity"] == identity and each["state"] == "Available" and each["certChain"]:
            leaf = each["certChain"][0]
            return str(leaf["serialNumber"]), str(leaf["expirationTime"])
    raise CheckFailed(f"the ztunnel has no certificate of {identity}")


def certificate_rotated(mesh: Mesh) -> str:
    ztunnel = mesh.node_ztunnel(WEB_2)
    before, _ = _leaf(mesh.dump(ztunnel), WEB_2.spiffe)
    open_one = mesh.client(FRONTEND, "watch", WEB_2.ip, str(HTTP), "/load")
    try:
        with mesh.load(FRONTEND, WEB_2.ip, HTTP, rate=_RATE) as load:
            wait_until(
                lambda: _leaf(mesh.dump(ztunnel), WEB_2.spiffe)[0] != before,
                "a new certificate of web-2",
                _ROTATION,
                0.1,
            )
            after, expiry = _leaf(mesh.dump(ztunnel), WEB_2.spiffe)
            load.wait_for_more(100)
        require(open_one.latest.get("open"), f"an open connection ended with the old certificate: {open_one.latest}")
    finally:
        open_one.close()
    result = load.result
    require(not result.failures, _summary(result))
    served = mesh.shake(OUTSIDER, WEB_2).serial
    require(served == after, f"the ztunnel has certificate {after}, but serves {served}")
    rotated = f"serial {before[:8]}.. -> {after[:8]}.. (until {expiry}), also served"
    return f"{rotated}; {_summary(result)}, open connection kept"


SCENARIOS = (
    Scenario("worker-killed", "A worker is killed under load", worker_killed),
    Scenario("upgraded", "Both ztunnels are upgraded under load", upgraded),
    Scenario("istiod-stopped", "istiod is away, and comes back", istiod_stopped, logs=("istiod", "ztunnel-2")),
    Scenario("rotated", "A certificate is rotated under load", certificate_rotated, logs=("ztunnel-2", "istiod")),
)
