"""Running without root: the same demo inside a user namespace, where this user is root of its own networks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from ambient.demo import config
from ambient.demo.errors import DemoError

# -r maps this user to root, -n and -m are the places where links and mounts are made.
_UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--")
_PROBE_TIMEOUT: Final = 10.0  # seconds
_SWITCHES: Final = (
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
)


def refusal() -> str | None:
    """Why this machine does not let this user make namespaces; None when it does."""
    try:
        probe = subprocess.run(
            [*_UNSHARE, "true"],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
            check=False,
            env={"PATH": config.search_path()},
        )
    except FileNotFoundError:
        return "the program unshare is missing; on Debian: apt-get install util-linux"
    except subprocess.TimeoutExpired:
        return f"unshare did not end within {_PROBE_TIMEOUT:g} s"
    if probe.returncode == 0:
        return None
    for path, value, text in _SWITCHES:
        try:
            if Path(path).read_text().strip() == value:
                return f"{text} ({probe.stderr.strip()})"
        except OSError:
            continue
    return probe.stderr.strip() or f"unshare ended with status {probe.returncode}"


def re_execute(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the same command inside new user, network and mount namespaces.

    /run becomes a tmpfs of its own there: what programs expect below it cannot be written by a user.
    Raises DemoError that says why the kernel does not allow it.
    """
    if (reason := refusal()) is not None:
        raise DemoError(f"the demo needs root, or user namespaces, which are not available here: {reason}")
    inner = [*config.ambient_command(), *arguments]
    run_dir = config.default_run_dir()
    # A run directory below /run must stay visible from outside: it is carried over the tmpfs.
    script = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
    if Path("/run") in run_dir.parents:
        script = 'exec "$@"'
    environment = config.rootless_environment()
    os.execvpe("unshare", [*_UNSHARE, "sh", "-c", script, "sh", *inner], environment)
