"""A TLS connection whose state changes under one lock, so that several users may share it.

TLS runs on memory buffers and only plain sockets block: it works with threads, and with the greenlets that locust puts
in their place. One thread reads. Whoever has something to send writes, unless somebody is writing already, who then
takes it along.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench.errors import BenchError
from bench.subjects.base import Address

_READ: Final = 65_536
_WAIT_MIN: Final = 0.001  # seconds: zero would mean not to wait at all


class HboneError(BenchError, code="bench.hbone"):
    """A tunnel or its connection failed; the text says which side did what."""


class Files(NamedTuple):
    """PEM: the client's chain, its key, and the root that signed the server's certificate."""

    chain: Path
    key: Path
    root: Path


def client_context(files: Files) -> ssl.SSLContext:
    """TLS 1.3 with a client certificate and ALPN h2; raises HboneError naming the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the server's name is a SPIFFE URI, which whoever dials compares
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(files.root)
    except OSError as error:
        raise HboneError(f"{files.root} holds no certificate in PEM: {reason(error)}") from error
    try:
        context.load_cert_chain(files.chain, files.key, password=_no_password)
    except OSError as error:
        raise HboneError(
            f"{files.chain} and {files.key} are no certificate chain and its key in PEM: {reason(error)}"
        ) from error
    return context


def _no_password() -> str:
    """OpenSSL would ask the terminal for the password of an encrypted key."""
    return ""


def reason(error: OSError) -> str:
    """What went wrong, without the place in the C source that `ssl` adds."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error)


class Channel:
    """A TLS connection to `address`, established. `timeout` in seconds holds for each wait.

    Raises HboneError when it cannot be made. `lock` guards it and whatever its owner keeps with it.
    """

    def __init__(self, address: Address, context: ssl.SSLContext, timeout: float) -> None:
        self.where = f"{address.host}:{address.port}"
        self.timeout = timeout
        self.lock = threading.Lock()
        self._writing = threading.Lock()
        self._out = bytearray()  # ciphertext; whoever writes takes from its front, all others append
        self._closed = False
        self._arriving, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arriving, self._leaving)
        try:
            self._socket = socket.create_connection(address, timeout)
        except OSError as error:
            raise HboneError(f"cannot connect to {self.where}: {reason(error)}") from error
        self.local: tuple[str, int] = self._socket.getsockname()[:2]
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._handshake()
            self._socket.settimeout(timeout)
        except OSError as error:
            self._socket.close()
            raise HboneError(f"TLS handshake with {self.where}: {reason(error)}") from error
        except BaseException:
            self._socket.close()
            raise

    def _handshake(self) -> None:
        deadline = time.monotonic() + self.timeout
        done = False
        while not done:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                done = True
            self._socket.settimeout(max(_WAIT_MIN, deadline - time.monotonic()))
            if data := self._leaving.read():
                self._socket.sendall(data)
            if not done:
                if not (data := self._socket.recv(_READ)):
                    raise HboneError(f"{self.where} closed the connection during the TLS handshake")
                self._arriving.write(data)

    @property
    def protocol(self) -> str:
        """What ALPN chose; "" for nothing."""
        return self._tls.selected_alpn_protocol() or ""

    @property
    def uris(self) -> list[str]:
        """The URIs in the server's certificate."""
        names = (self._tls.getpeercert() or {}).get("subjectAltName", ())
        return [str(entry[1]) for entry in names if entry[0] == "URI"]

    def stage(self, data: bytes) -> None:
        """Encrypt what `flush` will send; after `close` it is lost. Call it with the lock held, to keep the order."""
        if data and not self._closed:
            self._tls.write(data)
        self._out += self._leaving.read()

    def flush(self) -> None:
        """Send what is staged, or leave it to whoever is sending. Call it without the lock. Raises OSError."""
        while self._out and self._writing.acquire(blocking=False):
            try:
                while self._out:
                    with self.lock:
                        data = bytes(self._out)
                    sent = self._socket.send(data)
                    with self.lock:
                        del self._out[:sent]
            finally:
                self._writing.release()

    def receive(self) -> bytes:
        """The next decrypted bytes, nothing at the end: for the one thread that reads. Raises OSError, HboneError.

        An idle connection is waited for until `close`.
        """
        while True:
            try:
                data = self._socket.recv(_READ)
            except TimeoutError:
                if self._closed:
                    return b""
                continue
            with self.lock:
                plain, ended = self._decrypt(data)
            if plain or ended:
                return plain

    def _decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """-> what has come, and whether it ends with it."""
        if data:
            self._arriving.write(data)
        else:
            self._arriving.write_eof()
        plain = bytearray()
        try:
            while piece := self._tls.read(_READ):
                plain += piece
        except ssl.SSLWantReadError:
            self.stage(b"")  # TLS may answer by itself, as to a request for new keys
            return bytes(plain), False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        except ssl.SSLError as error:
            raise HboneError(f"{self.where} ended TLS: {reason(error)}") from error
        return bytes(plain), True

    def close(self) -> None:
        """Tell the peer and wake the reader; never fails."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._tls.unwrap()
            self.stage(b"")
        with contextlib.suppress(OSError):
            self.flush()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the socket back: the reader's last act, since a descriptor in use must not be another's."""
        self._socket.close()
