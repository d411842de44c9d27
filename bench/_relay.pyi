from collections.abc import Iterable
from socket import socket

def run(routes: Iterable[tuple[socket, tuple[str, int]]], mark: int = 0) -> None:
    """Copy between whoever connects to a listener and its target, until SIGINT or SIGTERM.

    `routes` are pairs of a listening socket, which stays the caller's, and the IPv4 address and port that its clients
    are connected to. `mark`: SO_MARK of the sockets towards targets, 0 for none. FIN and RST are passed on; a direction
    whose receiver does not read holds 64 KiB and reads no more. The limit on descriptors is raised as far as it may be
    and bounds the connections; those beyond it wait in the listener's backlog.

    The signal then does what it does to any Python program. Raises ConfigError for a target that is no address,
    BenchError when sockets cannot be marked, memory or descriptors run out, or Python has no other use for the signal.
    """
