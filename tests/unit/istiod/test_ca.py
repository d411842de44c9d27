"""The CA: what stands in a certificate, how long it lasts, and which files it accepts."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from istiod import ca
from meshcore.errors import CertificateError, ConfigError
from meshcore.identity import Identity
from tests.unit.istiod.support import new_csr

WEB = Identity("cluster.local", "default", "web")
DAY = timedelta(days=1)


def authority(folder: Path, ca_ttl: timedelta = 3650 * DAY) -> ca.Authority:
    return ca.self_signed(str(folder), "cluster.local", ca_ttl, DAY, 90 * DAY)


def leaf(chain: list[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())


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


def test_an_expired_signer_refuses(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old = ca._root(key, "cluster.local", -timedelta(seconds=1))
    made = ca.Authority(key, old, (), "", default_ttl=DAY, max_ttl=DAY)
    with pytest.raises(CertificateError, match="has expired"):
        made.sign(new_csr()[0], WEB, 0)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["p384", "rsa"]
)
def test_other_keys_of_callers(tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    assert leaf(authority(tmp_path).sign(new_csr(key)[0], WEB, 0)).public_key() == key.public_key()


def test_the_ca_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    first = authority(tmp_path)
    again = authority(tmp_path)
    assert again.root_pem == first.root_pem
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(first)


def test_an_aged_root_is_renewed_with_the_same_key(tmp_path: Path) -> None:
    first = authority(tmp_path, timedelta(seconds=20))  # of which the backdating is over
    again = authority(tmp_path)
    assert again.root_pem != first.root_pem
    assert again.certificate.public_key() == first.certificate.public_key()
    leaf(first.sign(new_csr()[0], WEB, 0)).verify_directly_issued_by(again.certificate)


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    authority(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    authority(other)
    shutil.copy(other / "ca-cert.pem", tmp_path / "ca-cert.pem")
    with pytest.raises(ConfigError, match="does not belong to the key"):
        authority(tmp_path)
    (tmp_path / "ca-key.pem").write_text("rubbish")
    with pytest.raises(ConfigError, match="not an unencrypted private key"):
        authority(tmp_path)


def intermediate(folder: Path, parent: ca.Authority, parent_key: ec.EllipticCurvePrivateKey, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(parent.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 10 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca._ROOT_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(ca._authority_key_id(parent.certificate), critical=False)
        .sign(parent_key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "ca-key.pem").write_bytes(ca._key_pem(key))
    (folder / "ca-cert.pem").write_text(ca._pem(certificate))
    (folder / "cert-chain.pem").write_text(ca._pem(certificate))
    (folder / "root-cert.pem").write_text(parent.root_pem)


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "verify", "-x509_strict", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)


def test_a_plugged_in_ca_sends_its_intermediate_and_openssl_agrees(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    root = ca._root(key, "corp", 100 * DAY)
    parent = ca.Authority(key, root, (), ca._pem(root), default_ttl=DAY, max_ttl=DAY)
    intermediate(tmp_path / "ca", parent, key, "mid")
    made = ca.plugged_in(str(tmp_path / "ca"), DAY, 90 * DAY)
    chain = made.sign(new_csr()[0], WEB, 0)
    assert len(chain) == 3
    assert chain[1] == (tmp_path / "ca" / "ca-cert.pem").read_text()
    assert chain[-1] == parent.root_pem
    for name, text in zip(("leaf", "mid", "root"), chain, strict=True):
        (tmp_path / name).write_text(text)
    for purpose in ("sslclient", "sslserver"):
        done = verify(tmp_path, "-purpose", purpose, "-CAfile", "root", "-untrusted", "mid", "leaf")
        assert done.returncode == 0, done.stderr
    (tmp_path / "ca" / "root-cert.pem").write_text(authority(tmp_path).root_pem)
    with pytest.raises(ConfigError, match="has issued"):
        ca.plugged_in(str(tmp_path / "ca"), DAY, DAY)
    (tmp_path / "ca" / "root-cert.pem").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        ca.plugged_in(str(tmp_path / "ca"), DAY, DAY)


def test_openssl_accepts_a_self_signed_chain_strictly(tmp_path: Path) -> None:
    made = authority(tmp_path)
    (tmp_path / "leaf").write_text(made.sign(new_csr()[0], WEB, 0)[0])
    done = verify(tmp_path, "-purpose", "sslclient", "-CAfile", "ca-cert.pem", "leaf")
    assert done.returncode == 0, done.stderr


def test_the_node_of_a_certificate() -> None:
    assert ca.node_of((ca.node_san("n1.example"),)) == "n1.example"
    assert ca.node_of(("a.example",)) == ""
    assert ca.node_of((ca.node_san("a"), ca.node_san("b"))) == ""
