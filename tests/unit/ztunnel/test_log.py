"""Log lines of the control process, and their levels."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest

from meshcore.errors import ConfigError
from ztunnel.log import Filter, Handler, parse


@pytest.fixture(autouse=True)
def _levels_are_put_back() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "ztunnel.certs", "certs", "ztunnel.x")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


def line(level: int, message: str, *args: object, json_: bool = False) -> str:
    made = logging.makeLogRecord(
        {"name": "ztunnel.certs", "levelno": level, "msg": message, "args": args, "created": 1_700_000_000.25}
    )
    return Handler(json=json_).line(made).decode()


def test_the_plain_form() -> None:
    assert line(logging.WARNING, "a\tb %d", 5) == "2023-11-14T22:13:20.250000Z\twarn\tcerts\ta b 5\n"


def test_the_json_form_is_one_line() -> None:
    text = line(logging.ERROR, "a\nb", json_=True)
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "level": "error",
        "time": "2023-11-14T22:13:20.250000Z",
        "scope": "ztunnel.certs",
        "message": "a\nb",
    }


@pytest.mark.parametrize(("level", "name"), [(50, "error"), (20, "info"), (10, "debug"), (5, "trace")])
def test_levels_have_upstreams_names(level: int, name: str) -> None:
    assert line(level, "x").split("\t")[1] == name


def test_a_closed_stdout_is_survived() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    made = logging.makeLogRecord({"name": "x", "msg": "x", "levelno": 20, "created": 0})
    Handler(json=False, fd=write_end).emit(made)
    os.close(write_end)


def test_a_filter_is_changed_and_reset() -> None:
    levels = Filter("warn,certs=debug")
    assert logging.getLogger("ztunnel.certs").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("ztunnel.x").isEnabledFor(logging.INFO)
    levels.change("info,access=off")
    assert str(levels) == "info,access=off,certs=debug"
    levels.change("access=info")
    assert str(levels) == "info,access=info,certs=debug"
    levels.change("error", reset=True)
    assert str(levels) == "error,certs=debug"
    levels = Filter("certs=trace")
    assert str(levels) == "info,certs=trace"


@pytest.mark.parametrize("text", ["loud", "certs", "=info", "certs=", "info,,debug"])
def test_what_is_not_a_level(text: str) -> None:
    with pytest.raises(ConfigError, match="log level"):
        parse(text)


@pytest.mark.parametrize(("text", "wanted"), [("info", True), ("warn", False), ("off,access=info", True)])
def test_the_access_log_is_a_target(text: str, wanted: bool) -> None:
    assert Filter(text).access is wanted


def test_rust_paths_name_the_same_target() -> None:
    assert parse("ztunnel::certs=DEBUG") == {"certs": logging.DEBUG}
