"""What instruction counts depend on besides our source: compilers, libraries, and the processor that valgrind presents.

Read from the things themselves: the extension modules say what built them, the libraries which version they are.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench import config
from bench.errors import BenchError

Environment = Mapping[str, str]
"""Name of a thing (below) -> its version."""

COMPILED: Final = ("arch", "gcc", "cython")
"""What instructions of our own extension modules depend on."""
NATIVE: Final = (*COMPILED, "cpu", "valgrind", "libc")
"""And those of libc beside them: it picks its copying and comparing routines by processor."""
WORKER: Final = (*NATIVE, "openssl", "nghttp2")
"""And those of a whole worker. libcrypto picks its ciphers by processor."""
INTERPRETED: Final = ("arch", "cpu", "valgrind", "libc", "python", "msgspec")
"""What instructions of Python code depend on."""

# What libcrypto and libc choose their code by, as far as valgrind passes it on: of x86, then of Arm.
_X86: Final = {"ssse3", "sse4_1", "sse4_2", "avx", "avx2", "aes", "pclmulqdq", "f16c", "movbe", "bmi1", "bmi2", "abm"}
_ARM: Final = {"asimd", "aes", "pmull", "sha1", "sha2", "atomics"}
_WAIT: Final = 10.0  # seconds for `valgrind --version`


def describe() -> dict[str, str]:
    """The environment of the build that is measured. Raises BenchError naming what is missing."""
    return {
        "arch": platform.machine(),
        "cpu": _processor(),
        "valgrind": _valgrind(),
        "libc": " ".join(platform.libc_ver()),
        "openssl": _openssl(),
        "nghttp2": _nghttp2(),
        "gcc": _built_by(rb"GCC: \([^)]*\) ([0-9.]+)"),
        "cython": _built_by(rb"_cython_([0-9]+_[0-9]+_[0-9a-z]+)").replace("_", "."),
        "python": " ".join(sys.version.split()),
        "msgspec": importlib.metadata.version("msgspec"),
    }


def differences(here: Environment, there: Environment, names: tuple[str, ...]) -> list[str]:
    """Which of these things are not the same, each as "openssl 3.0.19 here, 3.0.17 in the baseline"."""
    return [
        f"{name} {here.get(name, 'unknown')} here, {there.get(name, 'unknown')} in the baseline"
        for name in names
        if here.get(name) != there.get(name)
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return " ".join(sorted((_X86 | _ARM).intersection(value.split())))
    return ""


def _valgrind() -> str:
    command = [config.tool("valgrind"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT, check=False)
    if done.returncode:
        raise BenchError(f"valgrind does not run: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip().removeprefix("valgrind-")


def _library(name: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    if found is None:
        raise BenchError(f"lib{name} is not found, which the workers are linked with")
    return ctypes.CDLL(found)


def _openssl() -> str:
    version = _library("crypto").OpenSSL_version
    version.restype = ctypes.c_char_p
    return str(version(0).decode()).removeprefix("OpenSSL ")


class _Nghttp2Info(ctypes.Structure):
    _fields_ = [("age", ctypes.c_int), ("version_num", ctypes.c_int), ("version_str", ctypes.c_char_p)]


def _nghttp2() -> str:
    version = _library("nghttp2").nghttp2_version
    version.restype = ctypes.POINTER(_Nghttp2Info)
    return str(version(0).contents.version_str.decode())


def _built_by(pattern: bytes) -> str:
    """What an extension of the build says of its making. The one with a Python surface has all of it."""
    modules = sorted((config.BUILD / "meshcore").glob("flowtable.*.so"))
    found = re.search(pattern, modules[0].read_bytes()) if modules else None
    if found is None:
        raise BenchError(f"{config.BUILD / 'meshcore'}: no extension that says what built it: make build")
    return found[1].decode()
