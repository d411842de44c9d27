"""The laptop mesh: builds it, changes it and takes it down. What is checked on it is in `scenarios`."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ambient.demo import admin, config, manifests, state
from ambient.demo.admin import LogLine
from ambient.demo.errors import CheckFailed, DemoError
from ambient.demo.handshake import Handshake, shake
from ambient.demo.network import Network, require_programs
from ambient.demo.processes import Process, Processes, children, tail, wait_until
from ambient.demo.servers import write_nginx
from ambient.demo.topology import (
    CONTROL,
    CONTROL_IP,
    HTTP,
    MEMBER_NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    SYSTEM_NAMESPACE,
    Pod,
    node,
    ztunnel_ip,
)
from ambient.demo.traffic import Client, Load, Reply, curl
from meshcore.errors import DeadlineExceeded, Unavailable

_PROGRAMS: Final = (
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("sysctl", "procps"),
)
_START: Final = 20.0  # seconds until a component that was just started must be ready
_FOLLOW: Final = 15.0  # seconds until ztunnels must have followed a change of the configuration
_SECRET_TTL: Final = {"node-1": "1h", "node-2": "30s"}
"""Lifetime of the certificates that each node's ztunnel asks for: those of node-2 rotate while the demo runs."""

_ISTIOD_PORT: Final = 15012
_ISTIOD_READY_PORT: Final = 8080
_WORKERS: Final = "2"
_STATIC_STRICT: Final = f"{SYSTEM_NAMESPACE}/istio_converted_static_strict"
"""What istiod makes of PeerAuthentication STRICT; sent as long as there is any PeerAuthentication."""

Progress = Callable[[str], None]


