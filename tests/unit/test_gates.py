"""The gates of `make check` that are our own: each must notice what it is there for."""

from __future__ import annotations

import ast
import types

import pytest

from scripts import check_cython, check_stubs


@pytest.mark.parametrize(
    "line",
    [
        "warning: meshcore/a.pyx:3:4: local variable 'x' might be referenced before assignment",
        "performance hint: meshcore/a.pyx:3:0: Exception check on 'f' will always require the GIL to be acquired.",
        "[2/5] Cythonizing meshcore/b.pyxperformance hint: meshcore/a.pyx:8:9: Exception check after calling 'f'",
        "build/check/c/meshcore/a.c:12:3: warning: unused value",
    ],
)
def test_what_a_compiler_complains_about_is_noticed(line: str) -> None:
    assert check_cython.complaints(f"building\n{line}\ndone\n") == [line]


def test_a_clean_build_has_no_complaint() -> None:
    assert check_cython.complaints("running build_ext\n[1/1] Cythonizing meshcore/warnings.pyx\n") == []


def differences(stub: str, source: str) -> list[str]:
    """What the gate says of a stub and of the module that this source makes."""
    module = types.ModuleType("probe")
    exec(compile(source, "probe", "exec"), vars(module))  # noqa: S102 - text of this file
    actual = {name: getattr(module, name) for name in check_stubs.module_names(module)}
    return check_stubs.compare("probe", check_stubs.stub_names(ast.parse(stub).body), actual)


STUB = "LIMIT: int\nclass Buf:\n    def take(self, n: int) -> bytes: ...\ndef feed(data: bytes) -> None: ...\n"
SOURCE = "LIMIT = 1\nclass Buf:\n    def take(self, n): pass\ndef feed(data): pass\n"


def test_a_stub_that_says_what_is_there_passes() -> None:
    imported = "import os\nfrom ast import AST\n_private = 1\n"
    assert differences(STUB, imported + SOURCE) == []


@pytest.mark.parametrize(
    ("stub", "source", "says"),
    [
        (STUB + "def more() -> None: ...", SOURCE, "probe.more: in the stub, not in the extension"),
        (STUB, SOURCE + "def more(): pass", "probe.more: in the extension, not in the stub"),
        (STUB, SOURCE.replace("take", "give"), "probe.Buf.take: in the stub, not in the extension"),
        (STUB, SOURCE.replace("(data)", "(text)"), "probe.feed: the stub says (data), the extension (text)"),
        (STUB.replace("LIMIT: int", ""), SOURCE, "probe.LIMIT: in the extension, not in the stub"),
    ],
)
def test_a_stub_that_says_something_else_fails(stub: str, source: str, says: str) -> None:
    assert says in differences(stub, source)
