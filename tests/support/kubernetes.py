"""A real kube-apiserver with its etcd, as `make kube` builds them, on loopback and in a directory of their own.

There are no controllers, no scheduler and no nodes: nothing makes a namespace's default service account, nothing runs
a pod, and a deleted namespace stays Terminating. Tests take a fresh namespace each and leave it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import json
import secrets
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support import programs
from tests.support.build import ROOT
from tests.support.worker_harness import LOOPBACK, TIMEOUT, eventually

Json = dict[str, Any]

START_S: Final = 50.0  # a quarter of it is usual; below pytest's own limit of 60 s, so that the logs are shown
STOP_S: Final = 5.0  # what it holds is thrown away: no need to let it finish
LOG_TAIL: Final = 4000  # characters of each log that a failure shows
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
AUDIENCE: Final = "istio-ca"
SERVICE_RANGE: Final = "10.96.0.0/16"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json"


class Binaries(NamedTuple):
    etcd: Path
    apiserver: Path


class ApiError(Exception):
    """The server refused; `status` is HTTP's, `reason` and the text are those of its Status object."""

    def __init__(self, status: int, body: bytes) -> None:
        try:
            said = json.loads(body)
        except ValueError:
            said = {"message": body.decode(errors="replace")}
        super().__init__(f"{status}: {said.get('message')}")
        self.status = status
        self.reason = str(said.get("reason"))


