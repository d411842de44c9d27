"""Where the CA comes from, when it changes, and what is refused as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from istiod import ca, config
from istiod.ca import material as m
from istiod.ca import sources
from istiod.ca.material import SelfSigned, from_files
from istiod.ca.pem import bundle_pem, key_pem, parse_certificates
from meshcore.errors import ConfigError, DeadlineExceeded, Unavailable
from tests.unit.istiod.ca_support import DAY, LIFETIMES, Corp, ca_files, leaf, write
from tests.unit.istiod.support import WEB, new_csr

RULES = SelfSigned("cluster.local", 3650 * DAY)
AGED = SelfSigned("cluster.local", timedelta(seconds=20))
"""Of which the backdating is over: time to renew."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    uvloop.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a log line or a file, which set no event
            await asyncio.sleep(0.01)


# What is mounted


def test_names_of_cert_manager() -> None:
    root = Corp("root")
    upper = root.issue("upper", path_length=1)
    lower = upper.issue("lower")
    files = {
        "tls.key": key_pem(lower.key),
        "tls.crt": (lower.pem + upper.pem).encode(),
        "ca.crt": root.pem.encode(),
    }
    made = from_files(files, "dir")
    assert made.intermediates == (lower.certificate, upper.certificate)
    assert made.roots == (root.certificate,)


def test_the_issuer_in_force_is_taken_of_two_with_the_same_key() -> None:
    old = Corp("root", timedelta(seconds=-1))
    new = Corp("root")
    new.key = old.key
    new.certificate = m.new_root(old.key, "root", 100 * DAY, old.certificate)
    made = from_files(ca_files(new.issue("mid"), [], [old, new]), "dir")
    assert made.roots == (new.certificate, old.certificate)


