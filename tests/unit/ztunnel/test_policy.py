"""L4 authorization: every rule of matching, the order of evaluation, and what was consulted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcore.identity import Identity
from meshcore.model import (
    Authorization,
    Clause,
    IpMatch,
    Match,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from meshcore.records import Mask
from tests.support.world import cidr, exactly, ip
from ztunnel.policy import NONE_ALLOWED, Connection, Outcome, evaluate

CLIENT = Identity("cluster.local", "shop", "client")
CONNECTION = Connection(CLIENT, ip("10.0.0.1"), ip("10.0.0.2"), 8080)
PLAIN = CONNECTION._replace(peer=None)

DENY, ALLOW = PolicyAction.DENY, PolicyAction.ALLOW


def policy(
    *matches: Match, action: PolicyAction = ALLOW, rules: tuple[Rule, ...] | None = None, dry_run: bool = False
) -> Authorization:
    found = (Rule((Clause(matches),)),) if rules is None else rules
    return Authorization("p", "shop", PolicyScope.NAMESPACE, action, found, dry_run)


def run(*policies: Authorization, connection: Connection = CONNECTION) -> Outcome:
    return evaluate([(f"shop/p{i}", p) for i, p in enumerate(policies)], connection)


def matches(match: Match, connection: Connection = CONNECTION) -> bool:
    """Both actions must agree on whether the match holds."""
    allowed = run(policy(match), connection=connection).allowed
    denied = not run(policy(match, action=DENY), connection=connection).allowed
    assert allowed == denied
    return allowed


def test_no_rules_never_match() -> None:
    assert not run(policy(rules=())).allowed
    assert run(policy(rules=(), action=DENY)).allowed


def test_a_rule_without_clauses_matches_everything() -> None:
    assert run(policy(rules=(Rule(),))).allowed


def test_a_clause_without_matches_matches_everything() -> None:
    assert run(policy(rules=(Rule((Clause(),)),))).allowed


def test_a_match_without_attributes_never_matches() -> None:
    assert not matches(Match())


def test_rules_are_alternatives() -> None:
    no, yes = Match(destination_ports=(1,)), Match(destination_ports=(8080,))
    assert run(policy(rules=(Rule((Clause((no,)),)), Rule((Clause((yes,)),))))).allowed


def test_clauses_must_all_hold() -> None:
    no, yes = Clause((Match(destination_ports=(1,)),)), Clause((Match(destination_ports=(8080,)),))
    assert not run(policy(rules=(Rule((yes, no)),))).allowed
    assert run(policy(rules=(Rule((yes, yes)),))).allowed


def test_matches_of_a_clause_are_alternatives() -> None:
    assert run(policy(Match(), Match(destination_ports=(1,)), Match(destination_ports=(8080,)))).allowed


def test_attributes_of_a_match_must_all_hold() -> None:
    assert matches(Match(destination_ports=(8080,), namespaces=exactly("shop")))
    assert not matches(Match(destination_ports=(8080,), namespaces=exactly("other")))


def test_positive_and_negative_of_one_attribute_must_both_hold() -> None:
    assert not matches(Match(destination_ports=(80, 8080), not_destination_ports=(8080,)))
    assert not matches(Match(source_ips=(cidr("10.0.0.0/8"),), not_source_ips=(cidr("10.0.0.1/32"),)))
    assert matches(Match(source_ips=(cidr("10.0.0.0/8"),), not_source_ips=(cidr("10.0.0.9/32"),)))


@pytest.mark.parametrize(
    "wanted, holds",
    [
        (StringMatch(exact="cluster.local/ns/shop/sa/client"), True),
        (StringMatch(exact="spiffe://cluster.local/ns/shop/sa/client"), False),
        (StringMatch(prefix="cluster.local/ns/shop/"), True),
        (StringMatch(prefix="other/"), False),
        (StringMatch(suffix="/sa/client"), True),
        (StringMatch(suffix="/sa/other"), False),
        (StringMatch(presence=True), True),
    ],
)
def test_principals_compare_without_scheme(wanted: StringMatch, holds: bool) -> None:
    assert matches(Match(principals=(wanted,))) is holds
    assert matches(Match(not_principals=(wanted,))) is not holds


@pytest.mark.parametrize(
    "wanted",
    [StringMatch(presence=True), StringMatch(prefix=""), StringMatch(suffix=""), StringMatch(exact="")],
)
def test_without_identity_no_principal_matches(wanted: StringMatch) -> None:
    assert not matches(Match(principals=(wanted,)), PLAIN)
    assert matches(Match(not_principals=(wanted,)), PLAIN)


@pytest.mark.parametrize(
    "wanted, holds",
    [
        (StringMatch(prefix=""), True),
        (StringMatch(suffix=""), True),
        (StringMatch(exact=""), True),
        (StringMatch(presence=True), False),
        (StringMatch(exact="shop"), False),
    ],
)
def test_without_identity_the_namespace_is_the_empty_string(wanted: StringMatch, holds: bool) -> None:
    assert matches(Match(namespaces=(wanted,)), PLAIN) is holds
    assert matches(Match(not_namespaces=(wanted,)), PLAIN) is not holds


def test_service_accounts_ignore_the_trust_domain() -> None:
    wanted = Match(service_accounts=(ServiceAccountMatch("shop", "client"),))
    assert matches(wanted, CONNECTION._replace(peer=CLIENT._replace(trust_domain="elsewhere")))
    assert not matches(wanted, CONNECTION._replace(peer=CLIENT._replace(namespace="other")))
    assert not matches(wanted, PLAIN)
    assert matches(Match(not_service_accounts=wanted.service_accounts), PLAIN)


def test_cidrs_tolerate_host_bits_and_keep_families_apart() -> None:
    assert matches(Match(source_ips=(IpMatch(ip("10.0.0.77"), 24),)))
    assert matches(Match(destination_ips=(IpMatch(ip("10.9.9.9"), 8),)))
    assert not matches(Match(source_ips=(IpMatch(ip("::"), 0),)))
    assert matches(Match(source_ips=(IpMatch(ip("0.0.0.0"), 0),)))
    assert matches(Match(source_ips=(IpMatch(ip("::"), 0),)), CONNECTION._replace(src_ip=ip("fd00::1")))
    assert matches(Match(not_source_ips=(IpMatch(ip("::"), 0),)))


def test_strict_mtls_denies_plaintext_alone() -> None:
    strict = policy(Match(not_principals=(StringMatch(presence=True),)), action=DENY)
    assert run(strict).allowed
    assert run(strict, connection=PLAIN).reason == "explicitly denied by: shop/p0"


def test_strict_mtls_with_a_port_exception() -> None:
    strict = policy(Match(not_principals=(StringMatch(presence=True),), not_destination_ports=(9000,)), action=DENY)
    assert run(strict, connection=PLAIN._replace(dst_port=9000)).allowed
    assert not run(strict, connection=PLAIN).allowed


def test_without_policies_all_is_allowed_and_nothing_consulted() -> None:
    assert run() == Outcome(True, "", Mask(0), ())


def test_deny_wins_over_allow() -> None:
    everything = (Rule(),)
    assert run(policy(rules=everything), policy(rules=everything, action=DENY)).reason == (
        "explicitly denied by: shop/p1"
    )


def test_with_allow_policies_one_must_match() -> None:
    assert run(policy(rules=()), policy(rules=())).reason == NONE_ALLOWED
    assert run(policy(rules=()), policy(rules=(Rule(),))).allowed


def test_deny_policies_that_do_not_match_allow() -> None:
    assert run(policy(rules=(), action=DENY)).allowed


def test_dry_run_changes_nothing_and_is_told() -> None:
    outcome = run(
        policy(Match(source_ips=(cidr("10.0.0.0/8"),)), action=DENY, dry_run=True), policy(rules=(), dry_run=True)
    )
    assert outcome.allowed
    assert outcome.consulted == Mask(0)
    assert outcome.dry_run == (
        "dry run: would be denied by: shop/p0",
        "dry run: no allow policies match",
    )
    assert run(policy(rules=(Rule(),), dry_run=True)).dry_run == ("dry run: allowed by: shop/p0",)


@pytest.mark.parametrize(
    "match, consulted",
    [
        (Match(principals=exactly("x")), Mask.PEER),
        (Match(not_namespaces=exactly("x")), Mask.PEER),
        (Match(service_accounts=(ServiceAccountMatch("x", "y"),)), Mask.PEER),
        (Match(destination_ports=(1,)), Mask.DST_PORT),
        (Match(not_destination_ips=(cidr("10.0.0.0/8"),)), Mask.DST_IP),
        (Match(source_ips=(cidr("11.0.0.0/8"),)), Mask.SRC_IP),
        (Match(principals=exactly("x"), source_ips=(cidr("10.0.0.0/8"),)), Mask.PEER),
        (Match(), Mask(0)),
    ],
)
def test_only_what_was_read_counts_as_consulted(match: Match, consulted: Mask) -> None:
    assert run(policy(match)).consulted == consulted


# Few values each, so that random policies and connections meet.
NAMESPACES = st.sampled_from(["", "a", "ab", "b"])
PEERS = st.one_of(
    st.none(), st.builds(Identity, st.sampled_from(["td", "t2"]), st.sampled_from(["a", "ab", "b"]), NAMESPACES)
)
IPS = st.sampled_from([ip("10.0.0.1"), ip("10.0.1.1"), ip("fd00::1"), ip("fd00::2")])
PORTS = st.sampled_from([80, 443, 8080])
CONNECTIONS = st.builds(Connection, PEERS, IPS, IPS, PORTS)
TEXTS = st.sampled_from(["", "a", "b", "td/ns/a/sa/a", "td/", "/sa/b"])
STRINGS = st.one_of(
    st.builds(StringMatch, exact=TEXTS),
    st.builds(lambda text: StringMatch(prefix=text), TEXTS),
    st.builds(lambda text: StringMatch(suffix=text), TEXTS),
    st.just(StringMatch(presence=True)),
)
CIDRS = st.builds(lambda address, cut: IpMatch(address, 8 * len(address) - cut), IPS, st.integers(0, 32))
ACCOUNTS = st.builds(ServiceAccountMatch, NAMESPACES, NAMESPACES)


def some(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.one_of(st.just(()), st.lists(values, max_size=2).map(tuple))


MATCHES = st.builds(
    Match,
    *(some(kind) for kind in (STRINGS, STRINGS, STRINGS, STRINGS, CIDRS, CIDRS, CIDRS, CIDRS, PORTS, PORTS)),
    some(ACCOUNTS),
    some(ACCOUNTS),
)
RULES = st.builds(Rule, st.lists(st.builds(Clause, some(MATCHES)), max_size=2).map(tuple))
POLICIES = st.lists(
    st.builds(
        Authorization,
        st.just("p"),
        st.just("ns"),
        st.just(PolicyScope.NAMESPACE),
        st.sampled_from(PolicyAction),
        st.lists(RULES, max_size=2).map(tuple),
        st.booleans(),
    ),
    max_size=4,
)


@given(POLICIES, CONNECTIONS, CONNECTIONS)
def test_connections_equal_in_what_was_consulted_get_the_same_answer(
    policies: list[Authorization], one: Connection, other: Connection
) -> None:
    named = [(f"ns/p{i}", p) for i, p in enumerate(policies)]
    outcome = evaluate(named, one)
    twin = Connection(
        one.peer if outcome.consulted & Mask.PEER else other.peer,
        one.src_ip if outcome.consulted & Mask.SRC_IP else other.src_ip,
        one.dst_ip if outcome.consulted & Mask.DST_IP else other.dst_ip,
        one.dst_port if outcome.consulted & Mask.DST_PORT else other.dst_port,
    )
    assert evaluate(named, twin)._replace(dry_run=()) == outcome._replace(dry_run=())
