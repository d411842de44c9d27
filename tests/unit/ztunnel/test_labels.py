"""What telemetry says: Prometheus labels, access-line fragments, baggage, and the numbers workers use."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcore.model import Locality, Workload, WorkloadType
from meshcore.records import SLOT_BYTES, Action, AuthorityKind, Endpoint, Flag, Mask, Protocol, SlotCell, Verdict
from ztunnel import baggage
from ztunnel.baggage import Baggage
from ztunnel.ids import IdSource, LabelTable, SansTable, failures, needed
from ztunnel.labels import NOBODY, OVERFLOW, LabelSet, Party, Target, fragments, principal, series

SERVER = Workload(
    uid="u",
    name="server-abc",
    namespace="shop",
    trust_domain="cluster.local",
    service_account="web",
    canonical_name="server",
    canonical_revision="v2",
    workload_name="server",
    cluster_id="Kubernetes",
    locality=Locality("eu", "eu-a"),
)
CELLS = SLOT_BYTES // 8
TRAFFIC = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
]
REGIONS = ["source_region", "source_zone", "destination_region", "destination_zone"]


def label(name: str, *, pod: str = "") -> LabelSet:
    return LabelSet("source", Party(pod=pod, workload=name), NOBODY, Target(), mutual_tls=False)


def full() -> LabelSet:
    return LabelSet(
        "source",
        Party.of(SERVER, principal(SERVER)),
        Party.of(SERVER, principal(SERVER)),
        Target("web.shop", "shop", "web"),
        mutual_tls=True,
    )


def pairs(text: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text))


def test_traffic_labels_are_in_order() -> None:
    assert list(pairs(series(full()).text(Flag.NONE))) == TRAFFIC + REGIONS


def test_traffic_label_values() -> None:
    found = pairs(series(full()).text(Flag.DENY))
    assert found["source_principal"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert found["source_app"] == "server"
    assert found["source_version"] == "v2"
    assert found["destination_service_name"] == "web"
    assert found["response_flags"] == "DENY"
    assert found["request_protocol"] == "tcp"
    assert found["connection_security_policy"] == "mutual_tls"
    assert found["destination_zone"] == "eu-a"


def test_region_labels_need_somebody_known() -> None:
    nobody = LabelSet("source", NOBODY._replace(principal="spiffe://a"), NOBODY, Target(), mutual_tls=True)
    found = pairs(series(nobody).text(Flag.NONE))
    assert list(found) == TRAFFIC
    assert found["destination_workload"] == "unknown"


def test_without_a_failure_the_flag_is_a_dash() -> None:
    assert 'response_flags="-"' in series(full()).text(Flag.NONE)


def test_label_values_are_escaped() -> None:
    text = series(label('a"b\\c\nd')).text(Flag.NONE)
    assert 'source_workload="a\\"b\\\\c\\nd"' in text
    assert "\n" not in text


def test_plain_fragments() -> None:
    source, destination = fragments(full(), json=False)
    assert source == (
        b'src.workload="server-abc" src.namespace="shop" src.identity="spiffe://cluster.local/ns/shop/sa/web" '
        b'src.cluster="Kubernetes"'
    )
    assert destination == (
        b'dst.service="web.shop" dst.workload="server-abc" dst.namespace="shop" '
        b'dst.identity="spiffe://cluster.local/ns/shop/sa/web" dst.cluster="Kubernetes" direction="outbound"'
    )


def test_fragments_leave_out_what_is_unknown_and_fall_back_to_the_canonical_service() -> None:
    labels = LabelSet("destination", Party(canonical="curl"), NOBODY, Target(), mutual_tls=False)
    assert fragments(labels, json=False) == (b'src.workload="curl"', b'direction="inbound"')
    assert fragments(OVERFLOW, json=False) == (b"", b"")


@given(st.text(max_size=600), st.text(max_size=600))
def test_fragments_stay_on_their_line_and_are_json(name: str, host: str) -> None:
    try:
        (name + host).encode()
    except UnicodeEncodeError:  # lone surrogates cannot come out of a decoded record
        return
    labels = LabelSet("source", Party(pod=name), NOBODY, Target(hostname=host), mutual_tls=False)
    source, destination = fragments(labels, json=True)
    decoded = json.loads(b"{" + b",".join(part for part in (source, destination) if part) + b"}")
    assert decoded.get("src.workload", "") == name[:512]
    assert decoded.get("dst.service", "") == host[:512]
    for part in (source, destination, *fragments(labels, json=False)):
        assert len(part) < 65536
        assert part.decode().isprintable() or not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", part.decode())


def test_baggage_is_rendered_in_order_without_empties() -> None:
    assert baggage.render(SERVER) == (
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=server,service.name=server,"
        b"service.version=v2,cloud.region=eu,cloud.availability_zone=eu-a"
    )
    bare = Workload(uid="u", name="n", namespace="", workload_type=WorkloadType.JOB, workload_name="batch")
    assert baggage.render(bare) == b"k8s.job.name=batch"


def test_baggage_cannot_break_out_of_its_header() -> None:
    assert baggage.render(Workload(uid="u", name="n", namespace="a\r\nx: y")) == b"k8s.namespace.name=ax: y"


@pytest.mark.parametrize(
    "text, found",
    [
        ("", Baggage()),
        ("k8s.cronjob.name=j,unknown=1,service.name=", Baggage(workload="j")),
        ("k8s.namespace.name=a=b,cloud.region=eu", Baggage(namespace="a", region="eu")),
        (" k8s.namespace.name=a", Baggage()),
        ("service.name=a%20b,service.name", Baggage(service="a%20b")),
    ],
)
def test_baggage_is_parsed_literally(text: str, found: Baggage) -> None:
    assert baggage.parse(text) == found


def test_baggage_round_trip() -> None:
    assert baggage.parse(baggage.render(SERVER).decode()) == Baggage(
        "Kubernetes", "shop", "server", "server", "v2", "eu", "eu-a"
    )


def test_a_side_known_by_baggage_has_its_workload_for_app() -> None:
    party = Party.of_baggage(Baggage(workload="w", service="s"), "spiffe://x")
    assert (party.app, party.canonical, party.principal) == ("w", "s", "spiffe://x")


class Pages:
    """Counter cells of slots, as the control process sums them over its workers."""

    def __init__(self) -> None:
        self.slots: dict[int, list[int]] = {}

    def read(self, number: int) -> list[int]:
        return self.slots.setdefault(number, [0] * CELLS)

    def count(self, number: int, cell: int, by: int = 1) -> None:
        self.read(number)[cell] += by


def sweep_twice(table: LabelTable, pages: Pages) -> list[int]:
    return table.sweep(pages.read) + table.sweep(pages.read)


def test_equal_label_sets_share_a_number_and_zero_is_the_overflow_set() -> None:
    table = LabelTable()
    number = table.intern(label("a"))
    assert number > 0
    assert table.intern(label("a")) == number
    assert table[number] == label("a")
    assert table[0] is OVERFLOW


def test_when_most_numbers_are_taken_pods_share_theirs_and_then_the_overflow_set() -> None:
    table = LabelTable(limit=5)
    for i in range(4):
        table.intern(label("w", pod=f"pod-{i}"))
    shared = table.intern(label("w", pod="pod-8"))
    assert len(table) == 4
    assert shared == 0
    table = LabelTable(limit=9)
    for i in range(7):
        assert table.intern(label("w", pod=f"pod-{i}")) != 0
    shared = table.intern(label("w", pod="pod-8"))
    assert table[shared] == label("w")
    assert table.intern(label("w", pod="pod-9")) == shared


def test_a_number_ends_after_a_whole_interval_without_references() -> None:
    table, pages = LabelTable(), Pages()
    number = table.intern(label("a"))
    table.retain([number])
    assert sweep_twice(table, pages) == []
    table.release([number])
    assert table.sweep(pages.read) == []
    assert table.sweep(pages.read) == [number]
    assert len(table) == 0


def test_a_number_asked_for_again_gets_another_interval() -> None:
    table, pages = LabelTable(), Pages()
    number = table.intern(label("a"))
    assert table.sweep(pages.read) == []
    assert table.intern(label("a")) == number
    assert table.sweep(pages.read) == []
    assert table.sweep(pages.read) == [number]


def test_a_number_with_open_connections_goes_on() -> None:
    table, pages = LabelTable(), Pages()
    number = table.intern(label("a"))
    pages.count(number, SlotCell.OPENED, 2)
    pages.count(number, SlotCell.CLOSED)
    assert sweep_twice(table, pages) == []
    pages.count(number, SlotCell.FAILED + Flag.CONNECT)
    assert sweep_twice(table, pages) == [number]


def test_counts_outlive_their_number_and_do_not_leak_into_the_next_owner() -> None:
    table, pages = LabelTable(limit=2), Pages()
    first = table.intern(label("a", pod="p"))
    pages.count(first, SlotCell.OPENED, 3)
    pages.count(first, SlotCell.CLOSED, 3)
    pages.count(first, SlotCell.SENT, 100)
    assert sweep_twice(table, pages) == [first]
    second = table.intern(label("b"))
    assert second == first
    pages.count(second, SlotCell.OPENED)
    totals = {labels.source.workload: cells for labels, cells in table.totals(pages.read)}
    assert totals["a"][SlotCell.OPENED] == 3
    assert totals["a"][SlotCell.SENT] == 100
    assert totals["b"][SlotCell.OPENED] == 1
    assert totals["b"][SlotCell.SENT] == 0


@given(st.lists(st.tuples(st.sampled_from(["use", "idle", "sweep"]), st.integers(0, 5)), max_size=60))
def test_no_count_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    table, pages = LabelTable(limit=4), Pages()
    expected: dict[LabelSet, int] = {}
    held: list[int] = []
    for what, which in steps:
        if what == "use":
            number = table.intern(label(f"w{which}"))
            table.retain([number])
            held.append(number)
            pages.count(number, SlotCell.OPENED)
            pages.count(number, SlotCell.CLOSED)
            expected[table[number]] = expected.get(table[number], 0) + 1
        elif what == "idle" and held:
            table.release([held.pop(which % len(held))])
        elif what == "sweep":
            table.sweep(pages.read)
    assert {labels: cells[SlotCell.OPENED] for labels, cells in table.totals(pages.read)} == expected


def test_sans_lists_are_interned_and_never_reuse_a_number() -> None:
    table = SansTable()
    first = table.intern(("spiffe://a", "spiffe://b"))
    assert table.intern(("spiffe://a", "spiffe://b")) == first
    assert table.intern(("spiffe://b", "spiffe://a")) != first
    table.retain([first])
    assert len(table.sweep() + table.sweep()) == 1
    table.release([first])
    assert table.sweep() + table.sweep() == [first]
    assert table.intern(("spiffe://a", "spiffe://b")) > first + 1


def test_a_verdict_names_what_a_worker_must_know_first() -> None:
    hop = Endpoint(b"\0" * 4, 1, 1, Protocol.HBONE, AuthorityKind.ENDPOINT, 1, 5, 6)
    verdict = Verdict(Action.BALANCE, Mask(0), 7, endpoints=(hop, hop._replace(sans_id=0, label_id=0)))
    assert needed(verdict) == ({6, 7}, {5})


def test_retaining_a_verdict_keeps_all_that_it_names() -> None:
    ids, pages = IdSource(), Pages()
    hop = Endpoint(
        b"\0" * 4,
        1,
        1,
        Protocol.HBONE,
        AuthorityKind.ENDPOINT,
        1,
        ids.sans.intern(("spiffe://a",)),
        ids.labels.intern(label("a")),
    )
    verdict = Verdict(Action.BALANCE, Mask(0), hop.label_id, endpoints=(hop, hop))
    ids.retain(verdict)
    assert sweep_twice(ids.labels, pages) == []
    assert ids.sans.sweep() + ids.sans.sweep() == []
    ids.release(verdict)
    assert sweep_twice(ids.labels, pages) == [hop.label_id]
    assert ids.sans.sweep() + ids.sans.sweep() == [hop.sans_id]


def test_failures_name_their_flag() -> None:
    cells = [0] * CELLS
    cells[SlotCell.FAILED + Flag.DENY] = 2
    assert list(failures(cells)) == [(Flag.DENY, 2)]
