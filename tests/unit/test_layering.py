"""ARCHITECTURE.md, enforced: who imports whom, and what the zygote pays for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest

from tests.support import layering
from tests.support.layering import Source

# What makes a process megabytes larger; a worker is forked from a zygote that has none of it.
HEAVY = ("asyncio", "ssl", "logging", "typing", "re", "enum", "dataclasses", "msgspec", "uvloop")
IMPORT_TIMEOUT_S = 20

Rule = Callable[[Iterable[Source]], list[str]]


@pytest.fixture(scope="module")
def sources() -> tuple[Source, ...]:
    return layering.tree()


@pytest.mark.parametrize("rule", layering.RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule, sources: tuple[Source, ...]) -> None:
    assert "\n".join(rule(sources)) == ""


def test_the_tree_was_read(sources: tuple[Source, ...]) -> None:
    assert {"meshcore", "ambient", "tests"} <= {source.package for source in sources}
    assert {"meshcore/errors.py", "meshcore/records.pxd"} <= {source.path for source in sources}


def breaks(rule: Rule, files: dict[str, str]) -> list[str]:
    """What `rule` says of a tree of these files, given as path and text."""
    return rule([Source(path, text) for path, text in files.items()])


def test_a_file_that_does_not_parse_is_named() -> None:
    assert breaks(layering.syntax, {"cni/agent.py": "x = 1\ndef f(:\n"}) == ["cni/agent.py:2: invalid syntax"]


@pytest.mark.parametrize(
    "text",
    [
        "import istiod",
        "import istiod.ca as ca",
        "from istiod.ca import sign",
        "from istiod import ca",
        "def f():\n    from istiod import ca",
        "import importlib\nimportlib.import_module('istiod.ca')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from istiod import ca",
        "import tests.support",
        "from bench import harness",
        "from ambient import cli",
    ],
)
def test_a_component_may_not_see_another(text: str) -> None:
    assert len(breaks(layering.isolation, {"ztunnel/app.py": text})) == 1


def test_meshcore_sees_no_component_and_ambient_sees_all() -> None:
    assert breaks(layering.isolation, {"meshcore/zds.py": "import cni"}) == [
        "meshcore/zds.py:1: meshcore must not use cni",
    ]
    assert breaks(layering.isolation, {"ambient/cli.py": "import cni, ztunnel.app\nfrom meshcore import errors"}) == []


@pytest.mark.parametrize(
    "text",
    [
        "from istiod.records cimport thing",
        "cimport istiod.records",
        "cimport meshcore.records, istiod.records as r",
        "from istiod cimport (\n    records,\n)",
        "from istiod \\\n    cimport records",
        "import istiod",
    ],
)
def test_cython_imports_are_read(text: str) -> None:
    assert len(breaks(layering.isolation, {"ztunnel/_fastpath.pyx": text})) == 1


def test_strings_and_comments_are_not_code() -> None:
    text = '"""\nimport istiod\n"""\n# cimport istiod\ncdef char *s = "import istiod"\n\'\'\'include "x.pxi"\'\'\'\n'
    assert Source("ztunnel/a.pyx", text).imports == ()
    assert breaks(layering.includes, {"ztunnel/a.pyx": text}) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ztunnel/app.py", "from meshcore.errors import _BY_ERRNO"),
        ("ztunnel/app.py", "from meshcore import _loop"),
        ("ztunnel/app.py", "import meshcore._loop"),
        ("ztunnel/a.pyx", "from meshcore._loop cimport turn"),
        ("tests/unit/istiod/test_a.py", "from ztunnel import _fastpath"),
        ("tests/unit/test_a.py", "from ztunnel._fastpath import Worker"),
        ("bench/micro.py", "from ztunnel._fastpath import Worker"),
    ],
)
def test_private_names_stay_at_home(path: str, text: str) -> None:
    assert len(breaks(layering.private_names, {path: text})) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ztunnel/app.py", "from ztunnel._fastpath import Worker"),
        ("tests/unit/ztunnel/test_a.py", "from ztunnel._fastpath import Worker"),
        ("ztunnel/app.py", "from meshcore.errors import __doc__"),
        ("ztunnel/app.py", "from os import _exit"),
    ],
)
def test_private_names_are_free_at_home(path: str, text: str) -> None:
    assert breaks(layering.private_names, {path: text}) == []


def test_a_circle_of_cimports_is_seen_through_both_files() -> None:
    circle = breaks(
        layering.cimport_cycles,
        {
            "meshcore/a.pxd": "from meshcore.b cimport x",
            "meshcore/b.pyx": "from meshcore cimport c",
            "meshcore/c.pxd": "cimport meshcore.a",
        },
    )
    assert circle == ["meshcore.a -> meshcore.b -> meshcore.c -> meshcore.a"]


def test_a_pyx_may_cimport_its_own_pxd_and_two_may_share_a_third() -> None:
    assert not breaks(
        layering.cimport_cycles,
        {
            "meshcore/a.pyx": "from meshcore.a cimport x\nfrom meshcore.c cimport y\nfrom meshcore.b cimport z",
            "meshcore/b.pyx": "from meshcore.c cimport y",
            "meshcore/c.pxd": "from libc.stdint cimport uint8_t",
        },
    )


def test_python_modules_form_no_circle_even_by_late_imports() -> None:
    late = "def f():\n    from istiod import b"
    assert breaks(layering.import_cycles, {"istiod/a.py": late, "istiod/b.py": "import istiod.a"}) == [
        "istiod.a -> istiod.b -> istiod.a",
    ]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from istiod import b"
    assert breaks(layering.import_cycles, {"istiod/a.py": typed, "istiod/b.py": "import istiod.a"}) == []


def test_meshcore_has_an_order() -> None:
    assert breaks(layering.meshcore_order, {"meshcore/model.py": "from meshcore.errors import MeshError"}) == []
    assert breaks(layering.meshcore_order, {"meshcore/telemetry.py": "from meshcore.stream import x"}) == []
    for text in ("from meshcore import zds", "import meshcore.stream", "from meshcore.telemetry import x"):
        assert len(breaks(layering.meshcore_order, {"meshcore/model.py": text})) == 1
    assert len(breaks(layering.meshcore_order, {"meshcore/records.pxd": "from meshcore.loop cimport x"})) == 1


def test_include_is_refused() -> None:
    assert breaks(layering.includes, {"ztunnel/a.pyx": 'x = 1\ninclude "b.pxi"'}) == ["ztunnel/a.pyx:2: include"]
    assert len(breaks(layering.includes, {"ztunnel/b.pxi": ""})) == 1


def test_the_gil_is_never_asked_for() -> None:
    assert breaks(layering.takes_the_gil, {"ztunnel/a.pyx": "with nogil:\n    pass\n# with gil\n"}) == []
    assert len(breaks(layering.takes_the_gil, {"ztunnel/a.pyx": "with gil:\n    pass"})) == 1
    assert len(breaks(layering.takes_the_gil, {"ztunnel/a.pxd": "cdef void f() noexcept with gil"})) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import os\nx = os.environ['A']",
        "import os\nx = os.environb",
        "import os\nx = os.getenv('A')",
        "from os import path, environ",
    ],
)
def test_only_config_reads_the_environment(text: str) -> None:
    assert len(breaks(layering.environment, {"ztunnel/app.py": text})) == 1
    assert breaks(layering.environment, {"ztunnel/config.py": text}) == []
    assert breaks(layering.environment, {"tests/conftest.py": text}) == []


def test_cython_does_not_read_the_environment_either() -> None:
    assert len(breaks(layering.environment, {"ztunnel/a.pyx": "import os\nx = os.environ"})) == 1
    assert len(breaks(layering.environment, {"ztunnel/a.pyx": "from libc.stdlib cimport getenv"})) == 1


def test_what_the_zygote_imports_stays_empty() -> None:
    init = "meshcore/__init__.py"
    assert breaks(layering.empty_packages, {init: '"""Only words."""\n'}) == []
    assert len(breaks(layering.empty_packages, {init: '"""Words."""\nfrom meshcore import errors\n'})) == 1


def test_long_files_are_refused() -> None:
    assert breaks(layering.oversize, {"cni/agent.py": "x = 1\n" * layering.MAX_LINES}) == []
    assert len(breaks(layering.oversize, {"cni/agent.py": "x = 1\n" * (layering.MAX_LINES + 1)})) == 1


def extension_modules() -> list[str]:
    return [source.module for source in layering.tree() if source.path.endswith(".pyx")]


def heavy_after(statement: str) -> list[str]:
    """Which of HEAVY a bare interpreter holds after `statement`; the path is this process's."""
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; {statement}; "
        f"print(*sorted(set(sys.modules).intersection({HEAVY!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=IMPORT_TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize("module", ["meshcore", "ztunnel", *extension_modules()])
def test_the_zygote_can_afford_it(module: str) -> None:
    assert heavy_after(f"import {module}") == []


def test_a_heavy_import_would_be_noticed() -> None:
    assert heavy_after("import meshcore.errors, logging")[-3:] == ["logging", "re", "typing"]
