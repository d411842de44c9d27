"""Where the API server is and how to prove who calls: a service account in a pod, or a kubeconfig.

Reading either is lightkube's; it brings 3 MiB of models with it, so it is imported when credentials are loaded. It
looks up KUBERNETES_SERVICE_HOST and _PORT itself, which are part of the in-cluster convention and no settings.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
import msgspec
import yaml

from meshcore.errors import ConfigError

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_EXEC_VERSIONS: Final = frozenset(("client.authentication.k8s.io/v1alpha1", "client.authentication.k8s.io/v1beta1"))


@dataclass(frozen=True, slots=True)
class Credentials:
    """One API server and one caller. `source` names file and context for error texts; the repr holds no secret."""

    server: str
    """URL without a path, usually."""

    source: str
    namespace: str = "default"
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None: plain HTTP."""

    auth: httpx2.Auth | None = field(default=None, repr=False)


def load(kubeconfig: str = "", context: str = "", *, service_account: str = SERVICE_ACCOUNT) -> Credentials:
    """From the kubeconfig if one is named, else from the pod's service account. Raises ConfigError."""
    if kubeconfig:
        return from_kubeconfig(kubeconfig, context)
    return in_cluster(service_account)


def in_cluster(directory: str = SERVICE_ACCOUNT) -> Credentials:
    """The pod's own account. The token file is read again when the server refuses the old token."""
    from lightkube.config.kubeconfig import KubeConfig

    source = f"service account in {directory}"
    with _explained(source, hint="istiod does not run in a pod, or automountServiceAccountToken is off"):
        config = KubeConfig.from_service_account(directory).get()
    return _credentials(config, source)


def from_kubeconfig(path: str, context: str = "") -> Credentials:
    """One context of a kubeconfig, by default its current one."""
    from lightkube.config.kubeconfig import KubeConfig

    source = f"kubeconfig {path}, context {context or '(current)'}"
    with _explained(source):
        config = KubeConfig.from_file(path).get(context or None)
    if not context and config is not None:
        source = f"kubeconfig {path}, context {config.context_name}"
    return _credentials(config, source)


def direct(server: str, *, token: str = "", ca_file: str = "") -> Credentials:
    """A server by its URL, without a file."""
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.config.models import Cluster, User

    with _explained(server):
        cluster = Cluster(server=server, certificate_auth=ca_file or None)
        config = KubeConfig.from_one(cluster=cluster, user=User(token=token or None)).get()
    return _credentials(config, server)


def _credentials(config: SingleConfig | None, source: str) -> Credentials:
    from lightkube.config.client_adapter import user_auth, verify_cluster
    from lightkube.config.models import User

    if config is None:
        raise ConfigError(f"{source}: no context is selected")
    user = config.user or User()
    if user.exec is not None and user.exec.apiVersion not in _EXEC_VERSIONS:
        raise ConfigError(
            f"{source}: exec: apiVersion {user.exec.apiVersion!r} is not supported, only v1beta1 is; "
            "use a token, a tokenFile or a client certificate"
        )
    server = httpx2.URL(config.cluster.server)
    if server.scheme not in {"http", "https"} or not server.host:
        raise ConfigError(f"{source}: cluster server {config.cluster.server!r} is not an http or https URL")
    with _explained(source):
        if user.token_file is not None:
            user.token_file = str(config.abs_file(user.token_file))
            Path(user.token_file).read_bytes()  # tells now what else the first request would
        auth = user_auth(user)
        secure = server.scheme == "https"
        tls = verify_cluster(config.cluster, user, config.abs_file, trust_env=False) if secure else None
    return Credentials(
        server=str(server),
        source=source,
        namespace=config.namespace.strip(),
        tls=tls,
        auth=None if auth is None else _Explained(auth, source),
    )


class _Explained(httpx2.Auth):
    """Another Auth, whose failures (a token file that vanished, a plugin that failed) become ConfigError."""

    def __init__(self, auth: httpx2.Auth, source: str) -> None:
        self._auth = auth
        self._source = source

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        flow = self._auth.async_auth_flow(request)
        try:
            with _explained(self._source):
                request = await anext(flow)
            while True:
                response = yield request
                with _explained(self._source):
                    request = await flow.asend(response)
        except StopAsyncIteration:
            return
        finally:
            await flow.aclose()


@contextmanager
def _explained(source: str, *, hint: str = "") -> Iterator[None]:
    """Whatever lightkube, YAML or OpenSSL raise, as ConfigError; never with the text of the file, which holds keys."""
    from lightkube.core.exceptions import ConfigError as LightkubeError

    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        cause = f"not YAML{line}: {getattr(error, 'problem', None) or 'cannot be parsed'}"
        raise ConfigError(f"{source}: {cause}") from None
    except KeyError as error:
        raise ConfigError(f"{source}: {error.args[0]!r} is missing or not defined{_because(hint)}") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: not the structure of a kubeconfig ({type(error).__name__})") from error
    except (ssl.SSLError, OSError, ValueError, msgspec.MsgspecError, LightkubeError) as error:
        raise ConfigError(f"{source}: {error}{_because(hint)}") from error


def _because(hint: str) -> str:
    return f"; {hint}" if hint else ""
