"""ManifestDirectory: what is in force after any sequence of edits, and what its errors say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshcore import yamldoc
from meshcore.errors import ConfigError
from meshcore.manifests import (
    FILE_BYTES_MAX,
    ManifestDirectory,
    Scan,
    dotted,
    merge_status,
    remove_status,
    write_atomic,
    write_status,
)
from tests.fuzz.fuzz_manifests import SEEDS, fuzz_one

POD = """apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: {name}}}
spec:
  containers:
  - name: app
    ports:
    - containerPort: {port}
"""


def pod(name: str, port: int = 80) -> str:
    return POD.format(name=name, port=port)


def put(path: Path, text: str) -> None:
    """Write a file whose clock says that nobody is writing to it any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    put.clock += 1  # type: ignore[attr-defined]
    os.utime(path, (put.clock, put.clock))  # type: ignore[attr-defined]


put.clock = 1_000_000  # type: ignore[attr-defined]


def names(scan: Scan) -> list[str]:
    return sorted(name for _, _, name in scan.objects)


def test_several_documents_folders_and_suffixes(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", f"# comment\n---\n{pod('a')}---\n---\n{pod('b')}")
    put(tmp_path / "deep" / "c.yml", pod("c"))
    put(tmp_path / "d.json", '{\n\t"apiVersion":"v1","kind":"Namespace","metadata":{"name":"d"}}')
    put(tmp_path / ".hidden.yaml", pod("no"))
    put(tmp_path / ".git" / "x.yaml", pod("no"))
    put(tmp_path / "notes.txt", pod("no"))
    scan = ManifestDirectory(tmp_path).scan()
    assert names(scan) == ["a", "b", "c", "d"]
    assert not scan.errors
    assert ("Namespace", "", "d") in scan.objects
    second = scan.objects["Pod", "default", "b"]
    assert second.line == 16
    assert second.line_of(("spec", "containers", 0, "ports", 0, "containerPort")) == 26
    assert second.line_of(("spec", "nothing", "there")) == second.line_of(("spec",)) == 22


def test_a_list_is_flattened_and_lines_stay_right(tmp_path: Path) -> None:
    item = '{"apiVersion":"v1","kind":"Namespace",\n"metadata":{"name":"%s"}}'
    put(
        tmp_path / "l.json",
        '{"apiVersion":"v1","kind":"List","items":[\n' + ",\n".join((item % "x", item % "y")) + "]}",
    )
    scan = ManifestDirectory(tmp_path).scan()
    assert names(scan) == ["x", "y"]
    assert scan.objects["Namespace", "", "y"].line_of(("metadata", "name")) == 5


def test_a_bad_file_keeps_its_last_good_version_and_harms_no_other(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", pod("a") + "---\n" + pod("b"))
    put(tmp_path / "c.yaml", pod("c"))
    directory = ManifestDirectory(tmp_path)
    directory.scan()
    put(tmp_path / "a.yaml", pod("a", 81) + "---\n" + pod("b").replace("name: b", "name: [b"))
    put(tmp_path / "c.yaml", pod("c", 82))
    scan = directory.scan()
    assert scan.changed == {("Pod", "default", "c")}
    assert names(scan) == ["a", "b", "c"]
    (error,) = scan.errors
    assert error.file.endswith("a.yaml")
    assert 14 <= error.line <= 18
    put(tmp_path / "a.yaml", pod("a", 81))
    scan = directory.scan()
    assert scan.changed == {("Pod", "default", "a")}
    assert scan.removed == {("Pod", "default", "b")}
    assert not scan.errors


@pytest.mark.parametrize(
    ("text", "line", "field", "words"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: x\n", 3, "metadata.name", "missing"),
        ("apiVersion: v1\nmetadata: {name: x}\n", 1, "kind", "missing"),
        ("kind: Pod\nmetadata: {name: x}\n", 1, "apiVersion", "missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: 7\n", 4, "metadata.name", "a number (7)"),
        (pod("x").replace("{app: x}", "\n    version: 1"), 7, "metadata.labels.version", "use quotes"),
        (pod("x").replace("{app: x}", "[a]"), 6, "metadata.labels", "expected a mapping, found a list"),
        ("- a\n", 1, "", "expected an object, found a list"),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\n", 3, "", "stands twice"),
        ("a: &x 1\nb: *x\n", 2, "", "aliases"),
        ("a: 1\n<<: {b: 2}\n", 2, "", "merge keys"),
        ("a: !!python/object:os.system x\n", 1, "", "custom tags"),
        ("a:\n\tb: 1\n", 2, "", "spaces, not tabs"),
        ("a: \x07\n", 1, "", "control character"),
        ("{a: " * 80, 1, "", "nested deeper"),
        (pod("x") + "---\n" + pod("x"), 13, "", "stands twice in this file, first at line 1"),
    ],
)
def test_an_error_says_where_and_why(tmp_path: Path, text: str, line: int, field: str, words: str) -> None:
    put(tmp_path / "f.yaml", text)
    scan = ManifestDirectory(tmp_path).scan()
    error = scan.errors[0]
    assert (error.line, error.field) == (line, field)
    assert words in error.message
    assert str(error).startswith(f"{tmp_path}/f.yaml:{line}: ")
    assert not scan.objects


def test_not_utf8_and_not_regular_and_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    os.utime(tmp_path / "a.yaml", (1, 1))
    os.mkfifo(tmp_path / "b.yaml")
    with (tmp_path / "c.yaml").open("wb") as big:
        big.truncate(FILE_BYTES_MAX + 1)
    texts = [str(e) for e in ManifestDirectory(tmp_path).scan().errors]
    assert "a.yaml:2: is not UTF-8" in texts[0]
    assert "not a regular file" in texts[1]
    assert "split it" in texts[2]


def test_of_two_files_with_one_object_the_one_in_force_stays(tmp_path: Path) -> None:
    put(tmp_path / "b.yaml", pod("x", 1))
    directory = ManifestDirectory(tmp_path)
    directory.scan()
    put(tmp_path / "a.yaml", pod("x", 2))
    scan = directory.scan()
    assert not scan.changed
    (error,) = scan.errors
    assert error.file.endswith("a.yaml")
    assert f"{tmp_path}/b.yaml:1" in error.message
    assert error.object == "Pod default/x"
    (tmp_path / "b.yaml").unlink()
    scan = directory.scan()
    assert scan.changed == {("Pod", "default", "x")}
    assert not scan.errors


def test_status_is_merged_and_is_no_object_of_its_own(tmp_path: Path) -> None:
    config, status = tmp_path / "config", tmp_path / "status"
    put(config / "a.yaml", pod("a"))
    directory = ManifestDirectory(config, status)
    directory.scan()
    note = {"metadata": {"annotations": {"k": "v"}, "labels": {"app": "evil"}}, "status": {"x": 1}, "spec": {}}
    write_status(status, "Pod", "default", "a", note)
    write_status(status, "Pod", "default", "ghost", note)
    scan = directory.scan()
    assert scan.changed == {("Pod", "default", "a")}
    merged = scan.objects["Pod", "default", "a"]
    assert merged.obj["metadata"]["annotations"] == {"k": "v"}
    assert merged.obj["metadata"]["labels"] == {"app": "a"}
    assert merged.obj["status"] == {"x": 1}
    assert merged.obj["spec"]["containers"]
    assert not directory.scan().changed
    remove_status(status, "Pod", "default", "a")
    remove_status(status, "Pod", "default", "a")
    scan = directory.scan()
    assert scan.changed == {("Pod", "default", "a")}
    assert "annotations" not in scan.objects["Pod", "default", "a"].obj["metadata"]


def test_status_names_cannot_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_status(tmp_path, "Pod", "../..", "a", {})


def test_a_broken_status_file_is_reported_and_keeps_the_last_good_note(tmp_path: Path) -> None:
    config, status = tmp_path / "config", tmp_path / "status"
    put(config / "a.yaml", pod("a"))
    put(status / "x.yaml", "kind: Pod\nmetadata: {name: a, namespace: default, annotations: {k: v}}\n")
    directory = ManifestDirectory(config, status)
    assert directory.scan().objects["Pod", "default", "a"].obj["metadata"]["annotations"] == {"k": "v"}
    put(status / "x.yaml", "kind: Pod\nmetadata: {name: a, namespace: default}\nstatus: 7\n")
    scan = directory.scan()
    assert scan.errors[0].field == "status"
    assert scan.objects["Pod", "default", "a"].obj["metadata"]["annotations"] == {"k": "v"}


def test_a_young_broken_file_is_not_reported_yet(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", pod("a"))
    directory = ManifestDirectory(tmp_path)
    directory.scan()
    (tmp_path / "a.yaml").write_text("")
    scan = directory.scan()
    assert scan.unsettled
    assert names(scan) == ["a"]
    (tmp_path / "a.yaml").write_text("kind: [")
    scan = directory.scan()
    assert scan.unsettled
    assert not scan.errors
    os.utime(tmp_path / "a.yaml", (5, 5))
    scan = directory.scan()
    assert scan.errors
    assert not scan.unsettled


def test_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a directory"):
        ManifestDirectory(tmp_path / "no").scan()


def test_write_atomic_sets_the_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret", 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_watch_sees_edits_renames_and_removals(tmp_path: Path) -> None:
    async def scenario() -> None:
        directory, stop = ManifestDirectory(tmp_path / "c", tmp_path / "s"), asyncio.Event()
        scans = directory.watch(stop)
        assert names(await step(scans)) == []
        (tmp_path / "c" / "a.yaml").write_text(pod("a"))
        assert (await step(scans)).changed == {("Pod", "default", "a")}
        (tmp_path / "c" / "tmp").write_text(pod("a", 81))
        (tmp_path / "c" / "tmp").rename(tmp_path / "c" / "a.yaml")
        assert (await step(scans)).changed == {("Pod", "default", "a")}
        write_status(tmp_path / "s", "Pod", "default", "a", {"status": {"ok": True}})
        assert (await step(scans)).objects["Pod", "default", "a"].obj["status"] == {"ok": True}
        (tmp_path / "c" / "a.yaml").write_text("kind: [")
        scan = await step(scans)
        assert scan.errors
        assert names(scan) == ["a"]
        (tmp_path / "c" / "a.yaml").unlink()
        assert (await step(scans)).removed == {("Pod", "default", "a")}
        stop.set()
        with pytest.raises(StopAsyncIteration):
            await step(scans)

    async def step(scans: AsyncIterator[Scan]) -> Scan:
        return await asyncio.wait_for(anext(scans), 10)

    (tmp_path / "c").mkdir()
    asyncio.run(scenario())


EDIT = st.tuples(
    st.sampled_from(["f.yaml", "g.yaml"]),
    st.one_of(
        st.none(), st.just("kind: ["), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), max_size=3)
    ),
)


@given(st.lists(EDIT, max_size=8))
def test_any_edits_end_in_the_last_good_version_of_every_file(tmp_path_factory: Any, edits: list[Any]) -> None:
    root = tmp_path_factory.mktemp("m")
    directory = ManifestDirectory(root)
    good: dict[str, dict[str, int]] = {}
    scan = directory.scan()
    for file, content in edits:
        if content is None:
            (root / file).unlink(missing_ok=True)
            good.pop(file, None)
        elif isinstance(content, str):
            put(root / file, content)
        else:
            put(root / file, "---\n".join(pod(name, port) for name, port in content))
            if len({name for name, _ in content}) == len(content):
                good[file] = dict(content)
        before = dict(scan.objects)
        scan = directory.scan()
        assert set(names(scan)) == {name for objects in good.values() for name in objects}
        for (_, _, name), manifest in scan.objects.items():
            port = manifest.obj["spec"]["containers"][0]["ports"][0]["containerPort"]
            assert port == good[Path(manifest.file).name][name]
        differs = {k for k, m in scan.objects.items() if k not in before or before[k].obj != m.obj}
        assert scan.changed == differs
        assert scan.removed == before.keys() - scan.objects.keys()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON.filter(lambda value: value is not None), st.sampled_from([None, True, False]))
