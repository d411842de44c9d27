"""L4 authorization: may this connection reach this workload, and what was looked at to tell.

Evaluation stops at the first answer, and `consulted` holds exactly the fields that were read on
the way there. Two connections that agree in those fields therefore take the same way to the same
answer, which is what lets one verdict serve many connections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from meshcore.identity import Identity
from meshcore.model import Authorization, IpMatch, Match, PolicyAction, Rule, ServiceAccountMatch, StringMatch
from meshcore.records import Mask

# Plain numbers and names of our own: combining enum flags and finding the members of an enum class took a quarter of a
# decision under many policies.
_PEER: Final = int(Mask.PEER)
_SRC_IP: Final = int(Mask.SRC_IP)
_DST_IP: Final = int(Mask.DST_IP)
_DST_PORT: Final = int(Mask.DST_PORT)
_DENY: Final = PolicyAction.DENY
_ALLOW: Final = PolicyAction.ALLOW

NONE_ALLOWED: Final = "allow policies exist, but none allowed"


class Connection(NamedTuple):
    """What policies see. `src_ip` is the TCP peer; `dst_port` the port that will be dialled."""

    peer: Identity | None
    src_ip: bytes
    dst_ip: bytes
    dst_port: int


class Outcome(NamedTuple):
    allowed: bool
    reason: str
    """Why not; empty when allowed."""
    consulted: Mask
    """Of PEER, SRC_IP, DST_IP and DST_PORT, those that were read."""
    dry_run: tuple[str, ...]
    """What dry-run policies would have done; for the log, changes nothing."""


def evaluate(policies: Iterable[tuple[str, Authorization]], connection: Connection) -> Outcome:
    """Decide by (name, policy) pairs: DENY first, then ALLOW; without any ALLOW policy all is allowed."""
    deny: list[tuple[str, Authorization]] = []
    allow: list[tuple[str, Authorization]] = []
    dry: list[tuple[str, Authorization]] = []
    for pair in policies:
        policy = pair[1]
        (dry if policy.dry_run else deny if policy.action is _DENY else allow).append(pair)
    notes = _dry_run(dry, connection) if dry else ()

    seen = _Matcher(connection)
    for name, policy in deny:
        if seen.policy(policy):
            return Outcome(False, f"explicitly denied by: {name}", Mask(seen.consulted), notes)
    if not allow or any(seen.policy(policy) for _, policy in allow):
        return Outcome(True, "", Mask(seen.consulted), notes)
    return Outcome(False, NONE_ALLOWED, Mask(seen.consulted), notes)


def _dry_run(policies: list[tuple[str, Authorization]], connection: Connection) -> tuple[str, ...]:
    seen = _Matcher(connection)
    denied = [name for name, p in policies if p.action is _DENY and seen.policy(p)]
    notes = [f"dry run: would be denied by: {name}" for name in denied]
    allow = [(name, p) for name, p in policies if p.action is _ALLOW]
    allowed = [name for name, p in allow if seen.policy(p)]
    notes += [f"dry run: allowed by: {name}" for name in allowed]
    if allow and not allowed:
        notes.append("dry run: no allow policies match")
    return tuple(notes)


class _Matcher:
    """Compares one connection and notes what it read of it.

    Within a match the field with the fewest values in a mesh is read first (identity, then port, then addresses):
    what is decided early is shared by more connections.
    """

    __slots__ = ("_connection", "_peer_namespace", "_peer_principal", "consulted")

    def __init__(self, connection: Connection) -> None:
        peer = connection.peer
        self._connection = connection
        self._peer_principal = None if peer is None else peer.principal
        self._peer_namespace = "" if peer is None else peer.namespace
        self.consulted = 0

    def policy(self, policy: Authorization) -> bool:
        return any(map(self._rule, policy.rules))

    def _rule(self, rule: Rule) -> bool:
        return all(not clause.matches or any(map(self._match, clause.matches)) for clause in rule.clauses)

    def _match(self, match: Match) -> bool:
        constrained = False
        if _names_peer(match):
            constrained = True
            self.consulted |= _PEER
            if not self._peer(match):
                return False
        if match.destination_ports or match.not_destination_ports:
            constrained = True
            self.consulted |= _DST_PORT
            port = self._connection.dst_port
            if (match.destination_ports and port not in match.destination_ports) or port in match.not_destination_ports:
                return False
        if match.destination_ips or match.not_destination_ips:
            constrained = True
            self.consulted |= _DST_IP
            if not _ip(match.destination_ips, match.not_destination_ips, self._connection.dst_ip):
                return False
        if match.source_ips or match.not_source_ips:
            constrained = True
            self.consulted |= _SRC_IP
            if not _ip(match.source_ips, match.not_source_ips, self._connection.src_ip):
                return False
        return constrained

    def _peer(self, match: Match) -> bool:
        # Most fields of a match are empty: a look at one is cheaper than a call that finds nothing in it.
        principal, namespace, peer = self._peer_principal, self._peer_namespace, self._connection.peer
        if match.principals and not _principal(match.principals, principal):
            return False
        if match.not_principals and _principal(match.not_principals, principal):
            return False
        if match.namespaces and not _one_of(match.namespaces, namespace):
            return False
        if match.not_namespaces and _one_of(match.not_namespaces, namespace):
            return False
        if match.service_accounts and not _account(match.service_accounts, peer):
            return False
        return not (match.not_service_accounts and _account(match.not_service_accounts, peer))


def _names_peer(match: Match) -> bool:
    return bool(
        match.principals
        or match.not_principals
        or match.namespaces
        or match.not_namespaces
        or match.service_accounts
        or match.not_service_accounts
    )


def _principal(wanted: tuple[StringMatch, ...], principal: str | None) -> bool:
    """Without identity nothing matches, not even a prefix of no characters."""
    return principal is not None and _one_of(wanted, principal)


def _account(wanted: tuple[ServiceAccountMatch, ...], peer: Identity | None) -> bool:
    """The trust domain plays no role."""
    return peer is not None and any(
        one.namespace == peer.namespace and one.service_account == peer.service_account for one in wanted
    )


def _one_of(wanted: tuple[StringMatch, ...], value: str) -> bool:
    return any(_string(one, value) for one in wanted)


def _string(wanted: StringMatch, value: str) -> bool:
    if wanted.exact is not None:
        return value == wanted.exact
    if wanted.prefix is not None:
        return value.startswith(wanted.prefix)
    if wanted.suffix is not None:
        return value.endswith(wanted.suffix)
    return wanted.presence and value != ""


def _ip(wanted: tuple[IpMatch, ...], unwanted: tuple[IpMatch, ...], ip: bytes) -> bool:
    return (not wanted or any(_cidr(one, ip) for one in wanted)) and not any(_cidr(one, ip) for one in unwanted)


def _cidr(wanted: IpMatch, ip: bytes) -> bool:
    """Families never match each other; host bits of the CIDR are ignored."""
    if len(wanted.address) != len(ip):
        return False
    shift = 8 * len(ip) - wanted.length
    return int.from_bytes(wanted.address, "big") >> shift == int.from_bytes(ip, "big") >> shift