class Kubernetes:
    """A running API server. `token` is an administrator's; the server certificate is its own authority in `ca_file`."""

    def __init__(self, url: str, token: str, ca_file: Path) -> None:
        self.url = url
        self.token = token
        self.ca_file = ca_file
        self._tls = ssl.create_default_context(cafile=ca_file)

    def request(self, method: str, path: str, body: Json | None = None, *, content: str = JSON, token: str = "") -> Any:
        """One call, as the administrator unless there is another token -> the decoded answer. ApiError, OSError."""
        text = self.text(
            method, path, None if body is None else json.dumps(body).encode(), content=content, token=token
        )
        return json.loads(text)

    def text(self, method: str, path: str, body: bytes | None = None, *, content: str = JSON, token: str = "") -> bytes:
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": content}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=self._tls) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, error.read()) from None

    def create_namespace(self, prefix: str = "test") -> str:
        """-> the name, which no other test has."""
        made = self.request("POST", "/api/v1/namespaces", {"metadata": {"generateName": f"{prefix}-"}})
        return str(made["metadata"]["name"])

    def create_service_account(self, namespace: str, name: str) -> Json:
        made: Json = self.request(
            "POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}}
        )
        return made

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        service_account: str = "default",
        node: str = "node-1",
        ip: str = "10.244.0.1",
        labels: dict[str, str] | None = None,
    ) -> Json:
        """A pod that runs and is ready, as far as the API tells: with its node and its address."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        spec = {
            "serviceAccountName": service_account,
            "nodeName": node,
            "containers": [{"name": "app", "image": "app"}],
        }
        self.request("POST", path, {"metadata": {"name": name, "labels": labels or {}}, "spec": spec})
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        made: Json = self.request("PATCH", f"{path}/{name}/status", {"status": status}, content=MERGE)
        return made

    def service_account_token(
        self,
        namespace: str,
        name: str,
        *,
        pod: Json | None = None,
        audience: str = AUDIENCE,
        lifetime: dt.timedelta = dt.timedelta(hours=1),
    ) -> str:
        """A token as a projected volume would hold it, bound to the pod when there is one; 10 minutes at least."""
        spec: Json = {"audiences": [audience], "expirationSeconds": int(lifetime.total_seconds())}
        if pod is not None:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.request("POST", path, {"spec": spec})["status"]["token"])


@functools.cache
def binaries() -> Binaries | None:
    """What `make kube` left in its cache; None when it has not run for this version."""
    where = subprocess.run(
        [ROOT / "scripts" / "kube", "--directory"],
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=True,
        env=programs.environment(),
    )
    directory = Path(where.stdout.decode().strip())
    found = Binaries(directory / "etcd", directory / "kube-apiserver")
    return found if all(path.is_file() for path in found) else None


def needed() -> Binaries:
    """The same; the test is skipped when there are none."""
    found = binaries()
    if found is None:
        pytest.skip("no kube-apiserver: `make kube` builds it")
    return found


_SHARED: Final = pytest.StashKey[Kubernetes | Exception]()


def shared(config: pytest.Config) -> Kubernetes:
    """The server of this test process: the first to ask starts it, and it stops with pytest. Ask on the main thread.

    Skips the test without the binaries. After a failed start everybody gets the first failure at once.
    """
    needed()
    if _SHARED not in config.stash:
        stack = contextlib.ExitStack()
        try:
            config.stash[_SHARED] = stack.enter_context(kubernetes())
            config.add_cleanup(stack.close)
        except Exception as error:  # noqa: BLE001 # kept for those who ask later, and raised
            config.stash[_SHARED] = error
    outcome = config.stash[_SHARED]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@contextlib.contextmanager
def kubernetes() -> Iterator[Kubernetes]:
    """A server of one's own; skips the test without the binaries.

    It and its etcd die with the thread that starts it, also when that is killed.
    """
    found = needed()
    with tempfile.TemporaryDirectory(prefix="kube-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        try:
            stack.enter_context(_running(directory, "etcd", found.etcd, _etcd_flags(directory)))
            port = stack.enter_context(_reserved_port())
            token = secrets.token_hex(16)
            flags = _apiserver_flags(directory, port, token)
            server = stack.enter_context(_running(directory, "kube-apiserver", found.apiserver, flags))
            made = Kubernetes(f"https://{LOOPBACK}:{port}", token, directory / "server.crt")
            _wait_ready(made, server)
        except BaseException as error:
            for log in sorted(directory.glob("*.log")):
                error.add_note(f"--- {log.stem}\n{log.read_text(errors='replace')[-LOG_TAIL:]}")
            raise
        yield made


@contextlib.contextmanager
def _running(directory: Path, name: str, binary: Path, flags: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [programs.find("setpriv"), "--pdeathsig", "KILL", binary, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=programs.environment(),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def _wait_ready(server: Kubernetes, process: subprocess.Popen[bytes]) -> None:
    said = "nothing yet"

    def ready() -> bool:
        nonlocal said
        status = process.poll()
        assert status is None, f"kube-apiserver ended with {status}"
        try:
            return server.text("GET", "/readyz") == b"ok"
        except (ApiError, OSError) as error:
            said = str(error)
            return False

    eventually(ready, lambda: f"kube-apiserver is ready; it says: {said}", START_S)


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """Nobody else gets the port while this is open; a server that sets SO_REUSEPORT may listen on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((LOOPBACK, 0))
        yield held.getsockname()[1]


def _etcd_flags(directory: Path) -> list[str]:
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=unix://{directory / 'etcd.sock'}",
        # Has to be an address with a port; nobody reads it.
        "--advertise-client-urls=http://127.0.0.1:0",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver_flags(directory: Path, port: int, token: str) -> list[str]:
    certificate, key = _server_certificate()
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    files = {
        "server.crt": certificate,
        "server.key": key,
        "accounts.key": _private_pem(signing),
        "accounts.pub": signing.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "tokens.csv": f'{token},admin,admin,"system:masters"\n'.encode(),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return [
        f"--etcd-servers=unix://{directory / 'etcd.sock'}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--permit-port-sharing",
        # Loopback is no valid endpoint of the service `kubernetes`: none is published.
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--tls-cert-file={directory / 'server.crt'}",
        f"--tls-private-key-file={directory / 'server.key'}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-signing-key-file={directory / 'accounts.key'}",
        f"--service-account-key-file={directory / 'accounts.pub'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        # Without the controller that makes default service accounts it would refuse every pod.
        "--disable-admission-plugins=ServiceAccount",
        "--profiling=false",
    ]


def _server_certificate() -> tuple[bytes, bytes]:
    """-> (certificate, key), as PEM: a leaf for loopback that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=2))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK)), x509.DNSName("localhost")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
