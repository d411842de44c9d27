"""Kubeconfigs and service accounts, good ones and each kind of bad one."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from istiod.kube.client import KubeClient
from istiod.kube.credentials import direct, from_kubeconfig, in_cluster, load
from istiod.kube.errors import Unauthorized
from meshcore.errors import ConfigError, Unavailable
from tests.support.apiserver import api_server
from tests.support.pki import self_signed_server
from tests.unit.istiod.kube.support import NAMESPACE, control_of, run

SECRET = "s3cret-t0ken"
Obj = dict[str, Any]


def kubeconfig(server: str = "https://127.0.0.1:6443", *, cluster: Obj | None = None, user: Obj | None = None) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server} | (cluster or {})}],
        "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "istio-system"}},
            {"name": "there", "context": {"cluster": "elsewhere", "user": "u"}},
            {"name": "nobody", "context": {"cluster": "c"}},
        ],
    }


def written(folder: Path, content: Obj | str) -> str:
    path = folder / "config"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_kubeconfig_says_where_and_who(tmp_path: Path) -> None:
    path = written(tmp_path, kubeconfig("http://127.0.0.1:1"))
    credentials = load(path)
    assert (credentials.server, credentials.namespace) == ("http://127.0.0.1:1", "istio-system")
    assert credentials.source == f"kubeconfig {path}, context here"
    assert credentials.auth is not None
    assert SECRET not in repr(credentials)
    assert from_kubeconfig(path, "nobody").auth is None


@pytest.mark.parametrize(
    ("content", "context", "cause"),
    [
        (None, "", "not found"),
        ("a: [", "", "not YAML, line 1"),
        (f"token: {SECRET}\n\tx: 1", "", "not YAML, line 2"),
        ("", "", "not the structure"),
        ({"clusters": []}, "", "'contexts' is missing"),
        (kubeconfig() | {"current-context": None}, "", "[Nn]o .*context"),
        (kubeconfig(), "nowhere", "Context 'nowhere' not found"),
        (kubeconfig(), "there", "'elsewhere' is missing or not defined"),
        (kubeconfig() | {"users": []}, "", "'u' is missing or not defined"),
        (kubeconfig("tcp://1.2.3.4"), "", "'tcp://1.2.3.4' is not an http or https URL"),
        (kubeconfig(cluster={"server": 7}), "", "Expected `str`, got `int`"),
        (kubeconfig(cluster={"certificate-authority": "ca.crt"}), "", "No such file"),
        (kubeconfig(cluster={"certificate-authority-data": "bm90IGEgY2VydA=="}), "", "certificate"),
        (kubeconfig(cluster={"certificate-authority-data": "%"}), "", "base64|padding|certificate"),
        (kubeconfig(user={"tokenFile": "token"}), "", "No such file.*token"),
        (kubeconfig(user={"client-certificate": "a.crt", "client-key": "a.key"}), "", "No such file"),
        (kubeconfig(user={"client-certificate": "a.crt"}), "", "not the structure|missing|No such file"),
        (kubeconfig(user={"auth-provider": {"name": "oidc"}}), "", "auth-provider not supported"),
        (
            kubeconfig(user={"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x"}}),
            "",
            "exec: apiVersion .* is not supported",
        ),
    ],
)
def test_a_bad_kubeconfig_is_named_with_its_cause(
    tmp_path: Path, content: Obj | str | None, context: str, cause: str
) -> None:
    path = str(tmp_path / "config") if content is None else written(tmp_path, content)
    with pytest.raises(ConfigError, match=cause) as caught:
        from_kubeconfig(path, context)
    assert str(caught.value).startswith(f"kubeconfig {path}, context ")
    assert SECRET not in str(caught.value)


def test_outside_of_a_pod_there_is_no_service_account(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="istiod does not run in a pod"):
        in_cluster(str(tmp_path))


def test_a_pod_without_the_service_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "namespace").write_text("istio-system")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST"):
        load(service_account=str(tmp_path))


def test_a_service_account_is_read_and_its_token_again_when_it_was_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = tls_server(tmp_path)
    token = tmp_path / "token"
    token.write_text("first")
    (tmp_path / "namespace").write_text("istio-system\n")
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    with api_server(token="first", tls=context, ca_file=str(certificate)) as api:
        host, _, port = api.url.removeprefix("https://").partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)

        async def scenario() -> None:
            credentials = load(service_account=str(tmp_path))
            assert (credentials.server, credentials.namespace) == (api.url, "istio-system")
            async with KubeClient(credentials, timeout=10) as client:

                async def found() -> str:
                    try:
                        return (await client.get(NAMESPACE, "", "default")).name
                    except (Unauthorized, ConfigError) as error:
                        return type(error).__name__

                assert await found() == "default"
                control_of(api).set_token("second")
                assert await found() == "Unauthorized"
                token.write_text("second")
                assert await found() == "default"
                control_of(api).set_token("third")
                token.unlink()
                assert await found() == "ConfigError"

        run(scenario())


def test_a_server_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    _, context = tls_server(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = tls_server(tmp_path / "other")

    async def scenario() -> None:
        with api_server(tls=context) as api:
            async with KubeClient(direct(api.url, ca_file=str(other))) as client:
                with pytest.raises(Unavailable, match="certificate verify failed"):
                    await client.get(NAMESPACE, "", "default")

    run(scenario())


def test_a_client_certificate_in_a_kubeconfig_is_presented(tmp_path: Path) -> None:
    certificate, context = tls_server(tmp_path)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    ca = base64.b64encode(certificate.read_bytes()).decode()
    key = base64.b64encode((tmp_path / "server.key").read_bytes()).decode()

    async def scenario() -> None:
        with api_server(tls=context) as api:
            cluster = {"certificate-authority-data": ca}
            user = {"client-certificate-data": ca, "client-key-data": key}
            path = written(tmp_path, kubeconfig(api.url, cluster=cluster, user=user))
            async with KubeClient(from_kubeconfig(path)) as client:
                assert (await client.get(NAMESPACE, "", "default")).name == "default"
            path = written(tmp_path, kubeconfig(api.url, cluster=cluster, user={}))
            async with KubeClient(from_kubeconfig(path)) as client:
                with pytest.raises(Unavailable):
                    await client.get(NAMESPACE, "", "default")

    run(scenario())


def test_a_plugin_brings_the_token_or_a_plain_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        with api_server(token=SECRET) as api:
            for script, outcome in (
                (f"""echo '{{"status":{{"token":"{SECRET}"}}}}'""", "default"),
                ("echo not logged in >&2; exit 3", "not logged in"),
                ("echo no json", "Expecting value"),
                ("""echo '{"status":{}}'""", "'token' is missing"),
            ):
                run_by = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "sh", "args": ["-c", script]}
                path = written(tmp_path, kubeconfig(api.url, user={"exec": run_by}))
                async with KubeClient(from_kubeconfig(path)) as client:
                    try:
                        said = (await client.get(NAMESPACE, "", "default")).name
                    except ConfigError as error:
                        said = str(error)
                        assert said.startswith(f"kubeconfig {path}, context here: ")
                assert outcome in said

    run(scenario())


def tls_server(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """-> (a certificate for 127.0.0.1 that vouches for itself, the server's context); the key is server.key."""
    certificate, key = self_signed_server()
    (folder / "server.key").write_bytes(key)
    (folder / "server.crt").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return folder / "server.crt", context
