"""Revocations: which lists count, and that istiod refuses whom they name, on new connections and on open ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st

from istiod import ca
from istiod.ca.crl import Revocations, parse_crl
from istiod.ca.material import from_files
from meshcore.errors import AuthenticationError, ConfigError, MeshError, Unavailable
from meshcore.stream import client_context
from meshcore.stream.tls import ServerContext, server_context, verified_chain
from tests.unit.istiod.ca_support import DAY, LIFETIMES, Corp, ca_files, leaf, write
from tests.unit.istiod.support import WEB, Mesh, new_csr

ROOT, OTHER = Corp("root"), Corp("other")
MID = ROOT.issue("mid")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_leaf_and_an_intermediate_are_found_by_issuer_and_serial() -> None:
    authority = ca.Authority(from_files(ca_files(MID, [], [ROOT], MID.crl(5) + b"\r\n" + ROOT.crl(7)), "d"), LIFETIMES)
    assert authority.crl_pem.count("BEGIN X509 CRL") == 2
    good = leaf(authority.sign(new_csr()[0], WEB, 0))
    assert not authority.revoked([der(good), der(MID.certificate), der(ROOT.certificate)])
    revoked = parse_crl(MID.crl(good.serial_number), "f", [MID.certificate])
    assert f"{good.serial_number:x}" in revoked.find([der(good), der(MID.certificate)])
    assert "mid" in revoked.find([der(good)])
    upper = parse_crl(ROOT.crl(MID.certificate.serial_number), "f", [ROOT.certificate])
    assert upper.find([der(good), der(MID.certificate)])
    namesake = parse_crl(OTHER.crl(good.serial_number), "f", [OTHER.certificate])
    assert not namesake.find([der(good)])
    assert not Revocations().find([b"nobody reads this"])


def test_an_outdated_list_holds_and_is_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, ca_files(MID, [], [ROOT], MID.crl(5, next_update=-DAY)))
    source = ca.PluggedIn(str(tmp_path))
    authority = ca.CertificateAuthority(source, source.read(), LIFETIMES)
    assert authority.current.crl_pem
    assert "out of date" in caplog.text


def test_a_list_of_a_part_is_refused() -> None:
    now = MID.certificate.not_valid_before_utc
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(MID.certificate.subject)
        .last_update(now)
        .next_update(now + 30 * DAY)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
    )
    data = builder.sign(MID.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(ConfigError, match="partial"):
        parse_crl(data, "f", [MID.certificate])


def test_a_forged_list_of_the_right_name_is_refused() -> None:
    forger = Corp("mid")
    with pytest.raises(ConfigError, match="f: the list of 'O=mid' is signed by none"):
        parse_crl(forger.crl(1), "f", [MID.certificate, ROOT.certificate])


LIST = MID.crl(1, 2, 3)


@given(st.integers(0, len(LIST) - 1), st.integers(0, 255))
def test_a_damaged_list_is_refused_or_says_the_same(place: int, byte: int) -> None:
    data = bytearray(LIST)
    data[place] = byte
    try:
        found = parse_crl(bytes(data), "f", [MID.certificate])
    except ConfigError:
        return
    whole = parse_crl(LIST, "f", [MID.certificate])
    assert found._revoked == whole._revoked


def run(scenario: Coroutine[Any, Any, None], loop: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    loop(bounded())


def test_a_revoked_client_is_refused_after_a_reload_and_loses_its_open_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path / "ca", ca_files(MID, [], [ROOT]))
        mesh = Mesh(tmp_path, ca_dir=str(folder))
        async with mesh.running() as istiod:
            csr, key = new_csr()
            chain = istiod.authority.sign(csr, WEB, 0)
            bad = mesh.signer(lambda: client_context(mesh.root_pem, "".join(chain[:-1]), key))
            good = mesh.signer(mesh.tls(WEB))
            for signer in (bad, good):
                await signer.sign(new_csr()[0])
            write(folder, ca_files(MID, [], [ROOT], MID.crl(leaf(chain).serial_number)))
            await istiod.authority.refresh()
            assert istiod.authority.current.crl_pem
            with pytest.raises((Unavailable, AuthenticationError)):
                await bad.sign(new_csr()[0])
            with pytest.raises((Unavailable, AuthenticationError)):
                await bad.sign(new_csr()[0])
            await good.sign(new_csr()[0])
            fresh = mesh.signer(mesh.tls(WEB))
            await fresh.sign(new_csr()[0])
            for signer in (bad, good, fresh):
                await signer.close()

    run(scenario())


def test_a_new_root_is_believed_and_one_that_was_taken_away_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path / "ca", ca_files(MID, [], [ROOT]))
        mesh = Mesh(tmp_path, ca_dir=str(folder), multiroot=True)
        ours = OTHER.issue("theirs")
        other = ca.Authority(from_files(ca_files(ours, [], [OTHER]), "d"), LIFETIMES)
        csr, key = new_csr()
        chain = other.sign(csr, WEB, 0)
        async with mesh.running() as istiod:

            async def signs() -> None:
                signer = mesh.signer(lambda: client_context(mesh.root_pem, "".join(chain[:-1]), key))
                try:
                    await signer.sign(new_csr()[0])
                finally:
                    await signer.close()

            with pytest.raises(MeshError):
                await signs()
            write(folder, ca_files(MID, [], [ROOT, OTHER]))
            await istiod.authority.refresh()
            assert mesh.root_pem == ROOT.pem + OTHER.pem
            await signs()
            write(folder, ca_files(MID, [], [ROOT]))
            await istiod.authority.refresh()
            assert mesh.root_pem == ROOT.pem
            with pytest.raises(MeshError):
                await signs()

    run(scenario())


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_who_asks_hears_of_the_whole_chain_of_the_peer(tmp_path: Path, loop: Any) -> None:
    authority = ca.Authority(from_files(ca_files(MID, [], [ROOT]), "d"), LIFETIMES)
    csr, key = new_csr()
    mine = authority.sign(csr, WEB, 0)
    asked: list[tuple[bytes, ...]] = []

    def nothing(chain: Any) -> str:
        asked.append(tuple(chain))
        return ""

    async def scenario() -> None:
        context = server_context(authority.root_pem, *authority.serving(["localhost"]))
        held = ServerContext(context, nothing)
        chains: list[tuple[bytes, ...]] = []

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            chains.append(verified_chain(writer.get_extra_info("ssl_object")))
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=held)
        address = server.sockets[0].getsockname()[:2]
        for tls in (
            client_context(authority.root_pem, "".join(mine[:-1]), key),
            client_context(authority.root_pem),
        ):
            reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname="localhost")
            writer.write(b"x\n")
            assert await reader.readline() == b"x\n"
            writer.close()
        whole = (der(leaf(mine)), der(MID.certificate), der(ROOT.certificate))
        assert asked == chains == [whole, ()]
        held.use(context, lambda _: "everything")
        reader, writer = await asyncio.open_connection(
            *address, ssl=client_context(authority.root_pem), server_hostname="localhost"
        )
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert len(chains) == 2
        server.close()

    run(scenario(), loop)


def test_the_serving_certificate_is_renewed_for_new_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh = Mesh(tmp_path)
        async with mesh.running() as istiod:

            async def serial() -> str:
                _, writer = await asyncio.open_connection(*mesh.address, ssl=mesh.tls()(), server_hostname="localhost")
                found = str(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])
                writer.close()
                return found

            before = await serial()
            assert await serial() == before
            istiod._serve_anew()
            assert await serial() != before

    run(scenario())


def test_a_self_signed_root_is_renewed_under_a_running_istiod(tmp_path: Path) -> None:
    """Callers that hold the old root and callers that hold the new one are served, with leaves of either."""

    async def scenario() -> None:
        (tmp_path / "state").mkdir()
        old = ca.self_signed(str(tmp_path / "state"), "cluster.local", timedelta(seconds=60), DAY, DAY)
        mesh = Mesh(tmp_path, ca_check_interval=3600.0, ca_cert_grace_percent=1)
        assert mesh.istiod.authority.current.certificate == old.certificate
        async with mesh.running() as istiod:
            before = mesh.tls(WEB)()
            istiod.authority._source._rules = ca.SelfSigned("cluster.local", 3650 * DAY, 0.99)  # type: ignore[attr-defined]
            assert await istiod.authority.refresh()
            assert mesh.root_pem == istiod.authority.current.root_pem
            assert mesh.root_pem.endswith(old.root_pem)
            assert istiod.metrics.get("citadel_server_root_cert_expiry_timestamp") == (
                istiod.authority.current.certificate.not_valid_after_utc.timestamp()
            )
            for tls in (before, mesh.tls(WEB)()):
                signer = mesh.signer(lambda tls=tls: tls)  # type: ignore[misc]
                assert (await signer.sign(new_csr()[0]))[-1] == mesh.root_pem
                await signer.close()

    run(scenario())