ROOT, OTHER = Corp("root"), Corp("other")
MID = ROOT.issue("mid")
GOOD = ca_files(MID, [], [ROOT])
BAD = {
    "no key": (GOOD | {"ca-key.pem": b""}, "ca-key.pem: No such file"),
    "no certificate": ({k: v for k, v in GOOD.items() if k != "ca-cert.pem"}, "ca-cert.pem: No such file"),
    "no root": (GOOD | {"root-cert.pem": b"\n"}, "root-cert.pem: holds no certificate"),
    "rubbish": (GOOD | {"ca-cert.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n"}, "ca-cert.pem: holds no certificate"),
    "rubbish in the chain": (GOOD | {"cert-chain.pem": b"x"}, "cert-chain.pem: holds no certificate"),
    "another key": (GOOD | {"ca-key.pem": key_pem(OTHER.key)}, "does not belong to the key"),
    "no key in it": (GOOD | {"ca-key.pem": b"x"}, "not an unencrypted private key"),
    "another root": (ca_files(MID, [], [OTHER]), "has issued"),
    "a gap in the chain": (ca_files(ROOT.issue("a").issue("b"), [], [ROOT]), "has issued"),
    "expired": (ca_files(ROOT.issue("old", end=-timedelta(hours=1)), [], [ROOT]), "only valid from"),
    "not yet valid": (ca_files(ROOT.issue("new", start=DAY), [], [ROOT]), "only valid from"),
    "no CA": (ca_files(ROOT.issue("leaf", is_ca=False), [], [ROOT]), "no CA certificate"),
    "may not sign": (ca_files(ROOT.issue("leaf", may_sign=False), [], [ROOT]), "keyCertSign"),
    "too deep": (ca_files(MID.issue("deep"), [MID], [ROOT]), "allows 0 CAs below itself"),
    "crl of another": (GOOD | {"ca-crl.pem": OTHER.crl(1)}, "signed by none"),
    "crl is rubbish": (GOOD | {"ca-crl.pem": b"x"}, "holds no revocation list"),
    "own certificate revoked": (GOOD | {"ca-crl.pem": ROOT.crl(MID.certificate.serial_number)}, "revokes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_set_that_does_not_fit_is_refused_as_a_whole_and_the_place_is_named(tmp_path: Path, case: str) -> None:
    files, words = BAD[case]
    folder = write(tmp_path / "ca", files)
    with pytest.raises(ConfigError, match=words) as caught:
        ca.PluggedIn(str(folder)).read()
    assert str(folder) in str(caught.value)


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD | {"cert-chain.pem": b"x" * (sources.FILE_BYTES_MAX + 1)})
    with pytest.raises(ConfigError, match="longer than"):
        ca.PluggedIn(str(tmp_path)).read()


@given(st.dictionaries(st.sampled_from(m.FILES), st.binary(max_size=40) | st.sampled_from(list(GOOD.values()))))
def test_whatever_is_mounted_is_used_or_refused(files: dict[str, bytes]) -> None:
    with contextlib.suppress(ConfigError):
        from_files(files, "dir")
    with contextlib.suppress(ConfigError):
        RULES.settle(files, None, "dir")


# Changes of what is mounted


@contextlib.asynccontextmanager
async def followed(source: sources.Source) -> AsyncIterator[tuple[ca.CertificateAuthority, list[ca.Authority]]]:
    authority = await ca.CertificateAuthority.open(source, LIFETIMES)
    heard: list[ca.Authority] = []
    authority.on_change(heard.append)
    stop = asyncio.Event()
    task = asyncio.create_task(authority.run(stop))
    try:
        yield authority, heard
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


def test_a_new_intermediate_is_taken_over_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        write(tmp_path, GOOD)
        async with followed(ca.PluggedIn(str(tmp_path))) as (authority, heard):
            (tmp_path / "ca-key.pem").write_bytes(key_pem(OTHER.key))
            await until(lambda: "does not belong to the key" in caplog.text)
            assert "stays in force" in caplog.text
            assert authority.sign(new_csr()[0], WEB, 0)[1] == MID.pem
            following = ROOT.issue("following")
            write(tmp_path, ca_files(following, [], [ROOT]))
            await until(lambda: bool(heard))
            assert heard[-1] is authority.current
            chain = authority.sign(new_csr()[0], WEB, 0)
            assert chain[1] == following.pem
            leaf(chain).verify_directly_issued_by(following.certificate)

    run(scenario())


def test_a_mounted_secret_is_read_from_one_version_when_the_kubelet_swaps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kubelet does it: files are links through `..data`, which is renamed over. Seen without polling."""
    monkeypatch.setattr(sources, "POLL_S", 3600.0)

    def version(name: str, files: dict[str, bytes]) -> None:
        write(tmp_path / name, files)
        (tmp_path / "..new").symlink_to(name)
        (tmp_path / "..new").rename(tmp_path / "..data")

    async def scenario() -> None:
        version("..1", GOOD)
        for name in GOOD:
            (tmp_path / name).symlink_to(f"..data/{name}")
        async with followed(ca.PluggedIn(str(tmp_path))) as (authority, heard):
            following = ROOT.issue("following")
            files = ca_files(following, [], [ROOT])
            for number in itertools.count(2):  # again, until the watch has begun
                version(f"..{number}", files)
                shutil.rmtree(tmp_path / f"..{number - 1}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await until(lambda: bool(heard))
                if heard:
                    break
            assert authority.current.certificate == following.certificate

    run(scenario())


def test_a_swap_in_the_middle_of_reading_gives_the_version_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = ca_files(ROOT.issue("following"), [], [ROOT])
    for name, files in (("..1", GOOD), ("..2", following)):
        write(tmp_path / name, files)
    (tmp_path / "..data").symlink_to("..1")

    class Swapped(tuple[str, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[str]:
            for name in super().__iter__():
                yield name
                (tmp_path / "..new").symlink_to("..2")
                (tmp_path / "..new").rename(tmp_path / "..data")

    for name in GOOD:
        (tmp_path / name).symlink_to(f"..data/{name}")
    monkeypatch.setattr(m, "FILES", Swapped(m.FILES))
    assert sources.read_files(tmp_path) == GOOD
    assert sources.read_files(tmp_path) == following


def test_a_directory_that_goes_away_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "POLL_S", 0.2)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        folder = write(tmp_path / "ca", GOOD)
        async with followed(ca.PluggedIn(str(folder))) as (authority, heard):
            folder.rename(tmp_path / "away")
            await until(lambda: "No such file" in caplog.text)
            following = ROOT.issue("following")
            write(folder, ca_files(following, [], [ROOT]))
            await until(lambda: bool(heard))
            assert authority.current.certificate == following.certificate
            assert "in order again" in caplog.text

    run(scenario())


@pytest.mark.parametrize(
    ("multiroot", "before", "after", "taken"),
    [
        (False, [ROOT], [ROOT, OTHER], False),
        (True, [ROOT], [ROOT, OTHER], True),
        (True, [ROOT, OTHER], [ROOT], True),
        (True, [ROOT, OTHER], [ROOT, Corp("third")], False),
        (False, [ROOT, OTHER], [OTHER, ROOT], True),
    ],
)
def test_which_change_of_the_roots_is_taken_over(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    multiroot: bool,
    before: list[Corp],
    after: list[Corp],
    taken: bool,
) -> None:
    async def scenario() -> None:
        write(tmp_path, ca_files(MID, [], before))
        source = ca.PluggedIn(str(tmp_path), multiroot=multiroot)
        authority = await ca.CertificateAuthority.open(source, LIFETIMES)
        following = ROOT.issue("following")
        write(tmp_path, ca_files(following, [], after))
        assert await authority.refresh() is taken
        kept = following if taken else MID
        assert authority.current.certificate == kept.certificate
        assert ("the root bundle changes" in caplog.text) is not taken
        assert await authority.refresh() is False
        assert caplog.text.count("the root bundle changes") == (not taken)

    run(scenario())


def test_a_root_is_replaced_in_three_steps(tmp_path: Path) -> None:
    """Add the new root, sign with it, take the old one away."""

    async def scenario() -> None:
        new = Corp("new")
        mid = new.issue("mid")
        write(tmp_path, ca_files(MID, [], [ROOT]))
        authority = await ca.CertificateAuthority.open(ca.PluggedIn(str(tmp_path), multiroot=True), LIFETIMES)
        write(tmp_path, ca_files(MID, [], [ROOT, new]))
        assert await authority.refresh()
        assert authority.current.root_pem == ROOT.pem + new.pem
        write(tmp_path, ca_files(mid, [], [ROOT, new]))
        assert await authority.refresh()
        assert authority.current.root_pem == new.pem + ROOT.pem
        write(tmp_path, ca_files(mid, [], [new]))
        assert await authority.refresh()
        assert authority.sign(new_csr()[0], WEB, 0)[1:] == [mid.pem, new.pem]

    run(scenario())


def test_a_listener_that_fails_does_not_keep_the_others_from_hearing(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, GOOD)
        authority = await ca.CertificateAuthority.open(ca.PluggedIn(str(tmp_path)), LIFETIMES)
        heard: list[ca.Authority] = []
        authority.on_change(lambda _: heard[99])  # type: ignore[arg-type]
        authority.on_change(heard.append)
        write(tmp_path, ca_files(ROOT.issue("following"), [], [ROOT]))
        assert await authority.refresh()
        assert heard == [authority.current]

    run(scenario())


def test_settings_of_the_environment() -> None:
    environment = {
        "ISTIO_MULTIROOT_MESH": "true",
        "TRUST_DOMAIN_ALIASES": "a.example, b.example",
        "TOKEN_AUDIENCES": "istio-ca,other",
        "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE": "30",
        "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL": "30m",
        "USE_CACERTS_FOR_SELF_SIGNED_CA": "false",
    }
    made = config.load({"config_dir": "c", "state_dir": "s"}, environment)
    assert made.multiroot
    assert made.trust_domain_aliases == ("a.example", "b.example")
    assert made.token_audiences == ("istio-ca", "other")
    assert (made.ca_cert_grace_percent, made.ca_check_interval, made.ca_in_cacerts) == (30, 1800, False)
    with pytest.raises(ConfigError, match="GRACE_PERIOD_PERCENTILE"):
        config.load(
            {"config_dir": "c", "state_dir": "s"}, {"CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE": "0"}
        )


# The state directory


def test_the_ca_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    first = ca.StateDirectory(str(tmp_path), RULES).read()
    again = ca.StateDirectory(str(tmp_path), RULES).read()
    assert again.same(first)
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for folder in (tmp_path, other):
        ca.StateDirectory(str(folder), RULES).read()
    shutil.copy(other / "ca-cert.pem", tmp_path / "ca-cert.pem")
    with pytest.raises(ConfigError, match="does not belong to the key"):
        ca.StateDirectory(str(tmp_path), RULES).read()
    (tmp_path / "ca-key.pem").write_text("rubbish")
    with pytest.raises(ConfigError, match="not an unencrypted private key"):
        ca.StateDirectory(str(tmp_path), RULES).read()


def test_an_aged_root_is_renewed_with_the_same_key_and_stays_in_the_bundle(tmp_path: Path) -> None:
    first = ca.StateDirectory(str(tmp_path), AGED).read()
    again = ca.StateDirectory(str(tmp_path), RULES).read()
    assert again.certificate != first.certificate
    assert again.certificate.public_key() == first.certificate.public_key()
    assert again.roots == (again.certificate, first.certificate)
    assert parse_certificates((tmp_path / "root-cert.pem").read_bytes(), "") == again.roots
    csr = new_csr()[0]
    leaf(ca.Authority(first, LIFETIMES).sign(csr, WEB, 0)).verify_directly_issued_by(again.certificate)
    leaf(ca.Authority(again, LIFETIMES).sign(csr, WEB, 0)).verify_directly_issued_by(first.certificate)
    assert ca.StateDirectory(str(tmp_path), RULES).read().same(again)


def test_a_root_that_has_ended_leaves_the_bundle(tmp_path: Path) -> None:
    now = ca.StateDirectory(str(tmp_path), RULES).read()
    old = m.new_root(now.key, "cluster.local", -timedelta(seconds=1), now.certificate)
    (tmp_path / "root-cert.pem").write_text(bundle_pem((now.certificate, old)))
    assert ca.StateDirectory(str(tmp_path), RULES).read().roots == (now.certificate,)
    assert (tmp_path / "root-cert.pem").read_text() == bundle_pem((now.certificate,))


def test_roots_of_a_plugged_in_ca_of_before_are_not_trusted_any_more(tmp_path: Path) -> None:
    now = ca.StateDirectory(str(tmp_path), RULES).read()
    (tmp_path / "root-cert.pem").write_text(OTHER.pem)
    assert ca.StateDirectory(str(tmp_path), RULES).read().roots == (now.certificate,)


def test_a_root_is_renewed_while_istiod_runs_and_files_that_went_away_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = ca.StateDirectory(str(tmp_path), AGED).read()
        source = ca.StateDirectory(str(tmp_path), SelfSigned("cluster.local", 3650 * DAY, 1e-9), check_interval=0.02)
        source._held = first
        async with followed(source) as (authority, heard):
            assert authority.current.certificate == first.certificate
            source._rules = RULES
            await until(lambda: bool(heard))
            assert authority.current.certificate != first.certificate
            assert authority.current.root_pem == bundle_pem((authority.current.certificate, first.certificate))
            key = (tmp_path / "ca-key.pem").read_bytes()
            for name in ("ca-key.pem", "ca-cert.pem"):
                (tmp_path / name).unlink()
            await until((tmp_path / "ca-cert.pem").exists)
            assert (tmp_path / "ca-key.pem").read_bytes() == key
            assert len(heard) == 1

    run(scenario())


# The Secret


class Secrets:
    """The API server's part: optimistic locking. `before_write` happens between a reading and the writing after it."""

    def __init__(self) -> None:
        self.held: dict[str, ca.Secret] = {}
        self.writes = 0
        self.before_write: Callable[[], None] = lambda: None
        self.fault: Exception | None = None

    def put(self, secret: ca.Secret) -> None:
        self.writes += 1
        self.held[secret.name] = ca.Secret(secret.name, secret.type, dict(secret.data), str(self.writes))

    async def get(self, name: str) -> ca.Secret | None:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return self.held.get(name)

    async def create(self, secret: ca.Secret) -> None:
        self._meanwhile()
        if secret.name in self.held:
            raise ca.SecretConflict(f"Secret {secret.name} exists")
        self.put(secret)

    async def update(self, secret: ca.Secret) -> None:
        self._meanwhile()
        if self.held[secret.name].version != secret.version:
            raise ca.SecretConflict(f"Secret {secret.name} has changed")
        self.put(secret)

    def _meanwhile(self) -> None:
        change, self.before_write = self.before_write, lambda: None
        change()


def test_the_first_istiod_creates_the_secret_and_the_others_use_it() -> None:
    async def scenario() -> None:
        store = Secrets()
        made = await asyncio.gather(*(ca.SecretSource(store, RULES).load() for _ in range(5)))
        secret = store.held["istio-ca-secret"]
        assert store.writes == 1
        assert secret.type == "istio.io/ca-root"
        assert secret.data.keys() == {"ca-cert.pem", "ca-key.pem", "root-cert.pem"}
        assert all(one.same(made[0]) for one in made)

    run(scenario())


def test_the_root_in_the_secret_is_renewed_once_by_whoever_is_first() -> None:
    async def scenario() -> None:
        store = Secrets()
        first = await ca.SecretSource(store, AGED, name="cacerts").load()
        store.held["cacerts"].data["note"] = b"kept"
        made = await asyncio.gather(*(ca.SecretSource(store, RULES, name="cacerts").load() for _ in range(5)))
        assert store.writes == 2
        assert store.held["cacerts"].data["note"] == b"kept"
        assert all(one.roots == (made[0].certificate, first.certificate) for one in made)
        assert made[0].certificate.public_key() == first.certificate.public_key()

    run(scenario())


def test_a_secret_that_was_deleted_comes_back_with_the_same_key() -> None:
    async def scenario() -> None:
        store = Secrets()
        authority = await ca.CertificateAuthority.open(ca.SecretSource(store, RULES), LIFETIMES)
        del store.held["istio-ca-secret"]
        assert await authority.refresh() is False
        assert store.held["istio-ca-secret"].data["ca-key.pem"] == key_pem(authority.current.material.key)

    run(scenario())


def test_what_another_istiod_wrote_in_between_wins() -> None:
    async def scenario() -> None:
        store, elsewhere = Secrets(), Secrets()
        winner = await ca.SecretSource(elsewhere, RULES).load()
        store.before_write = lambda: store.put(elsewhere.held["istio-ca-secret"])
        assert (await ca.SecretSource(store, RULES).load()).same(winner)
        assert store.writes == 1

    run(scenario())


def test_races_without_end_are_given_up() -> None:
    class Contended(Secrets):
        async def create(self, secret: ca.Secret) -> None:
            raise ca.SecretConflict("again")

    with pytest.raises(Unavailable, match="istio-ca-secret: lost 5 races"):
        run(_loaded(Contended()))


def test_an_api_server_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Secrets):
        async def get(self, name: str) -> ca.Secret | None:
            await asyncio.sleep(20)
            return None

    monkeypatch.setattr(sources, "SECRET_TIMEOUT_S", 0.05)
    with pytest.raises(DeadlineExceeded, match="Secret istio-ca-secret"):
        run(_loaded(Silent()))


