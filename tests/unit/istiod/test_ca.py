"""Signing: what stands in a certificate, how long it lasts, and that OpenSSL agrees."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from istiod import ca
from istiod.ca.crl import Revocations
from istiod.ca.material import from_files, new_root
from meshcore.errors import CertificateError, Unavailable
from meshcore.identity import Identity
from tests.unit.istiod.ca_support import DAY, LIFETIMES, Corp, ca_files, leaf
from tests.unit.istiod.support import new_csr

WEB = Identity("cluster.local", "default", "web")
CERTIFICATES_PER_CPU_SECOND = 500
"""A node with 100 pods starts: its certificates take a fifth of a second of istiod."""


def authority(folder: Path, ca_ttl: timedelta = 3650 * DAY) -> ca.Authority:
    return ca.self_signed(str(folder), "cluster.local", ca_ttl, DAY, 90 * DAY)


def test_what_a_certificate_says(tmp_path: Path) -> None:
    made = authority(tmp_path)
    csr, _ = new_csr()
    chain = made.sign(csr, WEB, 0)
    found = leaf(chain)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [n.value for n in names.value] == [str(WEB)]
    assert list(found.subject) == []
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment
    assert not usage.key_cert_sign
    extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert chain[1:] == [made.root_pem]
    found.verify_directly_issued_by(made.certificate)
    assert found.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
    assert leaf(made.sign(csr, WEB, 0)).serial_number != found.serial_number


@pytest.mark.parametrize(("asked", "given"), [(0, DAY), (-5, DAY), (60, timedelta(minutes=1)), (90 * 86400, 90 * DAY)])
def test_lifetimes(tmp_path: Path, asked: int, given: timedelta) -> None:
    found = leaf(authority(tmp_path).sign(new_csr()[0], WEB, asked))
    assert found.not_valid_after_utc - found.not_valid_before_utc == given + ca.BACKDATE
    assert timedelta() <= datetime.now(UTC) - found.not_valid_before_utc - ca.BACKDATE < timedelta(seconds=30)


def test_a_lifetime_is_an_error_beyond_the_limit_and_is_clamped_to_the_signers(tmp_path: Path) -> None:
    made = authority(tmp_path, 2 * DAY)
    with pytest.raises(CertificateError, match="longer than the limit"):
        made.sign(new_csr()[0], WEB, 90 * 86400 + 1)
    found = leaf(made.sign(new_csr()[0], WEB, 30 * 86400))
    assert found.not_valid_after_utc == made.certificate.not_valid_after_utc


def test_an_expired_signer_refuses() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old = new_root(key, "cluster.local", -timedelta(seconds=1))
    made = ca.Authority(ca.Material(key, old, (), (old,), Revocations()), LIFETIMES)
    with pytest.raises(Unavailable, match="has expired"):
        made.sign(new_csr()[0], WEB, 0)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["p384", "rsa"]
)
def test_other_keys_of_callers(tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    assert leaf(authority(tmp_path).sign(new_csr(key)[0], WEB, 0)).public_key() == key.public_key()


def test_no_text_of_a_ca_shows_its_key(tmp_path: Path) -> None:
    made = authority(tmp_path)
    for text in (repr(made), repr(made.material), repr(ca.Secret("s", "t", {"ca-key.pem": b"PRIVATE"}))):
        assert "PRIVATE" not in text
        assert "key" not in text.lower()


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "verify", "-x509_strict", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)


def test_a_chain_of_two_intermediates_is_sent_in_order_and_openssl_agrees(tmp_path: Path) -> None:
    root, other = Corp("root"), Corp("other")
    upper = root.issue("upper", path_length=1)
    lower = upper.issue("lower")
    made = ca.Authority(from_files(ca_files(lower, [root, upper], [other, root]), "dir"), LIFETIMES)
    chain = made.sign(new_csr()[0], WEB, 0)
    assert chain[1:-1] == [lower.pem, upper.pem]
    assert chain[-1] == root.pem + other.pem
    assert made.root_expiry == root.certificate.not_valid_after_utc
    assert made.chain_expiry == lower.certificate.not_valid_after_utc
    (tmp_path / "leaf").write_text(chain[0])
    (tmp_path / "middle").write_text("".join(chain[1:-1]))
    (tmp_path / "root").write_text(chain[-1])
    for purpose in ("sslclient", "sslserver"):
        done = verify(tmp_path, "-purpose", purpose, "-CAfile", "root", "-untrusted", "middle", "leaf")
        assert done.returncode == 0, done.stderr


def test_openssl_accepts_a_self_signed_chain_strictly(tmp_path: Path) -> None:
    made = authority(tmp_path)
    (tmp_path / "leaf").write_text(made.sign(new_csr()[0], WEB, 0)[0])
    done = verify(tmp_path, "-purpose", "sslclient", "-CAfile", "ca-cert.pem", "leaf")
    assert done.returncode == 0, done.stderr


def test_the_node_of_a_certificate() -> None:
    assert ca.node_of((ca.node_san("n1.example"),)) == "n1.example"
    assert ca.node_of(("a.example",)) == ""
    assert ca.node_of((ca.node_san("a"), ca.node_san("b"))) == ""


def test_how_many_certificates_a_cpu_second_gives(tmp_path: Path) -> None:
    made = authority(tmp_path)
    requests = [new_csr()[0] for _ in range(20)]
    begun = time.process_time()
    for _ in range(10):
        for csr in requests:
            made.sign(csr, WEB, 0)
    rate = 200 / (time.process_time() - begun)
    print(f"{rate:.0f} certificates per CPU second")  # noqa: T201 - shown by pytest -rP
    assert rate > CERTIFICATES_PER_CPU_SECOND
