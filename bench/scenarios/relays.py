"""The floor: two plain copy relays, captured like everything else. No policy, no TLS, no telemetry."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from bench import config
from bench.envoy import capture
from bench.scenarios.paths import Path, Site, started

MARK: Final = 0x539  # on what a relay opens itself, which must not be captured again
_BETWEEN: Final = 15008
_CAPTURED: Final = {config.HTTP_PORT: 15001, config.BULK_PORT: 15002, config.SINK_PORT: 15003}
"""The application's port -> where its connections are redirected to in the client's pod."""


class Relays(Path):
    """client relay -> server relay, one connection each per connection of the client."""

    def _command(self, role: str) -> list[str]:
        pairs = []
        for number, (port, captured) in enumerate(_CAPTURED.items()):
            if role == "client":
                pairs.append(f"0.0.0.0:{captured}={self.place.server.ip}:{_BETWEEN + number}")
            else:
                pairs.append(f"0.0.0.0:{_BETWEEN + number}=127.0.0.1:{port}")
        program = [sys.executable, "-I", "-S", str(config.PROGRAMS / "relay.py")]
        return [*program, "--mark", str(MARK), *pairs]

    def _rules(self) -> str:
        lines = [
            f"    meta mark != {MARK:#x} ip daddr {self.place.server.ip} tcp dport {port} redirect to :{captured}"
            for port, captured in _CAPTURED.items()
        ]
        head = "table ip bench {\n  chain output {\n    type nat hook output priority -100; policy accept;\n"
        return head + "\n".join(lines) + "\n  }\n}\n"

    def start(self, site: Site) -> None:
        for role, pod in (("server", self.place.server), ("client", self.place.client)):
            site.processes.start(f"relay-{role}", self._command(role), netns=site.mesh.net.path(pod.name))
        capture.apply(site.processes, site.mesh.net.path(self.place.client.name), self._rules())

    def proxies(self, site: Site) -> dict[str, int]:
        return started(site.processes, {f"{role}/relay": f"relay-{role}" for role in ("client", "server")})

    def describe(self) -> Mapping[str, str]:
        commands = "\n".join(f"{role}: {' '.join(self._command(role)[3:])}" for role in ("client", "server"))
        return {"client.nft": self._rules(), "commands": commands.replace(str(config.ROOT) + "/", "") + "\n"}
