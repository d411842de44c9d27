"""Network namespaces: enter one for a moment, and make the sockets that belong inside it.

A namespace is a property of the *thread*. `inside` moves the calling thread only, so a thread that runs an
event loop may use it as long as nothing awaits in between.
"""

from __future__ import annotations

import fcntl
import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from meshcore.errors import NamespaceError

CLONE_NEWNET: Final = 0x4000_0000  # linux/sched.h
NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
SO_MARK: Final = 36  # asm-generic/socket.h; the socket module of Python 3.11 lacks it on some builds
IP_TRANSPARENT: Final = 19  # linux/in.h

OWN_NETNS: Final = "/proc/thread-self/ns/net"
EXIT_LOST_NETNS: Final = 70  # EX_SOFTWARE of sysexits.h

BACKLOG: Final = 128  # upstream's listen backlog


class ListenError(NamespaceError, code="netns.listen", retryable=True):
    """A listener cannot be made inside a namespace, for example because its port is still held."""


def open_netns(path: str | os.PathLike[str]) -> int:
    """Open a network namespace (`/run/netns/x`, `/proc/PID/ns/net`) -> a CLOEXEC descriptor, the caller's.

    Raises NamespaceError when there is nothing, or something else, at `path`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NamespaceError(f"network namespace {os.fspath(path)}: {error.strerror}") from error
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise NamespaceError(f"{os.fspath(path)} is not a network namespace")
    return fd


def netns_id(fd: int) -> tuple[int, int]:
    """-> (device, inode), equal for two descriptors of the same namespace."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """Run the block in the network namespace `fd`, then return to the one the thread was in.

    Raises NamespaceError when the namespace cannot be entered. A thread that cannot return would do everything
    else in a stranger's network, so that ends the process with status EXIT_LOST_NETNS.
    """
    home = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
        try:
            yield
        finally:
            try:
                _setns()(home, CLONE_NEWNET)
            except OSError as error:
                text = f"fatal: cannot return to the own network namespace: {error.strerror}\n"
                os.write(2, text.encode())
                os._exit(EXIT_LOST_NETNS)
    finally:
        os.close(home)


def _enter(fd: int) -> None:
    try:
        _setns()(fd, CLONE_NEWNET)
    except OSError as error:
        raise NamespaceError(
            f"cannot enter a network namespace: {error.strerror}; this needs CAP_SYS_ADMIN in the user namespace "
            "that owns it, and the namespace must still exist"
        ) from error


@functools.cache
def _setns() -> Callable[[int, int], object]:
    """setns(2): Python has it from 3.12 on; before, ctypes (1 MB) is loaded on first use."""
    native: Callable[[int, int], object] | None = getattr(os, "setns", None)
    if native is not None:
        return native
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)

    def setns(fd: int, kind: int) -> None:
        if library.setns(fd, kind) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return setns


def listen_tcp(
    netns_fd: int,
    port: int,
    *,
    mark: int,
    transparent: bool | None,
    reuseport: bool,
    ipv6: bool,
    backlog: int = BACKLOG,
) -> tuple[socket.socket, bool]:
    """Make a non-blocking listener on every address inside a namespace -> (socket, whether it is transparent).

    `mark` is SO_MARK (0 = none) and is inherited by accepted sockets. `transparent`: True = must have
    IP_TRANSPARENT, False = without, None = try it and report the outcome. `ipv6` binds [::] for both families,
    otherwise 0.0.0.0. Raises ListenError (retryable) naming the step that failed.
    """
    what = f"port {port}"
    listener: socket.socket | None = None
    with inside(netns_fd):
        step = "socket"
        try:
            family = socket.AF_INET6 if ipv6 else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if mark:
                step = f"SO_MARK {mark:#x} (needs CAP_NET_ADMIN)"
                listener.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            if reuseport:
                step = "SO_REUSEPORT"
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            step = "IP_TRANSPARENT (needs CAP_NET_ADMIN)"
            is_transparent = _make_transparent(listener, transparent)
            step = "bind"
            listener.bind(("::" if ipv6 else "0.0.0.0", port))
            step = "listen"
            listener.listen(backlog)
        except OSError as error:
            if listener is not None:
                listener.close()
            raise ListenError(f"{what}: {step}: {error.strerror}") from error
    return listener, is_transparent


def _make_transparent(listener: socket.socket, wanted: bool | None) -> bool:
    if wanted is False:
        return False
    try:
        listener.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)  # serves IPv6 too: the kernel keeps one flag for both
    except OSError:
        if wanted:
            raise
        return False
    return True


def set_sysctl(netns_fd: int, name: str, value: str) -> None:
    """Set a sysctl of the namespace, named as sysctl(8) does (`net.ipv4.tcp_migrate_req`).

    /proc/sys/net shows the namespace of the thread that opens a file in it, hence the visit. A name with a slash
    is taken as a path below /proc/sys, for interfaces with dots in their names. Raises NamespaceError.
    """
    with inside(netns_fd):
        try:
            _sysctl(name).write_text(value)
        except OSError as error:
            raise NamespaceError(f"sysctl {name}={value}: {error.strerror}") from error


def get_sysctl(netns_fd: int, name: str) -> str | None:
    """-> the value of a sysctl of the namespace, None when this kernel has none of that name."""
    with inside(netns_fd):
        try:
            return _sysctl(name).read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NamespaceError(f"sysctl {name}: {error.strerror}") from error


def _sysctl(name: str) -> Path:
    path = name if "/" in name else name.replace(".", "/")
    if ".." in path.split("/") or path.startswith("/"):
        raise NamespaceError(f"{name!r} is not the name of a sysctl")
    return Path("/proc/sys", path)
