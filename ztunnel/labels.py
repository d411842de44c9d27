"""Who talked to whom, for metrics and the access log.

A `LabelSet` says it once; its rendering as Prometheus labels and as the two fragments of an
access line is done here, by the control process, so that a worker only copies bytes and counts.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from meshcore.identity import SCHEME
from meshcore.model import Service, Workload
from meshcore.records import Flag
from ztunnel.baggage import Baggage

UNKNOWN: Final = "unknown"
SECURITY_MUTUAL_TLS: Final = "mutual_tls"
_VALUE_MAX: Final = 512  # characters of one value in a log fragment; a fragment's length is a u16

# JSON leaves these as they are, a terminal may act on them.
_CONTROLS: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


class Party(NamedTuple):
    """One side of a connection; "" is unknown. `pod` and `identity` name it in the log."""

    pod: str = ""
    workload: str = ""
    canonical: str = ""
    revision: str = ""
    namespace: str = ""
    principal: str = ""
    app: str = ""
    cluster: str = ""
    region: str = ""
    zone: str = ""

    @classmethod
    def of(cls, workload: Workload, principal: str) -> Party:
        locality = workload.locality
        return cls(
            workload.name,
            workload.workload_name,
            workload.canonical_name,
            workload.canonical_revision,
            workload.namespace,
            principal,
            workload.canonical_name,
            workload.cluster_id,
            locality.region if locality else "",
            locality.zone if locality else "",
        )

    @classmethod
    def of_baggage(cls, baggage: Baggage, principal: str) -> Party:
        """A side that is known by what it says of itself; then its app is its workload name."""
        return cls(
            "",
            baggage.workload,
            baggage.service,
            baggage.revision,
            baggage.namespace,
            principal,
            baggage.workload,
            baggage.cluster,
            baggage.region,
            baggage.zone,
        )

    @property
    def known(self) -> bool:
        """More is known than an identity: then the region labels are shown."""
        return any(self[:5]) or any(self[6:])


NOBODY: Final = Party()


class Target(NamedTuple):
    """The service a client meant; labels destination_service, _namespace and _name."""

    hostname: str = ""
    namespace: str = ""
    name: str = ""

    @classmethod
    def of(cls, service: Service | None) -> Target:
        return cls() if service is None else cls(service.hostname, service.namespace, service.name)


class LabelSet(NamedTuple):
    """All that telemetry says about one kind of connection."""

    reporter: str
    """`source` for outbound, `destination` for inbound."""
    source: Party
    destination: Party
    service: Target
    mutual_tls: bool

    @property
    def metric(self) -> LabelSet:
        """Without what only the log shows: equal for all pods of one workload."""
        return self._replace(source=self.source._replace(pod=""), destination=self.destination._replace(pod=""))


OVERFLOW: Final = LabelSet("", NOBODY, NOBODY, Target(), mutual_tls=False)


class Series(NamedTuple):
    """TRAFFIC labels as Prometheus text, cut where `response_flags` goes."""

    before: str
    after: str

    def text(self, flag: Flag) -> str:
        return f'{self.before},response_flags="{flag.label}",{self.after}'


def series(labels: LabelSet) -> Series:
    """Render the TRAFFIC labels, in upstream's order; unknown values are `unknown`."""
    source, destination, service = labels.source, labels.destination, labels.service
    before = (
        ("reporter", labels.reporter),
        *_party_labels("source", source),
        ("destination_service", service.hostname),
        ("destination_service_namespace", service.namespace),
        ("destination_service_name", service.name),
        *_party_labels("destination", destination),
        ("request_protocol", "tcp"),
    )
    after = [("connection_security_policy", SECURITY_MUTUAL_TLS if labels.mutual_tls else "")]
    if source.known or destination.known:
        after += [
            ("source_region", source.region),
            ("source_zone", source.zone),
            ("destination_region", destination.region),
            ("destination_zone", destination.zone),
        ]
    return Series(_prometheus(before), _prometheus(after))


def fragments(labels: LabelSet, *, json: bool) -> tuple[bytes, bytes]:
    """The source and the destination part of an access line; what is unknown is left out.

    Plain parts are `key="value"` separated by blanks; JSON parts are `"key":"value"` separated by commas.
    """
    source, destination = labels.source, labels.destination
    direction = "outbound" if labels.reporter == "source" else "inbound"
    return (
        _log(
            (
                ("src.workload", source.pod or source.canonical),
                ("src.namespace", source.namespace),
                ("src.identity", source.principal),
                ("src.cluster", source.cluster),
            ),
            json=json,
        ),
        _log(
            (
                ("dst.service", labels.service.hostname),
                ("dst.workload", destination.pod or destination.canonical),
                ("dst.namespace", destination.namespace),
                ("dst.identity", destination.principal),
                ("dst.cluster", destination.cluster),
                ("direction", direction if labels.reporter else ""),
            ),
            json=json,
        ),
    )


def principal(workload: Workload) -> str:
    """The SPIFFE URI of a workload."""
    return f"{SCHEME}{workload.trust_domain}/ns/{workload.namespace}/sa/{workload.service_account}"


def _party_labels(side: str, party: Party) -> tuple[tuple[str, str], ...]:
    return (
        (f"{side}_workload", party.workload),
        (f"{side}_canonical_service", party.canonical),
        (f"{side}_canonical_revision", party.revision),
        (f"{side}_workload_namespace", party.namespace),
        (f"{side}_principal", party.principal),
        (f"{side}_app", party.app),
        (f"{side}_version", party.revision),
        (f"{side}_cluster", party.cluster),
    )


def _prometheus(pairs: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    return ",".join(f'{key}="{_label_value(value or UNKNOWN)}"' for key, value in pairs)


def _label_value(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _log(pairs: tuple[tuple[str, str], ...], *, json: bool) -> bytes:
    if json:
        return b",".join(b'"%s":%s' % (key.encode(), _quote(value)) for key, value in pairs if value)
    return b" ".join(b"%s=%s" % (key.encode(), _quote(value)) for key, value in pairs if value)


def _quote(value: str) -> bytes:
    """A JSON string; also the quoting of the plain form, so a value can never end its line."""
    text = msgspec.json.encode(value[:_VALUE_MAX]).decode()
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
