"""What the pages about a running istiod may look at: `istiod.app.Istiod`, seen from below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from istiod.ca import CertificateAuthority
from istiod.config import Settings
from istiod.duties import Duties
from istiod.intake import Intake
from istiod.kube.lease import LeaderElection
from istiod.kube.reflector import Reflector
from istiod.metrics import Metrics
from istiod.proxy import Proxy
from istiod.push import Published, Pusher
from istiod.store import Store
from istiod.translate.mesh import Translator


class Parts(Protocol):
    """Only to be read."""

    settings: Settings
    metrics: Metrics
    authority: CertificateAuthority
    store: Store
    intake: Intake
    published: Published
    pusher: Pusher
    translator: Translator | None
    duties: Duties | None

    @property
    def uptime(self) -> float:
        """Seconds."""

    @property
    def waiting_for(self) -> str:
        """Why istiod is not ready; empty when it is."""

    @property
    def proxies(self) -> Mapping[int, Proxy]:
        """Those that are connected."""

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """One for each kind that is read from an API server."""

    @property
    def election(self) -> LeaderElection | None:
        """Of the istiod that writes; None where nobody else could."""
