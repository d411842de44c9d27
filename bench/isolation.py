"""Network, process and mount namespaces of the bench's own, so that nothing it starts can outlive it.

The launcher stays outside: it starts the bench again inside, where the bench is the first process of its process
namespace. When that one ends, or the launcher is killed, the kernel ends all the rest.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from bench import config
from bench.errors import BenchError

_LOOK: Final = 0.1  # seconds
_END_WAIT: Final = 15.0  # seconds for the bench inside to take down its subjects


def run_inside(arguments: Sequence[str]) -> int:
    """Run this bench again with these arguments in namespaces of its own -> its exit status."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = [config.tool("unshare"), *user, "--net", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
    _require(unshare)
    command = [config.tool("setpriv"), "--pdeathsig", "KILL", *unshare, sys.executable, "-P", "-m", "bench"]
    directory = Path(tempfile.mkdtemp(prefix="ambient-bench-"))

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    process = None
    try:
        process = subprocess.Popen([*command, *arguments], env=config.inside_environment(directory))
        return process.wait()
    except KeyboardInterrupt:
        # The terminal sent it to the bench inside as well, which is ending its subjects.
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_WAIT)
        return 128 + signal.SIGINT
    finally:
        # A second signal (`timeout` sends two) must not cut the clean-up short; every wait in it is bounded.
        for ignored in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ignored, signal.SIG_IGN)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(_END_WAIT)
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove it; those whom the kernel is just ending may write to it for another moment."""
    deadline = time.monotonic() + _END_WAIT
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(_LOOK)
    shutil.rmtree(directory, ignore_errors=True)


def _require(unshare: list[str]) -> None:
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, timeout=_END_WAIT, check=False)
    if tried.returncode:
        raise BenchError(f"the bench needs root, or user namespaces: {tried.stderr.strip() or 'unshare failed'}")


def _allow_files() -> None:
    """Let every process have the descriptors that idle tunnels take: two for each, and some for the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, config.FILES) if hard != resource.RLIM_INFINITY else config.FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):  # without the right to raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))


def prepare() -> None:
    """Inside: loopback up, enough ports for a connection per request, enough descriptors."""
    ip = subprocess.run(
        [config.tool("ip"), "link", "set", "lo", "up"], capture_output=True, text=True, timeout=10, check=False
    )
    if ip.returncode:
        raise BenchError(f"the loopback interface cannot be set up: {ip.stderr.strip()}")
    _allow_files()
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:  # noqa: PTH123 - procfs, one write
        file.write("23000 65535")
