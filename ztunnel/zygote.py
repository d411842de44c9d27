"""The process that workers are forked from: Python, the extension modules, nothing else.

Run as `python -I -S zygote.py FD ROOT MODULE`: a SOCK_SEQPACKET socket to the control process, the directory that holds
the packages (or several, joined by colons), and the module with `Worker`.

A request is the worker's index (u32) with two descriptors: the worker's end
of its control socket and its counter page. Replies are (index, pid, kind, wait status). Ends when the control process
does; the workers go on.

It imports built-in and extension modules only: `os`, `signal` or `socket` would cost a megabyte in every process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed lacks it
import _socket
import _struct
import gc
import posix
import select
import sys

REQUEST = _struct.Struct("=I")
REPLY = _struct.Struct("=IiIi")
STARTED, ENDED = 1, 2

SCM_SPACE = 64  # bytes of ancillary data: room for two descriptors and more


def main(fd: int, root: str, module: str) -> int:
    """Serve fork requests until the control process is gone."""
    sys.path[:0] = root.split(":")
    worker_class = __import__(module, fromlist=["Worker"]).Worker
    control = _socket.socket(fileno=fd)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}  # pidfd -> index, pid
    gc.disable()
    gc.freeze()
    while True:
        for ready, _ in poll.poll():
            if ready != fd:
                poll.unregister(ready)
                index, pid = children.pop(ready)
                posix.close(ready)
                _, status = posix.waitpid(pid, 0)
                if not report(control, REPLY.pack(index, pid, ENDED, status)):
                    return 0
                continue
            request = receive(control)
            if request is None:
                return 0
            index, link, page = request
            pid = posix.fork()
            if pid == 0:
                run(worker_class, fd, children, index, link, page)
            posix.close(link)
            posix.close(page)
            pidfd = posix.pidfd_open(pid, 0)
            children[pidfd] = (index, pid)
            poll.register(pidfd, select.POLLIN)
            if not report(control, REPLY.pack(index, pid, STARTED, 0)):
                return 0


def report(control: _socket.socket, record: bytes) -> bool:
    """Send to the control process; False when it is gone."""
    try:
        control.send(record)
    except OSError:
        return False
    return True


def receive(control: _socket.socket) -> tuple[int, int, int] | None:
    """-> (index, control socket, page); None when the control process is gone."""
    try:
        data, ancillary, _, _ = control.recvmsg(REQUEST.size, SCM_SPACE, _socket.MSG_CMSG_CLOEXEC)
    except OSError:  # it died with replies of ours unread
        return None
    if not data:
        return None
    (index,) = REQUEST.unpack(data)
    link, page = _struct.unpack("=ii", ancillary[0][2])
    return index, link, page


def run(worker_class: type, fd: int, children: dict[int, tuple[int, int]], index: int, link: int, page: int) -> None:
    """The life of a worker; does not return."""
    status = 1
    try:
        posix.close(fd)
        for pidfd in children:
            posix.close(pidfd)
        for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2):
            _signal.signal(number, _signal.SIG_DFL)
        # Ctrl-C at a terminal reaches the whole group: the control process drains, and workers end when it says so.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
        set_name(b"zt-worker-%d" % index)
        status = 1 if worker_class(link, page, index).run() else 0
    except BaseException as error:  # noqa: BLE001 - this is the last frame of a forked process
        posix.write(2, f"worker {index}: {type(error).__name__}: {error}\n".encode())
    finally:
        posix._exit(status)  # noqa: SLF001 - the name of exit without clean-up


def set_name(name: bytes) -> None:
    """The name that `ps` shows for the thread. Cosmetic, so a system without it is fine."""
    try:
        fd = posix.open("/proc/self/comm", posix.O_WRONLY)
        posix.write(fd, name)
        posix.close(fd)
    except OSError:
        return


if __name__ == "__main__":
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    set_name(b"zt-zygote")
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
