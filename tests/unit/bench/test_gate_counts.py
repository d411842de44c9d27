"""The counting half of the gate: reading callgrind, comparing with a baseline, changing a baseline."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench import config
from bench.errors import BenchError
from bench.gate import baselines, callgrind, counts, environment, memory, replay
from bench.gate.baselines import Baseline, Finding, failed
from bench.gate.counts import CASES, Count
from bench.gate.memory import Ceilings, Held
from meshcore import flowtable
from ztunnel import config as ztunnel_config

PIECE = f"""\
# callgrind format
version: 1
desc: Trigger: --dump-before=recvmsg

positions: line
events: Ir
summary: 160


ob=(21) {config.BUILD}/ztunnel/_log.cpython-311-x86_64-linux-gnu.so
fl=(330) ???
fn=(69926) count_opened
0 14

fn=(60720) tunnel_read
12 76
cob=(3) /usr/lib/x86_64-linux-gnu/libc.so.6
cfi=(5) ???
cfn=(9) read
calls=2 0
0 1000
+4 10

ob=(3)
fl=(5)
fn=(9)
* 60

totals: 160
"""
HERE = dict.fromkeys((*environment.WORKER, *environment.INTERPRETED), "1")


def test_a_piece_is_told_apart_by_object_file() -> None:
    found = callgrind.parse(PIECE)
    assert found == {
        f"{config.BUILD}/ztunnel/_log.cpython-311-x86_64-linux-gnu.so": 100,
        "/usr/lib/x86_64-linux-gnu/libc.so.6": 60,
    }


@pytest.mark.parametrize("total", ["totals: 161\n", ""])
def test_a_piece_that_does_not_add_up_is_refused(total: str) -> None:
    with pytest.raises(BenchError, match="add up to 160 instructions"):
        callgrind.parse(PIECE.replace("totals: 160\n", total))


def test_pieces_are_read_in_order_as_they_become_complete(tmp_path: Path) -> None:
    parts = callgrind.Parts(tmp_path / "out")
    assert parts.read() == []
    for number in range(1, 12):
        (tmp_path / f"out.{number}").write_text(f"ob=(1) a\nfn=(1) f\n0 {number}\ntotals: {number}\n")
    (tmp_path / "out.12").write_text("ob=(1) a\nfn=(1) f\n0 1")
    assert [part.total() for part in parts.read(2)] == [1, 2]
    assert [part.total() for part in parts.read()] == list(range(3, 12))
    (tmp_path / "out.12").write_text("ob=(1) a\nfn=(1) f\n0 12\ntotals: 12\n")
    assert [part.total() for part in parts.read()] == [12]


def test_a_count_is_per_piece_and_knows_what_is_ours() -> None:
    profile = Counter(callgrind.parse(PIECE))
    profile["/elsewhere/ztunnel/_log.so"] = 30
    profile["/usr/lib/libm.so.6"] = 4
    found = counts.count(profile, 10, CASES["request"])
    assert found == Count(19.4, 10.0, {"ztunnel/_log": 10.0, "libc.so.6": 6.0, "_log.so": 3.0})
    assert counts.count(profile, 10, CASES["policy"]).ours is None


def a_count(total: float, ours: float, log: float = 0.0) -> Count:
    return Count(total, ours, {"ztunnel/_flow": ours, "libc.so.6": total - ours - log, "ztunnel/_log": log})


def a_baseline(**cases: Count) -> Baseline:
    return Baseline(HERE, cases, [])


def compare(found: Count, **here: str) -> Finding:
    """Against a total of 1,000, 100 of them ours."""
    (finding,) = baselines.compare({"request": found}, HERE | here, a_baseline(request=a_count(1000, 100)))
    return finding


def test_what_has_not_changed_passes() -> None:
    assert compare(a_count(1029, 102)) == (True, "request", "total 1,029 (+2.9%), ours 102 (+2.0%)")


def test_growth_of_the_total_fails_and_names_what_grew() -> None:
    ok, _, text = compare(a_count(1040, 100, log=25))
    assert ok is False
    assert text == "total 1,040 (+4.0%, limit +3%), ours 100 (+0.0%); grown most: ztunnel/_log +25, libc.so.6 +15"


def test_growth_of_our_own_part_fails_even_if_it_is_small_beside_the_total() -> None:
    ok, _, text = compare(a_count(1004, 104))
    assert ok is False
    assert "ours 104 (+4.0%, limit +3%)" in text


def test_an_improvement_passes_and_asks_to_be_recorded() -> None:
    ok, _, text = compare(a_count(960, 100))
    assert ok is True
    assert "improved: update the baseline" in text
    assert "improved" not in compare(a_count(980, 98)).text


def test_with_another_library_only_our_own_part_is_compared() -> None:
    ok, _, text = compare(a_count(2000, 101), openssl="2")
    assert ok is True
    assert text == "ours 101 (+1.0%), total 2,000 not compared: openssl 2 here, 1 in the baseline"
    assert compare(a_count(2000, 104), openssl="2").ok is False


def test_with_another_compiler_nothing_is_compared_and_nothing_passes_for_it() -> None:
    ok, _, text = compare(a_count(2000, 200), gcc="2")
    assert ok is None
    assert text.count("gcc 2 here, 1 in the baseline") == 2


def test_what_a_case_does_not_depend_on_does_not_matter() -> None:
    base = Count(1000, None, {})
    here = HERE | {"gcc": "2", "openssl": "2"}
    (finding,) = baselines.compare({"policy": base}, here, a_baseline(policy=base))
    assert finding == (True, "policy", "total 1,000 (+0.0%)")
    assert compare(a_count(1000, 100), python="2").ok is True


def test_a_case_without_baseline_fails() -> None:
    (finding,) = baselines.compare({"bulk": a_count(10, 1)}, HERE, a_baseline())
    assert finding.ok is False
    assert "has no baseline" in finding.text


def test_a_baseline_of_no_case_fails() -> None:
    one = a_count(10, 1)
    found = baselines.compare({"bulk": one}, HERE, a_baseline(bulk=one, bulky=one))
    assert [(finding.ok, finding.case) for finding in found] == [(True, "bulk"), (False, "bulky")]
    assert failed(found)
    assert not failed([Finding(None, "bulk", ""), Finding(True, "bulk", "")])


def test_an_update_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--reason"):
        baselines.update({"bulk": a_count(10, 1)}, HERE, " \n", tmp_path / "file.json")
    assert list(tmp_path.iterdir()) == []


def test_an_update_is_read_back_with_its_history(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    baselines.update({"stream": a_count(500, 50), "bulk": a_count(1000, 100)}, HERE, "the first", path)
    baselines.update({"bulk": a_count(1055, 100), "request": a_count(7, 7)}, HERE, " a second\n copy ", path)
    found = baselines.read(path)
    assert list(found.cases) == ["request", "bulk", "stream"]
    assert found.cases["bulk"].total == 1055
    assert [(each.reason, each.percent) for each in found.reasons] == [
        ("the first", {"stream": None, "bulk": None}),
        ("a second copy", {"bulk": 5.5, "request": None}),
    ]
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_cases_of_two_environments_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    baselines.update({"stream": a_count(500, 50), "bulk": a_count(1000, 100)}, HERE, "first", path)
    before = path.read_bytes()
    with pytest.raises(BenchError, match="update all cases together, not only bulk: gcc 2 here, 1 in the baseline"):
        baselines.update({"bulk": a_count(1000, 100)}, HERE | {"gcc": "2"}, "new compiler", path)
    assert path.read_bytes() == before
    both = {"stream": a_count(400, 40), "bulk": a_count(900, 90)}
    assert baselines.update(both, HERE | {"gcc": "2"}, "new compiler", path).environment["gcc"] == "2"


@pytest.mark.parametrize("content", ["", "{}", '{"environment": {}, "cases": {"bulk": {}}, "reasons": []}', "[1"])
def test_a_file_that_is_no_baseline_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=r"file\.json: "):
        baselines.read(path)
    with pytest.raises(BenchError, match=r"gone\.json: there is no baseline"):
        baselines.read(tmp_path / "gone.json")


def test_the_committed_baseline_has_every_case_and_a_reason() -> None:
    found = baselines.read()
    assert list(found.cases) == list(CASES)
    assert all(found.environment[name] for name in {*environment.WORKER, *environment.INTERPRETED})
    assert all(each.reason for each in found.reasons)
    for name, each in found.cases.items():
        assert sum(each.objects.values()) == pytest.approx(each.total, rel=0.01)
        assert (each.ours is None) == (name == "policy")


def test_the_environment_is_known_here() -> None:
    here = environment.describe()
    assert set(here) == {*environment.WORKER, *environment.INTERPRETED}
    assert all(here.values()), here
    assert here["cython"].count(".") == 2
    assert environment.differences(here, here, environment.WORKER) == []
    other = environment.differences({"gcc": "2"}, {}, ("gcc", "libc"))
    assert other == ["gcc 2 here, unknown in the baseline"]


def test_a_case_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such case: speed; there are request, bulk"):
        counts.measure(["bulk", "speed"], tmp_path, print)


def test_the_replay_sets_what_ztunnel_knows() -> None:
    default, long = (ztunnel_config.load(each).worker_config(log_access=True) for each in ({}, replay._SETTINGS))
    changed = {name for name in long if long[name] != default[name]}
    assert len(changed) == len(replay._SETTINGS)
    assert {long[name] for name in changed} == {3_600_000}


def test_a_program_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = counts.Case("nothing", 1, (), program=lambda _: [sys.executable, "-c", "raise SystemExit('no luck')"])
    monkeypatch.setattr(counts, "CASES", {"lookup": broken})
    with pytest.raises(BenchError, match="lookup under callgrind failed with status 1: no luck"):
        counts.measure(["lookup"], tmp_path, print)


def test_an_error_ends_the_program_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    sleeping = tmp_path / "sleeping"
    program = f"import pathlib, time; pathlib.Path({str(sleeping)!r}).touch(); time.sleep(60)"

    class Broken:
        def __init__(self, directory: Path) -> None:
            while not sleeping.exists():
                assert time.monotonic() - began < 30
                time.sleep(0.01)
            raise BenchError("no pair")

    monkeypatch.setattr(counts, "Replay", Broken)
    slow = counts.Case("nothing", 1, (), program=lambda _: [sys.executable, "-c", program])
    monkeypatch.setattr(counts, "CASES", {"request": counts.CASES["request"], "lookup": slow})
    with pytest.raises(BenchError, match="no pair"):
        counts.measure(["request", "lookup"], tmp_path, print)
    assert time.monotonic() - began < 50


def test_a_write_of_the_replay_fits_one_record() -> None:
    assert max(map(len, (replay.REQUEST, replay.ANSWER, replay.BLOCK))) + 9 <= 16384
    assert len(replay.BLOCK) * replay.BLOCKS == pytest.approx(2**20, rel=0.001)


def test_a_lookup_under_many_masks_finds_its_entry() -> None:
    for masks in (1, 2, 16):
        assert flowtable.bench_lookup(500, 2000, masks) > 0
    with pytest.raises(ValueError, match="masks=17 is not between 1 and 16"):
        flowtable.bench_lookup(10, 10, 17)


CEILINGS = Ceilings(private_bytes=2000, growth_bytes_per_1000=100, why={})


def test_memory_is_judged_by_worker() -> None:
    held = Held({"client": [1, 2, 2001], "server": [5000, 1000, 2000]}, {"client": 100.0, "server": 101.0})
    assert [finding.ok for finding in memory.judge(held, CEILINGS)] == [False, True, True, False]


def test_the_committed_ceilings_say_why() -> None:
    found = memory.read()
    assert set(found.why) == set(json.loads(msgspec.json.encode(found))) - {"why"}
    assert 0 < found.growth_bytes_per_1000 < 32 * 1000  # the least that a leak of one block per connection would be


def test_ceilings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"memory\.json"):
        memory.read(tmp_path / "memory.json")
