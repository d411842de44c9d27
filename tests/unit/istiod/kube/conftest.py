"""The API servers that the tests of the client run against: ours, and the real one where `make kube` built it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import kubernetes
from tests.support.apiserver import KubeApi, api_server

REAL_START_S = 120  # pytest's limit where the first test also starts the server


@pytest.fixture(
    params=[
        "fake",
        pytest.param("real", marks=(pytest.mark.interop, pytest.mark.timeout(REAL_START_S))),
    ]
)
def kube_api(request: pytest.FixtureRequest) -> Iterator[KubeApi]:
    """Either server. A test takes a namespace of its own and asks for nothing that only one of them has."""
    if request.param == "real":
        server = kubernetes.shared(request.config)
        yield KubeApi(server.url, server.token, str(server.ca_file))
        return
    with api_server(token="admin-token") as api:
        yield api


@pytest.fixture
def fake_api() -> Iterator[KubeApi]:
    """Ours, for tests that need its faults."""
    with api_server(token="admin-token") as api:
        yield api
