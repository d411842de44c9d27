"""A process full of clients of istiod, which speak the real protocol and remember what they were told.

    python -P -m bench.istiod.clients PLAN

A client counts as told at the moment its ACK is with the kernel.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.istiod import protocol
from bench.istiod.fleet import DOMAIN, ROOT_NAMESPACE, WAYPOINT, Fleet
from bench.istiod.protocol import Plan, State, Truth
from istiod import ca
from istiod.push import Published
from meshcore.errors import MeshError
from meshcore.identity import Identity
from meshcore.l7 import SERVICE_TYPE, WAYPOINT_TYPE
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE, Address, WorkloadStatus
from meshcore.stream import DeltaClient, Node, Resource, client_context

SERVER_NAME: Final = "istiod.istio-system.svc"
_LIFETIMES: Final = ca.Lifetimes(timedelta(days=1), timedelta(days=1))
_LOOK: Final = 0.01  # seconds between two looks at who is back
_END: Final = 5.0  # seconds for a client to leave
_address: Final = msgspec.msgpack.Decoder(Address)


def authority(folder: str) -> ca.Authority:
    """The CA of this run: the bench has its key, so it can give itself the certificates of every proxy."""
    return ca.Authority(ca.PluggedIn(folder).read(), _LIFETIMES)


def _credentials(signer: ca.Authority, identity: Identity, node: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = signer.sign(csr.public_bytes(serialization.Encoding.PEM).decode(), identity, 0, node=node)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return client_context(chain[-1], "".join(chain[:-1]), key_pem)


class Subscriber:
    """One client, and what it still has to be told. A witness keeps everything it was told."""

    def __init__(self, title: str, namespace: str, by_name: Mapping[str, Iterable[str]], witness: bool) -> None:
        self.title = title
        self.namespace = namespace
        """Whose names it holds; empty for everybody's."""
        self.client: DeltaClient
        self.concerned = False
        self.pending: dict[str, State] = {}
        self.told_at = 0.0
        self.names = {url: set(names) for url, names in by_name.items()}
        self.bodies: dict[str, bytes] = {}
        self.heard: dict[str, float] = {}
        """When it was told of each resource that it was to look out for, just before its ACK."""
        self._witness = witness

    def expect(self, states: Mapping[str, State]) -> None:
        if self.namespace:
            states = {name: state for name, state in states.items() if name in self.names[ADDRESS_TYPE]}
        self.pending = dict(states)
        self.heard = {}
        self.concerned = bool(states)
        self.told_at = 0.0

    def update(self, url: str, resources: list[Resource], removed: list[str]) -> dict[str, str]:
        if url != ADDRESS_TYPE:
            return {}
        if self._witness:
            self.bodies.update((resource.name, resource.body) for resource in resources)
            for name in removed:
                self.bodies.pop(name, None)
        if self.pending:
            now = time.monotonic()
            as_expected = [
                r.name for r in resources if r.name in self.pending and self.pending[r.name] == _state(r.body)
            ]
            as_expected += [name for name in removed if self.pending.get(name) == "gone"]
            for name in as_expected:
                del self.pending[name]
                self.heard[name] = now
            if not self.pending:
                asyncio.get_running_loop().call_soon(self._told)  # runs once the ACK is sent
        return {}

    def _told(self) -> None:
        self.told_at = time.monotonic()

    def digest(self, url: str, names: Iterable[str] | None = None) -> str:
        """Of names and versions; with `names`, of those only."""
        versions = self.client.versions(url)
        chosen = sorted(versions if names is None else versions.keys() & set(names))
        return _digest((name, versions[name]) for name in chosen)


def _state(body: bytes) -> State:
    workload = _address.decode(body).workload
    return "up" if workload is not None and workload.status is WorkloadStatus.HEALTHY else "down"


def _digest(pairs: Iterable[tuple[str, str]]) -> str:
    digest = blake2b(digest_size=16)
    for name, version in pairs:
        digest.update(f"{name}\0{version}\0".encode())
    return digest.hexdigest()


