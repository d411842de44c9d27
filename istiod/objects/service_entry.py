"""ServiceEntry, WorkloadEntry and WorkloadGroup of networking.istio.io."""

from __future__ import annotations

import msgspec

from istiod.objects.base import Condition, ConditionedStatus, Meta, Object


class EntryPort(Object, frozen=True):
    number: int
    name: str = ""
    protocol: str = ""
    target_port: int = 0


class WorkloadEntrySpec(Object, frozen=True):
    """A WorkloadEntry's spec, and an endpoint that stands inline in a ServiceEntry."""

    address: str = ""
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


class WorkloadSelector(Object, frozen=True):
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class ServiceEntrySpec(Object, frozen=True):
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[EntryPort, ...] = ()
    location: str = "MESH_EXTERNAL"
    resolution: str = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Host names are the same in any case, and proxies look for them in small letters."""
        msgspec.structs.force_setattr(self, "hosts", tuple(host.lower() for host in self.hosts))


class EntryAddress(Object, frozen=True):
    value: str = ""
    host: str = ""

    def __post_init__(self) -> None:
        """As the hosts of the spec."""
        msgspec.structs.force_setattr(self, "host", self.host.lower())


class ServiceEntryStatus(Object, frozen=True):
    addresses: tuple[EntryAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class ServiceEntry(Object, frozen=True):
    metadata: Meta
    spec: ServiceEntrySpec = ServiceEntrySpec()
    status: ServiceEntryStatus = ServiceEntryStatus()


class WorkloadEntry(Object, frozen=True):
    metadata: Meta
    spec: WorkloadEntrySpec = WorkloadEntrySpec()
    status: ConditionedStatus = ConditionedStatus()


class TemplateMeta(Object, frozen=True):
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class WorkloadGroupSpec(Object, frozen=True):
    metadata: TemplateMeta = TemplateMeta()
    template: WorkloadEntrySpec = WorkloadEntrySpec()


class WorkloadGroup(Object, frozen=True):
    metadata: Meta
    spec: WorkloadGroupSpec = WorkloadGroupSpec()
    status: ConditionedStatus = ConditionedStatus()
