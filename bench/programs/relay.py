"""A TCP relay that only copies, the floor of what a proxy hop costs: the command line of bench/_relay.pyx.

Run as `python -I -S relay.py [--mark N] LISTEN_HOST:PORT=TARGET_HOST:PORT...`, with IPv4 addresses; port 0 listens on a
free one. Prints `{"listening": ["host:port", ...]}` once it does, in the order given, and relays until SIGINT or
SIGTERM. Exit status 2: the arguments are wrong; 1: it cannot listen or go on; one line on standard error says why.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from typing import NoReturn

# See generate.py.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

BACKLOG = 4096  # connections; what the origin's nginx has
Address = tuple[str, int]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"relay: {message}\n")


def address(text: str, lowest_port: int) -> Address:
    host, _, port = text.rpartition(":")
    socket.inet_pton(socket.AF_INET, host)
    if not port.isdecimal() or not lowest_port <= int(port) <= 65535:
        raise ValueError(text)
    return host, int(port)


def route(text: str) -> tuple[Address, Address]:
    """LISTEN=TARGET -> both addresses."""
    listen, _, target = text.partition("=")
    try:
        return address(listen, 0), address(target, 1)
    except (OSError, ValueError):
        wanted = "LISTEN_HOST:PORT=TARGET_HOST:PORT with IPv4 addresses"
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None


def main() -> int:
    parser = Parser("relay", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--mark", type=lambda text: int(text, 0), default=0, help="SO_MARK of sockets towards targets")
    parser.add_argument("routes", nargs="+", type=route, metavar="LISTEN_HOST:PORT=TARGET_HOST:PORT")
    given = parser.parse_args()
    if not 0 <= given.mark < 2**31:
        parser.error(f"mark {given.mark} is not between 0 and {2**31 - 1}")
    try:
        from bench._relay import run
        from meshcore.errors import MeshError
    except ImportError as error:
        print(f"relay: {error}: run `make build`", file=sys.stderr)
        return 1
    pairs = []
    for listen, target in given.routes:
        try:
            pairs.append((socket.create_server(listen, backlog=BACKLOG), target))
        except OSError as error:
            print(f"relay: cannot listen on {listen[0]}:{listen[1]}: {os.strerror(error.errno or 0)}", file=sys.stderr)
            return 1
    names = ["{}:{}".format(*listener.getsockname()) for listener, _ in pairs]
    print(json.dumps({"listening": names}), flush=True)
    try:
        run(pairs, given.mark)
    except MeshError as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
