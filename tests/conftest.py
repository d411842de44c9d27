"""What every test has: which build it runs on, what it may need, and how random its input is."""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import os

import hypothesis
import pytest

import meshcore
from tests.support.build import ROOT, variant

CLONE_NEWNET = 0x40000000

# A shared machine makes single examples slow, so no deadline per example; the test's own timeout stands. The same
# input every time unless asked otherwise: a gate that fails on luck is read as noise. `explore` is for finding bugs.
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True, max_examples=100, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


def pytest_configure(config: pytest.Config) -> None:
    faulthandler.enable()
    wanted = os.environ.get("AMBIENT_BUILD", "release")
    if wanted != variant():
        pytest.exit(f"AMBIENT_BUILD={wanted}, but meshcore comes from {meshcore.__file__}", returncode=4)


def pytest_report_header(config: pytest.Config) -> str:
    return f"ambient-mesh: {variant()} build"


@functools.cache
def cannot_create_namespaces() -> str:
    """Why network namespaces cannot be created here; empty when they can. Tried in a child, which then is gone."""
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(ctypes.get_errno() & 0xFF if libc.unshare(CLONE_NEWNET) else 0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"unshare(CLONE_NEWNET): {os.strerror(code)}" if code else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1]
        if folder in {"netns", "interop", "fuzz"}:
            item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("netns") and (reason := cannot_create_namespaces()):
        pytest.skip(f"needs root, or `unshare -Urnm`: {reason}")