class Mesh:
    """One laptop mesh in one run directory."""

    def __init__(
        self,
        run_dir: Path,
        progress: Progress,
        *,
        pods: Sequence[Pod] = PODS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`pods` stand from the beginning; `settings` go before those that the ztunnels get here otherwise."""
        self.run_dir = run_dir
        self.progress = progress
        self._first_pods = tuple(pods)
        self._settings = dict(settings or {})
        for name in ("logs", "netns", "config", "status", "istiod", "apps", *(each.name for each in NODES)):
            (run_dir / name).mkdir(exist_ok=True)
        self.logs = run_dir / "logs"
        self.processes = Processes(self.logs, config.child_environment(run_dir))
        self.net = Network(self.processes, run_dir / "netns")
        self.manifests = manifests.ManifestDir(run_dir / "config")
        self.pods: dict[str, Pod] = {}
        self.uids: dict[str, str] = {}
        self.ztunnels: dict[str, str] = {}
        """Node -> namespace (and process) name of its current ztunnel."""
        self.enrolled = False
        self._deleted: set[str] = set()
        self._generations = itertools.count(1)
        self._ztunnel_generations = {each.name: itertools.count() for each in NODES}
        self.processes.on_change = self._write_state

    def _write_state(self) -> None:
        running = {each.name: state.Running(each.name, each.pid, each.started or 0) for each in self.processes}
        names = {f"pause-{name}": name for name in (*self.net.names, *self.pods)}
        state.write(
            self.run_dir,
            state.State(
                owner=state.snapshot_owner(),
                rootless=config.rootless_uid() is not None,
                namespaces={names[name]: each for name, each in running.items() if name in names},
                processes=tuple(each for name, each in running.items() if name not in names),
                pods=tuple(self.pods),
            ),
        )

    # Building

    def build(self) -> None:
        """Everything up to a mesh that is ready, with no pod enrolled."""
        self.build_pods()
        self.start_istiod()
        self.start_nodes()

    def build_pods(self) -> None:
        """The nodes, the pods with their applications, and the manifests; no component of the mesh."""
        require_programs(_PROGRAMS, config.search_path())
        self.progress("two nodes and the control plane's place")
        self.net.build_nodes()
        pods = self._first_pods
        self.progress(f"{len(pods)} pods: " + ", ".join(f"{pod.name} ({pod.node})" for pod in pods))
        self.manifests.write("namespaces", manifests.namespaces(enrolled=False))
        self.manifests.write("nodes", manifests.nodes())
        self.manifests.write("service-accounts", manifests.service_accounts(pods))
        self.manifests.write("services", [manifests.service(each) for each in SERVICES])
        self.add_pods(*pods)

    def start_istiod(self) -> None:
        """Start (again) the control plane; returns when it is ready."""
        self.progress("istiod")
        command = [
            *config.ambient_command(),
            "istiod",
            f"--config-dir={self.run_dir / 'config'}",
            f"--status-dir={self.run_dir / 'status'}",
            f"--state-dir={self.run_dir / 'istiod'}",
            f"--san={CONTROL_IP}",
        ]
        process = self.processes.start("istiod", command, netns=self.net.path(CONTROL))

        def ready() -> bool:
            process.require_alive()
            try:
                return admin.get(self.net.path(CONTROL), _ISTIOD_READY_PORT, "/ready")[0] == 200
            except Unavailable:
                return False

        wait_until(ready, "istiod to be ready", _START)

    def stop_istiod(self) -> None:
        process = self.process("istiod")
        process.stop()
        self.processes.forget("istiod")

    def start_nodes(self) -> None:
        """The node agent and the ztunnel of each node; returns when all are ready."""
        self.progress("a node agent and a ztunnel on each node")
        for each in NODES:
            self._start_agent(each.name)
        waiting = [self.launch_ztunnel(each.name) for each in NODES]
        for name in waiting:
            self.await_ready(name)
        self.ztunnels = dict(zip((each.name for each in NODES), waiting, strict=True))

    def zds_socket(self, node_name: str) -> str:
        return str(self.run_dir / node_name / "ztunnel.sock")

    def _start_agent(self, node_name: str) -> None:
        command = [
            *config.ambient_command(),
            "cni",
            "agent",
            f"--config-dir={self.run_dir / 'config'}",
            f"--status-dir={self.run_dir / 'status'}",
            f"--node={node_name}",
            f"--zds-socket={self.zds_socket(node_name)}",
        ]
        agent = self.processes.start(f"cni-{node_name}", command, netns=self.net.path(node_name))

        def listening() -> bool:
            agent.require_alive()
            return Path(self.zds_socket(node_name)).is_socket()

        wait_until(listening, f"the node agent of {node_name} to listen", _START)

    def launch_ztunnel(self, node_name: str) -> str:
        """Start one more ztunnel on a node, in a namespace of its own as its pod would be -> its name."""
        generation = next(self._ztunnel_generations[node_name])
        name = f"ztunnel-{node_name[-1]}" + ("" if generation == 0 else chr(ord("a") + generation))
        self.net.open(name)
        self.net.join(name, ztunnel_ip(node_name, generation), node(node_name))
        root = self.run_dir / "istiod" / "root-cert.pem"
        istiod = f"https://{CONTROL_IP}:{_ISTIOD_PORT}"
        settings = {
            "NODE_NAME": node_name,
            "INPOD_UDS": self.zds_socket(node_name),
            "XDS_ADDRESS": istiod,
            "CA_ADDRESS": istiod,
            "XDS_ROOT_CA": str(root),
            "CA_ROOT_CA": str(root),
            "AUTH_TOKEN": str(self._token(node_name)),
            "SECRET_TTL": _SECRET_TTL[node_name],
            "ZTUNNEL_WORKER_THREADS": _WORKERS,
            "CONNECTION_TERMINATION_DEADLINE": "5s",
            "ISTIO_META_DNS_CAPTURE": "false",
        } | self._settings
        self.processes.start(name, [*config.ambient_command(), "ztunnel"], netns=self.net.path(name), settings=settings)
        return name

    def _token(self, node_name: str) -> Path:
        """A token that proves to istiod that the caller is the ztunnel of this node."""
        path = self.run_dir / node_name / "token"
        if not path.exists():
            command = [
                *config.ambient_command(),
                "istiod",
                "token",
                f"--state-dir={self.run_dir / 'istiod'}",
                f"--namespace={SYSTEM_NAMESPACE}",
                "--service-account=ztunnel",
                f"--node={node_name}",
            ]
            done = self.processes.run(command)
            if done.returncode:
                raise DemoError(f"no token for the ztunnel of {node_name}: {done.stderr.strip()}")
            path.touch(mode=0o600)
            path.write_text(done.stdout.strip())
        return path

    def await_ready(self, name: str) -> None:
        process = self.process(name)

        def ready() -> bool:
            process.require_alive()
            return admin.is_ready(self.net.path(name))

        wait_until(ready, f"{name} to be ready", _START)

    def discard_ztunnel(self, name: str) -> None:
        """Remove the namespace of a ztunnel that has ended."""
        self.processes.forget(name)
        self.net.close(name)

    # Pods

    def add_pods(self, *pods: Pod) -> None:
        """What scheduler and kubelet do: a namespace, an address, the application, then the status."""
        self.net.open(*(each.name for each in pods))
        for each in pods:
            self.net.join(each.name, each.ip, node(each.node))
            if each.web:
                command = write_nginx(self.app_dir(each), each.name)
                self.processes.start(f"nginx-{each.name}", command, netns=self.net.path(each.name))
        for each in pods:
            if each.web:
                self._await_nginx(each)
            self.pods[each.name] = each
            self.uids[each.name] = manifests.pod_uid(each, next(self._generations))
            self.write_pod(each)
        self._write_endpoints()
        self._write_state()

    def _await_nginx(self, pod: Pod) -> None:
        nginx = self.process(f"nginx-{pod.name}")

        def answers() -> bool:
            nginx.require_alive()
            try:
                return admin.get(self.net.path(pod.name), HTTP, "/ready")[0] == 200
            except Unavailable:
                return False

        wait_until(answers, f"nginx in {pod.name} to answer", 10.0)

    def write_pod(self, pod: Pod, *, claims_hbone: bool = False) -> None:
        """Write the Pod object; `claims_hbone` as an agent would annotate it that has enrolled the pod."""
        entry = manifests.pod(
            pod,
            netns=self.net.path(pod.name),
            uid=self.uids[pod.name],
            claims_hbone=claims_hbone,
            deleted=pod.name in self._deleted,
        )
        self.manifests.write(f"pod-{pod.name}", [entry])

    def _write_endpoints(self) -> None:
        serving = {name: pod for name, pod in self.pods.items() if name not in self._deleted}
        slices = [manifests.endpoint_slice(each, serving, self.uids) for each in SERVICES]
        self.manifests.write("endpoints", slices)

    def delete_pod(self, pod: Pod) -> None:
        """`kubectl delete pod`: it is no endpoint any more; its containers have their grace period."""
        self._deleted.add(pod.name)
        self.write_pod(pod)
        self._write_endpoints()

    def end_pod(self, pod: Pod) -> None:
        """The end of the grace period: the object, the application and the namespace go."""
        self.pods.pop(pod.name, None)
        self._deleted.discard(pod.name)
        self.manifests.remove(f"pod-{pod.name}")
        self._write_endpoints()
        if self.ztunnels:
            self.await_members()
        nginx = self.processes.get(f"nginx-{pod.name}")
        if nginx is not None:
            nginx.stop()
            self.processes.forget(nginx.name)
        self.net.close(pod.name)
        shutil.rmtree(self.app_dir(pod), ignore_errors=True)

    def app_dir(self, pod: Pod) -> Path:
        return self.run_dir / "apps" / pod.name

    # Looking and asking

    def process(self, name: str) -> Process:
        """A running process by name; raises DemoError when there is none."""
        found = self.processes.get(name)
        if found is None:
            raise DemoError(f"{name} is not running")
        return found

    def curl(self, pod: Pod, url: str, *options: str, timeout: float = 5.0) -> Reply:
        """One request by curl from inside `pod`."""
        return curl(self.processes, self.net.path(pod.name), url, *options, timeout=timeout)

    def load(self, pod: Pod, host: str, port: int, *, rate: float = 100.0) -> Load:
        """New connections from `pod`, `rate` a second, while the block runs."""
        return Load(self.processes, self.net.path(pod.name), host, port, rate=rate)

    def client(self, pod: Pod, *arguments: str) -> Client:
        """One command of the load generator in `pod`."""
        return Client(self.processes, self.net.path(pod.name), list(arguments))

    def node_ztunnel(self, pod: Pod) -> str:
        """Name of the ztunnel that serves `pod`."""
        return self.ztunnels[pod.node]

    def shake(self, source: Pod, target: Pod) -> Handshake:
        """A handshake without a certificate, from inside `source`, with the HBONE port of `target`."""
        root = self.run_dir / "istiod" / "root-cert.pem"
        return shake(self.processes, self.net.path(source.name), target.ip, root)

    def workers(self, ztunnel: str) -> list[int]:
        """Pids of the workers of a ztunnel: what its zygote has forked."""
        return [worker for zygote in children(self.process(ztunnel).pid) for worker in children(zygote)]

    def dump(self, ztunnel: str) -> dict[str, Any]:
        """config_dump of a ztunnel."""
        return admin.config_dump(self.net.path(ztunnel))

    def component_logs(self, limit: int = 12) -> list[tuple[str, list[str]]]:
        """The last lines of what the components of the mesh have logged: (process, lines)."""
        names = [each.name for each in self.processes if not each.name.startswith(("pause-", "nginx-"))]
        return [(name, lines) for name in names if (lines := tail(self.logs / f"{name}.log", 0, limit))]

    def log_of(self, process: str) -> Path:
        """The log of a process; of `ztunnel-N` that of the node's current ztunnel."""
        node_name = process.replace("ztunnel-", "node-")
        return self.logs / f"{self.ztunnels.get(node_name, process)}.log"

    def await_access(
        self, ztunnel: str, offset: int, wanted: Callable[[LogLine], bool], what: str, timeout: float = 5.0
    ) -> LogLine:
        """The first access-log line after `offset` that is `wanted`; raises CheckFailed with the lines there are."""
        log = self.log_of(ztunnel)

        def look() -> LogLine | None:
            return next((line for line in admin.access_lines(log, offset) if wanted(line)), None)

        try:
            return wait_until(look, what, timeout)
        except DeadlineExceeded:
            lines = admin.access_lines(log, offset)
            last = lines[-1].text if lines else "it logged nothing"
            raise CheckFailed(f"{ztunnel} has not logged {what}; {last}") from None

    # Changing

    def prepare(self, enrolled: bool | None) -> None:
        """Bring the mesh into the state that a scenario starts from, whatever the one before it left behind."""
        if self.processes.get("istiod") is None:
            self.start_istiod()
        self.manifests.remove("policies")
        if enrolled is not None and enrolled != self.enrolled:
            self.enrol(enrolled)
        if self.ztunnels:
            self.await_policies(set())

    def enrol(self, wanted: bool) -> None:
        """Label the namespaces, or take the label away; returns when both ztunnels have followed."""
        self.manifests.write("namespaces", manifests.namespaces(enrolled=wanted))
        verb = "enrolled" if wanted else "un-enrolled"
        self.await_dumps(lambda node, dump: self._follows(node, dump, wanted), f"the pods to be {verb}")
        self.enrolled = wanted

    def _follows(self, node_name: str, dump: dict[str, Any], wanted: bool) -> bool:
        """Whether a ztunnel knows every member as (not) reachable over HBONE, and holds (or not) those of its node."""
        members = [pod for pod in self.pods.values() if pod.namespace in MEMBER_NAMESPACES]
        protocols = {each["name"]: each["protocol"] for each in dump["workloads"]}
        if set(protocols) != set(self.pods):
            return False
        if any(protocols.get(pod.name) != ("HBONE" if wanted else "TCP") for pod in members):
            return False
        held = {each["info"]["name"] for each in dump["workloadState"].values() if each["state"] == "Up"}
        return held == ({pod.name for pod in members if pod.node == node_name} if wanted else set())

    def await_protocol(self, pod: Pod, protocol: str) -> None:
        """Wait until both ztunnels are told that `pod` is reached over `protocol`, HBONE or TCP."""

        def told(_: str, dump: dict[str, Any]) -> bool:
            return any(each["name"] == pod.name and each["protocol"] == protocol for each in dump["workloads"])

        self.await_dumps(told, f"{pod.name} to be announced with {protocol}")

    def await_members(self) -> None:
        """Wait until every pod that should be a member is one."""
        self.await_dumps(lambda node, dump: self._follows(node, dump, self.enrolled), "the pods to be enrolled")

    def apply_policies(self, *objects: manifests.Object) -> None:
        """Put these AuthorizationPolicies in force in place of all others; returns when both ztunnels have them."""
        self.manifests.write("policies", objects)
        self.await_policies({f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in objects})

    def apply_mtls_mode(self, mode: str) -> None:
        """Put the mode STRICT or PERMISSIVE in force for the namespace of web-2, and no other policy."""
        self.manifests.write("policies", [manifests.peer_authentication(MEMBER_NAMESPACES[0], mode)])
        self.await_policies({_STATIC_STRICT} if mode == "STRICT" else set())

    def await_policies(self, names: set[str]) -> None:
        """Wait until both ztunnels hold exactly these policies and apply them to web-2."""

        def follows(_: str, dump: dict[str, Any]) -> bool:
            held = {f"{each['namespace']}/{each['name']}" for each in dump["policies"]} - {_STATIC_STRICT}
            of_web = {
                policy
                for each in dump["workloads"]
                if each["name"] == "web-2"
                for policy in each.get("authorizationPolicies", ())
            }
            return held == names - {_STATIC_STRICT} and of_web == names

        self.await_dumps(follows, f"the policies {', '.join(sorted(names)) or '(none)'} to be in force")

    def await_dumps(self, follows: Callable[[str, dict[str, Any]], bool], what: str) -> None:
        """Wait until `follows(node name, config dump)` holds for the ztunnel of every node."""
        for node_name, name in self.ztunnels.items():

            def reached(node_name: str = node_name, name: str = name) -> bool:
                self.process(name).require_alive()
                try:
                    return follows(node_name, self.dump(name))
                except Unavailable:
                    return False

            wait_until(reached, f"{what} on {node_name}", _FOLLOW, every=0.03)

    def take_down(self) -> None:
        """End everything that was started here. Leftovers of these are found by `cleanup.remove_mesh`."""
        self.processes.stop_all()
