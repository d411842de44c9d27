"""What a stranger learns from the HBONE port of a pod: openssl's view of its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from ambient.demo.errors import CheckFailed
from ambient.demo.processes import Processes

HBONE: Final = 15008
_TIMEOUT: Final = 5.0  # seconds
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


class Handshake(NamedTuple):
    """`san` and `serial` (decimal) are those of the server's certificate; `refused` names the alert that came back."""

    san: str
    serial: str
    verified: bool
    refused: str


def shake(processes: Processes, netns: str, ip: str, root: Path) -> Handshake:
    """A TLS 1.3 handshake by openssl without a client certificate, from inside `netns`."""
    command = ["openssl", "s_client", "-connect", f"{ip}:{HBONE}", "-CAfile", str(root), "-tls1_3", "-alpn", "h2"]
    done = processes.run([*command, "-ign_eof"], netns=netns, timeout=_TIMEOUT)
    text = done.stdout + done.stderr
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < 0:
        last = text.strip().splitlines()[-1:] or ["nothing"]
        raise CheckFailed(f"no certificate from {ip}:{HBONE}: {last[0]}")
    shown = processes.run(
        ["openssl", "x509", "-noout", "-serial", "-ext", "subjectAltName"], stdin=text[begin:end] + _END + "\n"
    ).stdout.splitlines()
    serial = next((line.partition("=")[2] for line in shown if line.startswith("serial=")), "0")
    san = next((line.strip() for line in shown if line.strip().startswith("URI:")), "nobody")
    alert = next((line for line in text.splitlines() if "alert" in line and "error" in line), "")
    words = [word for word in alert.split(":") if "alert" in word]
    return Handshake(
        san.removeprefix("URI:"), str(int(serial, 16)), "Verify return code: 0 (ok)" in text, words[-1] if words else ""
    )
