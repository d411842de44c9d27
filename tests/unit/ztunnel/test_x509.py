"""The reader of certificates, against what `cryptography` writes and says."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcore.errors import CertificateError
from tests.support.issuer import Issuer
from ztunnel import x509

URI = "spiffe://cluster.local/ns/a/sa/b"


@given(st.integers(1, 2**159), st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - hypothesis adds no zone
def test_it_reads_what_was_written(serial: int, start: datetime) -> None:
    start = start.replace(tzinfo=UTC, microsecond=0)
    pem = Issuer.shared().certificate(URI, not_before=start.timestamp(), ttl=86400, serial=serial)
    (found,) = x509.parse_all("text before\n" + pem)
    assert found.serial == serial
    assert found.not_before == start.timestamp()
    assert found.not_after == start.timestamp() + 86400
    assert found.uris == (URI,)
    assert found.pem == pem


def test_several_in_order() -> None:
    issuer = Issuer.shared()
    first, second = issuer.certificate(URI), issuer.root_pem
    assert [each.pem for each in x509.parse_all(first + second)] == [first, second]
    assert x509.parse_all(second)[0].uris == ()


def test_text_without_a_certificate() -> None:
    for text in ("", "nonsense", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CertificateError):
            x509.parse_all(text)


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)


@given(CHANGES, st.integers(0, 2**16))
def test_damaged_certificates_never_raise_anything_else(changes: list[tuple[int, int]], cut: int) -> None:
    der = bytearray(Issuer.shared().certificate_der(URI))
    for place, value in changes:
        der[place % len(der)] = value
    del der[len(der) - cut % 64 :]
    body = base64.encodebytes(bytes(der)).decode()
    try:
        x509.parse_all(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
    except CertificateError:
        return


def test_times_are_shown_as_rfc3339() -> None:
    assert x509.rfc3339(0) == "1970-01-01T00:00:00Z"
