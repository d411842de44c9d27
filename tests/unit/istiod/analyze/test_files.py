"""Objects from files, directories and the standard input; a broken file costs only itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from istiod.analyze import World, analyze, files
from meshcore.errors import ConfigError
from meshcore.manifests import FILE_BYTES_MAX
from tests.unit.istiod.analyze.support import obj

SERVICE = obj("Service", "web", "{ports: [{name: http, port: 80}]}")


def read(*paths: Path | str, stdin: bytes = b"", namespace: str = "default") -> World:
    world = World(namespace=namespace)
    files.read(world, [str(path) for path in paths], io.BytesIO(stdin))
    world.close()
    return world


def said(world: World) -> list[tuple[str, str]]:
    return [(one.place, one.text) for one in analyze(world)]


def test_a_directory_is_read_with_all_below_it_and_without_hidden_names(tmp_path: Path) -> None:
    for name in ("a.yaml", "b/c.yml", ".hidden.yaml", ".git/d.yaml", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(obj("Service", path.stem.strip("."), "{}"))
    assert {key[2] for key in read(tmp_path).written} == {"a", "c"}


def test_a_named_file_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(SERVICE)
    assert len(read(tmp_path / "x.txt").written) == 1


def test_a_broken_file_is_told_with_its_line_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Service\nmetadata: [\n")
    (tmp_path / "b.yaml").write_bytes(b"a: b\nc: \xff\n")
    (tmp_path / "c.yaml").write_text(SERVICE + "---\nkind: Service\n")
    world = read(tmp_path)
    assert set(world.written) == {("Service", "default", "web")}
    found = said(world)
    assert [place.rpartition("/")[2] for place, _ in found] == ["a.yaml:3", "b.yaml:2", "c.yaml:8", "c.yaml:8"]
    assert "not valid YAML" in found[0][1]
    assert found[1][1] == "is not UTF-8 text"
    assert {one.code.id for one in analyze(world)} == {"IST0106"}


def test_the_standard_input_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(obj("Service", "a", "{}"))
    assert {key[2] for key in read(tmp_path, "-", stdin=SERVICE.encode()).written} == {"a", "web"}


def test_a_text_without_end_is_refused() -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size == FILE_BYTES_MAX + 1
            return b"#" * size

    world = World()
    files.read(world, ["-"], Endless())
    assert "split it" in world.faults[0].text


def test_an_object_that_stands_twice_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    (tmp_path / "b.yaml").write_text(SERVICE)
    ((place, text),) = said(read(tmp_path))
    assert place.endswith("b.yaml:2")
    assert "a.yaml:2, which is the one analysed" in text


def test_an_object_without_a_namespace_is_of_the_one_given() -> None:
    text = b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
    assert set(read("-", stdin=text, namespace="shop").written) == {("Service", "shop", "a")}


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "gone")
