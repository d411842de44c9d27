"""What another command needs to know of a laptop mesh: `ambient exec`, and the clean-up after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from ambient.demo import config
from ambient.demo.errors import DemoBusy, DemoError, NoDemo
from ambient.demo.processes import start_time

_FILE: Final = "state.json"
_LOCK: Final = "lock"
_OUR_ENTRIES: Final = frozenset(
    {_FILE, f".{_FILE}", _LOCK, "logs", "netns", "config", "status", "istiod", "apps", "node-1", "node-2"}
)
"""What may stand in a run directory: a directory with anything else in it was not made by the demo."""

_SOCKET_PATH_MAX: Final = 107 - len("/node-1/ztunnel.sock")  # sun_path, unix(7)


class Running(msgspec.Struct, frozen=True):
    """A process by pid and start time (clock ticks since boot), so that a reused pid is not taken for it."""

    name: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started


class State(msgspec.Struct, frozen=True):
    """Contents of the state file. `namespaces` are the pause processes, by the name of their namespace."""

    owner: Running
    rootless: bool
    namespaces: dict[str, Running] = {}
    processes: tuple[Running, ...] = ()
    pods: tuple[str, ...] = ()


def write(run_dir: Path, state: State) -> None:
    """Replace the state file as a whole."""
    draft = run_dir / f".{_FILE}"
    draft.write_bytes(msgspec.json.encode(state))
    draft.rename(run_dir / _FILE)


def read(run_dir: Path) -> State | None:
    """The state file, or None when there is none that can be read."""
    try:
        return msgspec.json.decode((run_dir / _FILE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def find(run_dir: Path) -> State:
    """The mesh that is running there; raises NoDemo with the way to start one."""
    state = read(run_dir)
    if state is None or not any(pause.alive for pause in state.namespaces.values()):
        hint = "start one with `ambient demo --keep`"
        elsewhere = Path("/run/ambient-demo")
        if state is None and run_dir != elsewhere and elsewhere.exists():
            hint = f"root's is in {elsewhere}: use sudo, or {hint}"
        raise NoDemo(f"no laptop mesh is running in {run_dir}: {hint}")
    return state


class RunDir:
    """The run directory, locked: at most one demo uses it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def acquire(self) -> None:
        """Make it (mode 0700) and take its lock; raises DemoBusy, or DemoError when it cannot be ours."""
        if len(os.fsencode(self.path)) > _SOCKET_PATH_MAX:
            raise DemoError(f"{self.path} is too long for the sockets in it: at most {_SOCKET_PATH_MAX} bytes")
        try:
            while not self._try_lock():
                pass  # the demo before us removed the directory between our open and our lock
        except OSError as error:
            raise DemoError(f"{self.path}: {error.strerror}; choose another --run-dir") from error
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _try_lock(self) -> bool:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise DemoError(f"{self.path} is not a directory of this user: remove it, or choose --run-dir")
        if foreign := sorted(entry.name for entry in self.path.iterdir() if entry.name not in _OUR_ENTRIES):
            raise DemoError(
                f"{self.path} holds {foreign[0]}, which is not the demo's and would be lost: choose --run-dir"
            )
        self.path.chmod(0o700)
        lock = self.path / _LOCK
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = lock.stat().st_ino == os.fstat(fd).st_ino
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode() or "unknown"
            os.close(fd)
            text = f"another `ambient demo` (pid {holder}) uses {self.path}: wait, or choose --run-dir"
            raise DemoBusy(text) from None
        except FileNotFoundError:
            current = False
        if current:
            self._lock = fd
        else:
            os.close(fd)
        return current

    def release(self) -> None:
        """Let another demo have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete it, which must be empty but for the lock, and release it."""
        (self.path / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self.release()


def snapshot_owner() -> Running:
    """This process, as the owner of a mesh."""
    return Running("ambient demo", os.getpid(), start_time(os.getpid()) or 0)


def netns_inode(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    return None


def marker_of(pid: int) -> str | None:
    """The run directory of the demo that started `pid` or an ancestor of it; None for everybody else's process."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{config.MARKER}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None
