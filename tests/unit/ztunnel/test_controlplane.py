"""How a ztunnel presents itself to istiod."""

from __future__ import annotations

import pytest

from ztunnel import config
from ztunnel.controlplane import _node


@pytest.mark.parametrize(
    ("environment", "id_", "namespace"),
    [
        (
            {"POD_NAME": "ztunnel-x7k", "POD_NAMESPACE": "mesh", "INSTANCE_IP": "10.0.0.9"},
            "ztunnel~10.0.0.9~ztunnel-x7k.mesh~mesh.svc.cluster.local",
            "mesh",
        ),
        (
            {"INSTANCE_IP": "10.0.0.9"},
            "ztunnel~10.0.0.9~ztunnel-node-1.istio-system~istio-system.svc.cluster.local",
            "istio-system",
        ),
    ],
)
def test_a_ztunnel_is_named_after_its_pod_or_its_node(environment: dict[str, str], id_: str, namespace: str) -> None:
    node = _node(config.load({"NODE_NAME": "node-1", **environment}))
    assert (node.id, node.namespace, node.node) == (id_, namespace, "node-1")
