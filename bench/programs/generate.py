"""An HTTP/1.1 load at a constant rate, or as fast as the answers come: the command line of bench/_generator.pyx.

Run as `python -I -S generate.py HOST PORT PATH --connections C --seconds S --body-bytes B [--rate R] [--fresh]
[--warm-up W] [--timeout T]`. Prints one JSON object, see bench/_generator.pyi. Exit status 2: the arguments are wrong;
1: no load was possible; one line on standard error says why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import NoReturn

# -I and -S leave nothing but the standard library; the path is the one this file was started by, so that a tree of
# links to another build finds that build.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"generate: {message}\n")


def main() -> int:
    parser = Parser("generate", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("host", help="IPv4 address")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s; 0, the default: as fast as answers come")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--body-bytes", type=int, required=True, help="size of every answer's body")
    parser.add_argument("--fresh", action="store_true", help="a connection for every request")
    parser.add_argument("--warm-up", type=float, default=0.0, help="seconds before anything is counted")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for a request that has a connection")
    given = parser.parse_args()
    try:
        from bench._generator import run
        from meshcore.errors import ConfigError, MeshError
    except ImportError as error:
        print(f"generate: {error}: run `make build`", file=sys.stderr)
        return 1
    try:
        result = run(**vars(given))
    except ConfigError as error:
        parser.error(str(error))
    except OverflowError:
        parser.error("a number is too large")
    except MeshError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
