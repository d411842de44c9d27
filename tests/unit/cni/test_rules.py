"""The rules as rendered: what is in them, what is left out, and that equal wishes give equal comments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import nft, rules_nft
from cni.redirect import PodRules, RulesError, ToolMissing
from cni.rules_nft import MANGLE, NAT, OUTPUT, PREROUTING, RAW

WANTED = st.builds(
    PodRules,
    ipv6=st.booleans(),
    dns_capture=st.booleans(),
    bypass_inbound=st.booleans(),
    virtual_interfaces=st.lists(st.sampled_from(["vm0", "vm1", "docker0"]), unique=True).map(tuple),
)


def purposes(wanted: PodRules, table: str, chain: str) -> list[str]:
    return [purpose for purpose, _ in rules_nft.plan(wanted)[table][chain]]


def test_the_order_of_the_output_chain_is_the_contract() -> None:
    wanted = PodRules(ipv6=False, dns_capture=True)
    order = ["probe reply", "dns udp", "dns tcp", "reply to proxy", "own address", "outbound"]
    assert purposes(wanted, NAT, OUTPUT) == order


def test_the_order_of_the_prerouting_chain_is_the_contract() -> None:
    wanted = PodRules(virtual_interfaces=("vm0",))
    assert purposes(wanted, NAT, PREROUTING) == ["outbound of vm0", "probe", "probe", "inbound", "inbound"]


def test_bypass_leaves_out_inbound_and_the_probe_exemption_only() -> None:
    plain, bypass = PodRules(), PodRules(bypass_inbound=True)
    assert purposes(bypass, NAT, PREROUTING) == []
    assert purposes(bypass, NAT, OUTPUT) == purposes(plain, NAT, OUTPUT)


def test_the_raw_table_exists_for_dns_only() -> None:
    assert set(rules_nft.plan(PodRules())) == {NAT, MANGLE}
    assert set(rules_nft.plan(PodRules(dns_capture=True))) == {NAT, MANGLE, RAW}


def test_without_ipv6_nothing_names_it() -> None:
    assert "ip6" not in str(rules_nft.transaction(PodRules(ipv6=False, dns_capture=True)))


@given(WANTED)
def test_every_redirect_spares_ztunnels_own_packets_unless_it_is_by_interface(wanted: PodRules) -> None:
    for chain in rules_nft.plan(wanted)[NAT].values():
        for purpose, expression in chain:
            if "redirect" in expression[-1] and not purpose.startswith("outbound of"):
                assert rules_nft.NOT_PROXY in expression


@given(WANTED, WANTED)
def test_outlines_are_equal_for_equal_wishes_only(one: PodRules, other: PodRules) -> None:
    assert (rules_nft.outline(one) == rules_nft.outline(other)) is (one == other or _same_rules(one, other))


def _same_rules(one: PodRules, other: PodRules) -> bool:
    return rules_nft.plan(one) == rules_nft.plan(other)


@given(WANTED)
def test_the_transaction_first_clears_every_table_we_could_own(wanted: PodRules) -> None:
    head = rules_nft.transaction(wanted)[:6]
    assert [next(iter(command)) for command in head] == ["add", "delete"] * 3
    assert {command["delete"]["table"]["name"] for command in head[1::2]} == {NAT, MANGLE, RAW}


@given(WANTED)
def test_every_rule_has_a_counter_before_its_verdict(wanted: PodRules) -> None:
    for command in rules_nft.transaction(wanted):
        rule = command.get("add", {}).get("rule", {})
        if "comment" in rule:
            assert "counter" in rule["expr"][-2]
            assert len(rule["comment"].encode()) < 128


def test_what_stands_in_a_foreign_rule_shows() -> None:
    chain = {"chain": {"name": "x", "family": "inet", "table": NAT}}
    assert rules_nft.observed([chain, {"rule": {"chain": "x", "expr": [{"drop": None}]}}]) == {
        "x": (None, None, None, None, ["(no comment)"])
    }


def fake_nft(folder: str, script: str) -> dict[str, str]:
    path = f"{folder}/nft"
    with open(path, "w") as file:  # noqa: PTH123 - plain enough
        file.write(f"#!/bin/sh\n{script}\n")
    import os

    os.chmod(path, 0o755)  # noqa: PTH101, S103
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    "script, text",
    [
        ("echo 'Error: Operation not permitted' >&2; exit 1", "CAP_NET_ADMIN"),
        ("echo 'Error: Could not process rule: Operation not supported' >&2; exit 1", "kernel lacks nf_tables"),
        ("echo 'JSON support not compiled-in' >&2; exit 1", "nftables package with JSON"),
        ("exit 1", "failed without a message"),
        ("echo plain text", "printed no JSON"),
    ],
)
def test_errors_name_the_likely_cause(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    monkeypatch.setattr(nft, "ENVIRONMENT", fake_nft(str(tmp_path_factory.mktemp("bin")), script))
    with pytest.raises(RulesError, match=text):
        nft.table(None, NAT)


def test_a_hanging_nft_runs_into_the_deadline(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft, "ENVIRONMENT", fake_nft(str(tmp_path_factory.mktemp("bin")), "exec sleep 5"))
    monkeypatch.setattr(nft, "TIMEOUT_S", 0.1)
    with pytest.raises(RulesError, match=r"did not end within 0.1 s"):
        nft.table(None, NAT)


def test_a_missing_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(ToolMissing, match="install the package nftables"):
        nft.table(None, NAT)
