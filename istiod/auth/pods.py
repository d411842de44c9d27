"""Which service accounts run where: what the node authorizer asks."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """Where a pod is; `node` is empty until it is scheduled."""

    uid: str
    node: str


class PodIndex(Protocol):
    """The pods of one cluster. Both questions are answered in constant time."""

    def running(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod there that has not failed uses the service account."""

    def place(self, namespace: str, name: str) -> Place | None: ...
