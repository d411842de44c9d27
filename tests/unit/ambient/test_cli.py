"""The `ambient` command: what it teaches, what it loads, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import pytest

from ambient import cli
from meshcore.errors import ConfigError

COMMANDS = ("analyze", "demo", "exec", "ztunnel-config", "istiod", "cni", "proxy-status", "ztunnel", "bench", "version")
TIMEOUT_S = 30

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Adds a command `probe` that runs the function given."""

    def add(body: Callable[[], object]) -> None:
        monkeypatch.setitem(cli.cli.commands, "probe", click.Command("probe", callback=body))

    return add


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes `ambient probe` a lazy command in a module `probe_module` with the text given."""

    def write(text: str) -> None:
        (tmp_path / "probe_module.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "probe_module", raising=False)
        monkeypatch.setitem(cli._ELSEWHERE, "probe", cli._Lazy("probe_module:command", "istiod", "A probe."))

    return write


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    program = (
        "import sys; from ambient import cli; code = cli.run(['--help']); "
        "print(*(m for m in sys.modules if m.partition('.')[0] in ('istiod', 'cni', 'ztunnel', 'rich', 'asyncio'))); "
        "sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stderr
    assert all(f"\n  {name} " in run.stdout for name in COMMANDS)
    assert run.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", ["ztunnel", "version"])
def test_a_command_teaches_itself(name: str, capsys: Capture) -> None:
    assert cli.run([name, "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out


def test_a_typo_is_answered_with_the_nearest_command(capsys: Capture) -> None:
    assert cli.run(["ztunel"]) == 2
    assert "Did you mean 'ztunnel'?" in capsys.readouterr().err


def test_no_command_and_a_wrong_option_are_usage_errors(capsys: Capture) -> None:
    assert cli.run([]) == 2
    assert cli.run(["version", "--colour"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_package_names_the_extra(lazy: Callable[[str], None], capsys: Capture) -> None:
    lazy("import no_such_package\n")
    assert cli.run(["probe"]) == 1
    error = capsys.readouterr().err
    assert "ambient probe needs the extra `istiod`" in error
    assert "pip install 'ambient-mesh[istiod]'" in error
    assert "no_such_package" in error


def test_a_missing_component_is_reported_as_such(lazy: Callable[[str], None], capsys: Capture) -> None:
    lazy("import cni.no_such_module\n")
    assert cli.run(["probe"]) == 1
    assert "not part of this installation" in capsys.readouterr().err


def test_a_lazy_command_runs_and_its_number_is_the_exit_code(lazy: Callable[[str], None], capsys: Capture) -> None:
    lazy("import click\n@click.command()\ndef command():\n    click.echo('ran')\n    return 3\n")
    assert cli.run(["probe"]) == 3
    assert capsys.readouterr().out == "ran\n"


def test_a_mesh_error_is_one_line(added: Callable[[Callable[[], object]], None], capsys: Capture) -> None:
    def fail() -> NoReturn:
        raise ConfigError("mesh.yaml: line 3: no such field")

    added(fail)
    assert cli.run(["probe"]) == 1
    assert capsys.readouterr().err == "ambient: error: mesh.yaml: line 3: no such field\n"


def test_a_file_that_cannot_be_read_is_one_line(added: Callable[[Callable[[], object]], None], capsys: Capture) -> None:
    added(lambda: Path("/no/such/file").read_text())
    assert cli.run(["probe"]) == 1
    assert capsys.readouterr().err == "ambient: error: /no/such/file: No such file or directory\n"


def test_ctrl_c_is_130_without_a_trace(added: Callable[[Callable[[], object]], None], capsys: Capture) -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    added(interrupt)
    assert cli.run(["probe"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_trace(added: Callable[[Callable[[], object]], None]) -> None:
    added(lambda: dict[str, str]()["absent"])
    with pytest.raises(KeyError):
        cli.run(["probe"])


def test_a_reader_that_left_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "ambient", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(write)
    assert run.stderr == ""
    assert run.returncode in {1, cli.EXIT_BROKEN_PIPE}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What `ambient ztunnel` would have started: the program and the settings added to its environment."""
    seen: dict[str, object] = {}

    def become(module: str, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        assert arguments == ()
        seen.update(settings, program=module)

    monkeypatch.setattr(cli, "_become", become)
    return seen


def test_ztunnel_options_become_the_environment_of_a_fresh_interpreter(started: dict[str, object]) -> None:
    assert cli.run(["ztunnel", "--node", "n1", "--workers", "2", "--root-ca", "/ca.pem", "LOG_FORMAT=json"]) == 0
    assert started == {
        "NODE_NAME": "n1",
        "ZTUNNEL_WORKER_THREADS": "2",
        "XDS_ROOT_CA": "/ca.pem",
        "CA_ROOT_CA": "/ca.pem",
        "LOG_FORMAT": "json",
        "program": "ztunnel",
    }


@pytest.mark.parametrize("setting", ["LOG_FORMAT", "log_format=json", "=json"])
def test_a_setting_that_is_none_starts_nothing(setting: str, started: dict[str, object], capsys: Capture) -> None:
    assert cli.run(["ztunnel", setting]) == 2
    assert started == {}
    assert "NAME=VALUE" in capsys.readouterr().err


def test_becoming_a_program_leaves_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "__init__.py").touch()
    (tmp_path / "probe" / "__main__.py").write_text(
        "import os, sys; print('click' in sys.modules, os.environ['SET_BEFORE'], *sys.argv[1:])"
    )
    program = "from ambient import cli; cli._become('probe', ['a', 'b'], {'SET_BEFORE': 'yes'})"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert run.stdout == "False yes a b\n", run.stderr


def test_becoming_what_is_not_installed_says_so() -> None:
    with pytest.raises(cli.CommandUnavailable, match="no program `no_such_program`"):
        cli._become("no_such_program", [])