class Crowd:
    """The clients of this process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._fleet = Fleet(plan.sizes)
        self._signer = authority(plan.ca_dir)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        extra = Published().resources.keys() & {WAYPOINT_TYPE, SERVICE_TYPE}
        self._waypoint_types = (ADDRESS_TYPE, *sorted(extra))
        sizes = plan.sizes
        whole = [self._ztunnel(number, number < plan.of) for number in range(plan.part, sizes.ztunnels, plan.of)]
        part = [self._waypoint(number) for number in range(plan.part, sizes.waypoints, plan.of)]
        self.everybody = [*whole, *part]

    def _ztunnel(self, number: int, witness: bool) -> Subscriber:
        made = Subscriber(f"ztunnel-{number}", "", {}, witness)
        node = self._fleet.node_name(number % self._plan.sizes.nodes)
        account = Identity(DOMAIN, ROOT_NAMESPACE, "ztunnel")
        made.client = self._client(made, account, node, (ADDRESS_TYPE, AUTHORIZATION_TYPE))
        return made

    def _waypoint(self, number: int) -> Subscriber:
        namespace = self._fleet.namespace_name(number % self._plan.sizes.namespaces)
        addresses = self._fleet.names_of(namespace)
        services = {name for name in addresses if "//" not in name}
        by_name = {ADDRESS_TYPE: addresses, SERVICE_TYPE: services, WAYPOINT_TYPE: {f"{namespace}/{WAYPOINT}"}}
        made = Subscriber(f"waypoint-{number}", namespace, by_name, witness=False)
        made.client = self._client(made, Identity(DOMAIN, namespace, WAYPOINT), "", self._waypoint_types)
        return made

    def _client(self, of: Subscriber, identity: Identity, node: str, types: tuple[str, ...]) -> DeltaClient:
        tls = _credentials(self._signer, identity, node)
        role = "waypoint" if of.namespace else "ztunnel"
        described = Node(
            f"{role}~10.0.0.1~{of.title}.{identity.namespace}~{DOMAIN}",
            name=of.title,
            namespace=identity.namespace,
            node=node,
            service_account=identity.service_account,
        )
        return DeltaClient(
            address=self._plan.istiod,
            tls=lambda: tls,
            server_name=SERVER_NAME,
            node=described,
            types=types,
            on_update=of.update,
            by_name=types if of.namespace else (),
        )

    async def subscribe(self) -> None:
        """Tell the clients what to ask for by name."""
        for one in self.everybody:
            for url in self._waypoint_types if one.namespace else ():
                await one.client.subscribe(url, one.names[url])

    async def obey(self, command: protocol.Command) -> protocol.Reply:
        match command:
            case protocol.Connect(timeout):
                return await self._connect(timeout)
            case protocol.Disconnect():
                await self._disconnect()
            case protocol.Follow(names):
                for one in self.everybody:
                    if one.namespace and (more := names.get(one.namespace)):
                        one.names[ADDRESS_TYPE].update(more)
                        await one.client.subscribe(ADDRESS_TYPE, more)
            case protocol.Expect(states):
                for one in self.everybody:
                    one.expect(states)
            case protocol.Await(timeout, each):
                concerned = [one for one in self.everybody if one.concerned]
                late = await _until(concerned, lambda one: bool(one.told_at), timeout)
                last: dict[str, float] = {}
                for one in concerned if each else ():
                    last |= {name: max(at, last.get(name, 0.0)) for name, at in one.heard.items()}
                return protocol.Times([one.told_at for one in concerned if one.told_at], late, last)
            case protocol.Report():
                return self._counts()
            case protocol.Verify(names, pods, policies):
                return self._verify(set(names), pods, policies)
        return protocol.Done()

    async def _connect(self, timeout: float) -> protocol.Times:
        before = {one.title: dict(one.client.stats.messages) for one in self.everybody}
        self._stop.clear()
        self._tasks = [asyncio.create_task(one.client.run(self._stop)) for one in self.everybody]
        times: list[float] = []

        def caught_up(one: Subscriber) -> bool:
            """A server answers every subscription once, also when it has nothing to add."""
            stats, held = one.client.stats, before[one.title]
            urls = self._waypoint_types if one.namespace else (ADDRESS_TYPE, AUTHORIZATION_TYPE)
            if not (one.client.is_synced() and all(stats.messages.get(url, 0) > held.get(url, 0) for url in urls)):
                return False
            times.append(time.monotonic())
            return True

        return protocol.Times(times, await _until(self.everybody, caught_up, timeout))

    async def _disconnect(self) -> None:
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END)

    def _counts(self) -> protocol.Counts:
        stats = [one.client.stats for one in self.everybody]
        terminations: dict[str, int] = {}
        for one in stats:
            for reason, count in one.terminations.items():
                terminations[reason] = terminations.get(reason, 0) + count
        io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return protocol.Counts(
            sum(sum(one.messages.values()) for one in stats),
            sum(sum(one.bytes.values()) for one in stats),
            sum(one.connections for one in stats),
            sum(one.rejected for one in stats),
            terminations,
            int(io["rchar"]),
            int(io["wchar"]),
        )

    def _verify(self, names: set[str], pods: Mapping[str, Truth], policies: int) -> protocol.Verdict:
        witness = next(one for one in self.everybody if not one.namespace)
        problems = content_problems(witness.bodies, names, pods)
        versions = {name: blake2b(body, digest_size=8).hexdigest() for name, body in witness.bodies.items()}
        truth = _digest(sorted(versions.items()))
        policy_digest = witness.digest(AUTHORIZATION_TYPE)
        held = 0
        for one in self.everybody:
            wanted = names & one.names[ADDRESS_TYPE] if one.namespace else names
            has = one.client.versions(ADDRESS_TYPE)
            held += len(has)
            if has.keys() != wanted:
                problems.append(f"{one.title} holds {len(has)} addresses, not the {len(wanted)} there are")
                continue
            expected = _digest((name, versions[name]) for name in sorted(wanted)) if one.namespace else truth
            if one.digest(ADDRESS_TYPE) != expected:
                problems.append(f"{one.title} holds other versions than {witness.title} was sent contents")
            if one.namespace:
                for url in self._waypoint_types[1:]:
                    if one.client.versions(url).keys() != one.names[url]:
                        problems.append(f"{one.title} does not hold all of {url} that is its own")
                continue
            if (count := len(one.client.versions(AUTHORIZATION_TYPE))) != policies:
                problems.append(f"{one.title} holds {count} policies, not {policies}")
            elif one.digest(AUTHORIZATION_TYPE) != policy_digest:
                problems.append(f"{one.title} holds other policies than {witness.title}")
        return protocol.Verdict(problems, held, truth)


def content_problems(bodies: Mapping[str, bytes], names: set[str], pods: Mapping[str, Truth]) -> list[str]:
    """Where the resources that a client was sent are not what the cluster is."""
    problems = [f"{name} was never sent" for name in sorted(names - bodies.keys())[:5]]
    problems += [f"{name} does not exist" for name in sorted(bodies.keys() - names)[:5]]
    for name, pod in pods.items():
        workload = _address.decode(bodies[name]).workload if name in bodies else None
        if workload is None:
            problems.append(f"{name} is no workload")
            continue
        address = ".".join(str(byte) for byte in workload.addresses[0])
        ready = workload.status is WorkloadStatus.HEALTHY
        said = Truth(address, workload.node, next(iter(workload.services), ""), ready)
        if said != pod:
            problems.append(f"{name}: {said}, but there is {pod}")
        if len(problems) > 10:
            break
    return problems


async def _until(everybody: list[Subscriber], done: Callable[[Subscriber], bool], timeout: float) -> list[str]:
    """Wait until `done` holds for all, asking each until it does -> the titles of those for whom it does not."""
    deadline = time.monotonic() + timeout
    left = [one for one in everybody if not done(one)]
    while left and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK)
        left = [one for one in left if not done(one)]
    return [one.title for one in left]


async def serve(plan: Plan) -> None:
    """Until the bench hangs up."""
    crowd = Crowd(plan)
    await crowd.subscribe()
    reader, writer = await asyncio.open_connection(*plan.bench, limit=protocol.LINE_MAX)
    await protocol.write(writer, protocol.Done())
    while (command := await protocol.read_command(reader)) is not None:
        try:
            reply = await crowd.obey(command)
        except (MeshError, OSError, msgspec.MsgspecError) as error:
            reply = protocol.Failed(f"{type(error).__name__}: {error}")
        await protocol.write(writer, reply)


def main() -> None:
    uvloop.run(serve(msgspec.json.decode(sys.argv[1], type=Plan)))


if __name__ == "__main__":
    main()
