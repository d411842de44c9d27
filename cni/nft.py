"""Driving the `nft` program by JSON (libnftables-json(5)), inside a network namespace."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cni.redirect import RulesError, ToolMissing
from meshcore.netns import inside

TIMEOUT_S: Final = 10.0
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin", "LC_ALL": "C"}
_TEXT_MAX: Final = 400  # characters of nft's message that an error repeats


def run(netns: int | None, arguments: Sequence[str], transaction: Sequence[dict[str, Any]] | None = None) -> bytes:
    """Run nft in a namespace (None: the caller's) -> what it printed.

    `transaction` is carried out as a whole or not at all. A child starts in the namespace of the thread that
    forks it, so nothing needs to run between fork and exec. Raises RulesError.
    """
    body = msgspec.json.encode({"nftables": list(transaction)}) if transaction is not None else b""
    try:
        with inside(netns) if netns is not None else contextlib.nullcontext():
            done = subprocess.run(
                ["nft", *arguments], input=body, capture_output=True, timeout=TIMEOUT_S, env=ENVIRONMENT, check=False
            )
    except FileNotFoundError:
        raise ToolMissing("the program nft is not installed; install the package nftables") from None
    except subprocess.TimeoutExpired:
        raise RulesError(f"nft {' '.join(arguments)} did not end within {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise RulesError(f"nft {' '.join(arguments)}: {_why(done.stderr.decode('utf-8', 'replace'))}")
    return done.stdout


def commit(netns: int | None, transaction: Sequence[dict[str, Any]]) -> None:
    """Carry out one transaction."""
    run(netns, ("-j", "-f", "-"), transaction)


def table(netns: int | None, name: str) -> list[dict[str, Any]] | None:
    """Everything in `table inet NAME`, in nft's JSON; None when there is no such table."""
    return tables(netns).get(name)


def tables(netns: int | None) -> dict[str, list[dict[str, Any]]]:
    """Name -> what is in it, of every table of family inet; one call, as starting nft is what costs."""
    printed = run(netns, ("-j", "list", "ruleset", "inet"))
    try:
        listed = msgspec.json.decode(printed)["nftables"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise RulesError("nft printed no JSON; this agent needs an nft that was built with JSON support") from None
    found: dict[str, list[dict[str, Any]]] = {}
    for item in listed:
        ((kind, body),) = item.items()
        if kind == "table":
            found[body["name"]] = []
        elif isinstance(body, dict) and body.get("table") in found:
            found[body["table"]].append(item)
    return found


def _why(message: str) -> str:
    text = " ".join(message.split())[:_TEXT_MAX] or "failed without a message"
    if "Operation not permitted" in text:
        return f"{text} (the agent needs CAP_NET_ADMIN in the namespace)"
    if "Operation not supported" in text or "Protocol not supported" in text:
        return f"{text} (this kernel lacks nf_tables with NAT; load nf_tables, nft_nat, nft_redir, nft_ct)"
    if "JSON support not compiled-in" in text:
        return f"{text} (install an nftables package with JSON support)"
    return text