def test_what_yaml_writes_is_read_back(value: Any, flow: bool | None) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert [d.data for d in yamldoc.parse(text)] == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("Off", False), ("~", None), ("0x1F", 31), ("0o17", 15), ("017", 15), ("089", 89.0),
        ("1_000", 1000), ("1e3", 1000.0), (".5", 0.5), ("1e999", "1e999"), (".nan", ".nan"), ("22:22", "22:22"),
        ("2024-01-01", "2024-01-01"), ("1.2.3.4", "1.2.3.4"), ("9" * 50, "9" * 50), ("0x_", "0x_"), ("-", "-"),
    ],
)  # fmt: skip
def test_plain_words(text: str, value: Any) -> None:
    assert yamldoc.scalar(text) == value


def test_dotted() -> None:
    assert dotted(("spec", "rules", 0, "from", 1, "source")) == "spec.rules[0].from[1].source"


def test_merge_changes_neither_argument() -> None:
    obj: dict[str, Any] = {"metadata": {"name": "a", "annotations": {"x": "1"}}, "status": {"a": 1}}
    patch = {"metadata": {"annotations": {"y": "2"}}, "status": {"b": 2}}
    merged = merge_status(obj, patch)
    assert merged["metadata"]["annotations"] == {"x": "1", "y": "2"}
    assert merged["status"] == {"a": 1, "b": 2}
    assert obj == {"metadata": {"name": "a", "annotations": {"x": "1"}}, "status": {"a": 1}}


@pytest.mark.parametrize("seed", SEEDS)
def test_fuzz_seeds(seed: bytes) -> None:
    fuzz_one(seed)