async def _loaded(store: Secrets) -> None:
    await ca.SecretSource(store, RULES).load()


def test_while_the_api_server_is_away_signing_goes_on() -> None:
    async def scenario() -> None:
        store = Secrets()
        authority = await ca.CertificateAuthority.open(ca.SecretSource(store, RULES), LIFETIMES)
        store.fault = Unavailable("the API server is away")
        assert await authority.refresh() is False
        assert authority.sign(new_csr()[0], WEB, 0)

    run(scenario())


def test_an_intermediate_that_a_user_put_into_the_secret_is_used_and_never_renewed() -> None:
    async def scenario() -> None:
        store = Secrets()
        store.put(ca.Secret("cacerts", "Opaque", GOOD))
        renew_all = SelfSigned("cluster.local", DAY, 0.99)
        made = await ca.SecretSource(store, renew_all, name="cacerts").load()
        assert made.certificate == MID.certificate
        assert store.writes == 1

    run(scenario())


def test_a_secret_without_a_bundle_of_an_older_istiod_is_completed() -> None:
    async def scenario() -> None:
        store = Secrets()
        files = {
            "ca-key.pem": key_pem(ROOT.key),
            "ca-cert.pem": ROOT.pem.encode(),
            "key.pem": b"",
            "root-cert.pem": b"",
        }
        store.put(ca.Secret("istio-ca-secret", "istio.io/ca-root", files))
        made = await ca.SecretSource(store, RULES).load()
        assert made.roots == (ROOT.certificate,)

    run(scenario())


def test_checks_are_spread_in_time() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        async for _ in sources.now_and_then(0.02, stop):
            times.append(loop.time())
            if len(times) > 10:
                stop.set()
        waits = [b - a for a, b in itertools.pairwise(times)]
        assert min(waits) >= 0.0095
        assert max(waits) - min(waits) > 0.001

    run(scenario())


def test_temporary_files_do_not_stay(tmp_path: Path) -> None:
    ca.StateDirectory(str(tmp_path), RULES).read()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ca-cert.pem", "ca-key.pem", "root-cert.pem"]
